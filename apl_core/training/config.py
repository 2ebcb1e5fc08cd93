"""Settings of a training run: one frozen dataclass, read from and written to TOML."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import ConfigError
from ..example_kinds import KINDS, Kind
from ..tokens import MAX_ROWS


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run learns; two runs with equal settings are equal."""

    recipe: str = "apl"
    seed: int = 0
    vectors: int = 10
    behind: int = 5
    target: str = "person"
    repulsion: float = 0.5
    weighting: str = "eps"
    lowest_t: int = 0
    lowest_t_free: int = 0
    weight_identity: float = 1.0
    weight_things: float = 1.5
    weight_people: float = 4.0
    contrast: float = 0.0
    empty: float = 0.0
    batch_identity: int = 14
    batch_things: int = 8
    batch_people: int = 14
    micro_batch: int = 0
    steps: int = 300
    optimizer: str = "adam"
    rate: float = 0.03
    warmup: int = 10
    decay: str = "cosine"
    clip: float = 0.0
    init: str = "words"
    warm_steps: int = 0
    pool: int = 512
    pool_uses: int = 0
    autocast: str = "off"
    check_every: int = 45
    patience: int = 0
    save_every: int = 50

    @property
    def batch(self) -> int:
        """Examples per step."""
        return self.batch_identity + self.batch_things + self.batch_people

    @property
    def samples(self) -> int:
        """Examples that a whole run learns from; the paper's step takes one."""
        return self.steps * (1 if self.recipe == "paper" else self.batch)

    @property
    def num_targets(self) -> int:
        """Those of them with a teacher's prediction of their own: all, or one pool of them."""
        kept = self.pool and not self.pool_uses
        return min(self.pool, self.samples) if kept else self.samples

    @property
    def weights(self) -> dict[Kind, float]:
        """Weight of each kind of example in the loss."""
        return dict(
            zip(KINDS, (self.weight_identity, self.weight_things, self.weight_people), strict=True)
        )

    @property
    def counts(self) -> dict[Kind, int]:
        """Examples of each kind in a batch."""
        return dict(
            zip(KINDS, (self.batch_identity, self.batch_things, self.batch_people), strict=True)
        )

    def to_toml(self) -> str:
        """The settings as a TOML document that `from_mapping` reads back."""
        rows = ((f.name, getattr(self, f.name)) for f in fields(self))
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in rows)

    @staticmethod
    def from_mapping(given: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
        """Names and values over the recipe's defaults; ConfigError tells all faults.

        `base` replaces the defaults of the recipe `apl`, for models that learn better otherwise.
        `micro_batch` may be "auto", which is 0: all at once, and fewer when memory runs out.
        """
        if given.get("micro_batch") == "auto":
            given = {**given, "micro_batch": 0}
        problems = _type_faults(given)
        wrong = {problem.asked for problem in problems}
        sound = {name: value for name, value in given.items() if f"set {name}" not in wrong}
        ours = base or TrainConfig()
        config = dataclasses.replace(PAPER if given.get("recipe") == "paper" else ours, **sound)
        problems += _value_faults(config)
        if problems:
            raise ConfigError.of("read the training settings", problems)
        return config


PAPER = TrainConfig(
    recipe="paper",
    vectors=10,
    behind=0,
    target="empty",
    repulsion=0.0,
    weight_identity=1.0,
    weight_things=1.0,
    weight_people=1.0,
    batch_identity=1,
    batch_things=1,
    batch_people=0,
    steps=10_000,
    rate=1e-3,
    warmup=0,
    decay="constant",
    init="uniform",
    pool=0,
    check_every=500,
    save_every=500,
)
"""The authors' step: batch 1 by a coin between identity and general, Adam 1e-3, no schedule."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "recipe": ("apl", "paper"),
    "target": ("description", "person", "empty"),
    "weighting": ("eps", "x0"),
    "optimizer": ("adam", "muon"),
    "decay": ("cosine", "constant"),
    "init": ("words", "normal", "uniform"),
    "autocast": ("off", "bf16", "fp16"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "vectors": (1, MAX_ROWS),
    "behind": (0, MAX_ROWS),
    "repulsion": (0, 10),
    "lowest_t": (0, 900),
    "lowest_t_free": (0, 900),
    "weight_identity": (0, 1e3),
    "weight_things": (0, 1e3),
    "weight_people": (0, 1e3),
    "contrast": (0, 1e3),
    "empty": (0, 1),
    "batch_identity": (1, 4096),
    "batch_things": (0, 4096),
    "batch_people": (0, 4096),
    "micro_batch": (0, 4096),
    "steps": (1, 10_000_000),
    "rate": (1e-9, 10),
    "warmup": (0, 1_000_000),
    "clip": (0, 1e6),
    "warm_steps": (0, 1_000_000),
    "pool": (0, 1_000_000),
    "pool_uses": (0, 1_000_000),
    "check_every": (0, 10_000_000),
    "patience": (0, 10_000),
    "save_every": (1, 10_000_000),
}


def _fault(name: str, found: str, fix: str) -> ConfigError:
    return ConfigError(f"set {name}", found, fix)


def _type_faults(given: Mapping[str, Any]) -> list[ConfigError]:
    known: dict[str, type[object]] = {f.name: type(f.default) for f in fields(TrainConfig)}
    problems: list[ConfigError] = []
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            problems.append(_fault(name, "there is no such setting", fix))
        elif not _is_a(value, known[name]):
            found = f"{value!r} is a {type(value).__name__}"
            problems.append(_fault(name, found, f"give a {known[name].__name__}"))
    return problems


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _value_faults(config: TrainConfig) -> list[ConfigError]:
    problems: list[ConfigError] = []
    for name, options in _CHOICES.items():
        choice: str = getattr(config, name)
        if choice not in options:
            near = difflib.get_close_matches(choice, options, 1)
            known = f"one of {', '.join(options)}"
            fix = f"did you mean {near[0]}? It takes {known}" if near else f"it takes {known}"
            problems.append(_fault(name, f"{choice!r} is not known", fix))
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and low <= value <= high):
            problems.append(_fault(name, f"{value} is out of range", f"give {low} to {high}"))
    paper = config.recipe == "paper"
    rules: list[tuple[bool, str, str, str]] = [
        (
            config.behind > config.vectors,
            "behind",
            f"{config.behind} of {config.vectors} vectors cannot stand behind the text",
            "at most as many as vectors",
        ),
        (
            0 < config.pool < config.batch,
            "pool",
            f"{config.pool} examples do not fill a batch",
            f"at least {config.batch}, or 0 for no pool",
        ),
        (
            config.patience > 0 and not config.check_every,
            "patience",
            "nothing is measured with check_every = 0",
            "give check_every, or patience = 0",
        ),
        (
            paper and config.repulsion > 0,
            "repulsion",
            "the paper's step has none that counts",
            "leave it at 0",
        ),
        (
            paper and config.empty > 0,
            "empty",
            "the paper's step has no empty texts",
            "leave it at 0",
        ),
        (
            paper and not config.batch_things,
            "batch_things",
            "the paper's coin falls on general examples half of the time",
            "give 1 or more",
        ),
        (
            paper and config.optimizer != "adam",
            "optimizer",
            "the paper's step is Adam's",
            "leave it at adam",
        ),
        (
            paper and config.batch_people > 0,
            "batch_people",
            "the paper's coin knows identity and general examples only",
            "leave it at 0",
        ),
    ]
    problems += [_fault(name, found, fix) for wrong, name, found, fix in rules if wrong]
    return problems
