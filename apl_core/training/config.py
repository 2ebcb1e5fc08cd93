"""Settings of a training run: one frozen dataclass, read from and written to TOML."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, get_args

from ..errors import ConfigError
from ..example_kinds import KINDS, Kind, Target, Weighting
from ..tokens import MAX_ROWS
from .renamed import renamed

MAX_SNR = 1e9
"""Every noise level there is has less signal than this for its noise."""

LEAST_RATE = 0.1
"""A smaller step size is an absolute one, of an earlier version."""


def setting(
    group: str,
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of `TrainConfig` with its help, and the range of its number or its choices."""
    about = {"group": group, "help": help, "min": low, "max": high, "choices": tuple(choices)}
    return field(default=default, metadata=about)


def allowed(setting: Field[Any]) -> str:
    """What a setting takes, in words."""
    about = setting.metadata
    return ", ".join(about["choices"]) or f"{about['min']:,} to {about['max']:,}"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run learns; two runs with equal settings are equal."""

    recipe: str = setting(
        "run", "apl", "The step: ours, or the authors' of the paper", choices=("apl", "paper")
    )
    seed: int = setting("run", 0, "Decides first vectors, examples and noise", 0, 2**31 - 1)
    num_vectors: int = setting(
        "prefix", 32, "Vectors of the prefix. Each takes the place of one token", 1, MAX_ROWS
    )
    num_suffix_vectors: int = setting(
        "prefix", 10, "How many of them stand behind the text instead of in front", 0, MAX_ROWS
    )
    target: str = setting(
        "loss",
        "person",
        "What a name is drawn to: its description, a person, or what the empty prompt gives",
        choices=get_args(Target),
    )
    repulsion: float = setting(
        "loss", 0.5, "Pushes away from what the frozen model draws for the name", 0, 10
    )
    weighting: str = setting(
        "loss",
        "x0",
        "Errors are measured on the noise (eps) or on the clean latent (x0)",
        choices=get_args(Weighting),
    )
    max_snr: float = setting(
        "loss",
        0.2,
        "Prompts with a name are learned at noise levels of at most this signal-to-noise ratio",
        1e-9,
        MAX_SNR,
    )
    max_snr_free: float = setting("loss", 2.5, "The same for prompts without a name", 1e-9, MAX_SNR)
    weight_identity: float = setting("loss", 1.0, "Weight of prompts with a name", 0, 1000)
    weight_things: float = setting("loss", 3.5, "Weight of name-free scenes", 0, 1000)
    weight_people: float = setting("loss", 3.1, "Weight of name-free people", 0, 1000)
    weight_contrast: float = setting(
        "loss", 0.14, "Weight of what is left of a name, beside the error in the picture", 0, 1000
    )
    weight_contrast_free: float = setting(
        "loss",
        0.27,
        "The same for a word of a name-free prompt that turns into a swapped one",
        0,
        1000,
    )
    proportion_empty_prompts: float = setting(
        "batch", 0.0, "Share of name-free examples whose text is taken away", 0, 1
    )
    batch_identity: int = setting("batch", 10, "Examples of names per step", 1, 4096)
    batch_things: int = setting("batch", 6, "Examples of name-free scenes per step", 0, 4096)
    batch_people: int = setting("batch", 8, "Examples of name-free people per step", 0, 4096)
    micro_batch: int = setting(
        "speed",
        0,
        "Examples at once: less needs less memory and more time; 0: as many as fit",
        0,
        4096,
    )
    steps: int = setting("optimizer", 375, "Training steps; 0: the text stage alone", 0, 10_000_000)
    max_steps: int = setting(
        "optimizer",
        1125,
        "Where more than a twentieth of names is left after `steps`, the rate rises again and the "
        "run goes on to this step. Of a run whose `steps` are given 0: it ends",
        0,
        10_000_000,
    )
    optimizer: str = setting(
        "optimizer", "muon", "What moves the vectors", choices=("adam", "muon")
    )
    learning_rate: float = setting(
        "optimizer",
        2.8,
        "Step size, where it is highest, in lengths of a token embedding (the median); the "
        "paper's is absolute",
        1e-9,
        1000,
    )
    backtrack: float = setting(
        "optimizer",
        0.5,
        "Error of name-free prompts, as a share of what another caption changes, at which a step "
        "is taken back and the step size halved; 0: never",
        0,
        1000,
    )
    lr_warmup_steps: int = setting(
        "optimizer", 10, "Steps in which the rate rises to its highest", 0, 1_000_000
    )
    lr_scheduler: str = setting(
        "optimizer",
        "cosine",
        "The rate falls to 0 along a cosine, or stays",
        choices=("cosine", "constant"),
    )
    max_grad_norm: float = setting(
        "optimizer", 0.0, "Longest gradient; 0: any length", 0, 1_000_000
    )
    prefix_init: str = setting(
        "prefix",
        "words",
        "First vectors: of random words, as scattered as words, or in [0, 1) as the paper's",
        choices=("words", "normal", "uniform"),
    )
    text_steps: int = setting(
        "optimizer", 0, "Steps on text encodings alone, before the first real one", 0, 1_000_000
    )
    target_cache: int = setting(
        "speed", 960, "Targets that are kept and learned from again; 0: none", 0, 1_000_000
    )
    target_cache_uses: int = setting(
        "speed", 0, "Steps after which kept targets are made anew; 0: never", 0, 1_000_000
    )
    mixed_precision: str = setting("speed", "no", "Mixed precision", choices=("no", "bf16", "fp16"))
    validate_every: int = setting(
        "validation", 125, "Steps between validations and previews; 0: none", 0, 10_000_000
    )
    patience: int = setting(
        "validation", 3, "Validations without a gain after which a run ends; 0: never", 0, 10_000
    )
    save_every: int = setting(
        "validation", 50, "Steps between saved states to resume from", 1, 10_000_000
    )

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
        """Those of them with a teacher's prediction of their own: all, or one cache of them."""
        kept = self.target_cache and not self.target_cache_uses
        return min(self.target_cache, self.samples) if kept else self.samples

    @property
    def weights(self) -> dict[Kind, float]:
        """Weight of each kind of example in the loss."""
        return dict(
            zip(KINDS, (self.weight_identity, self.weight_things, self.weight_people), strict=True)
        )

    @property
    def contrasts(self) -> dict[Kind, float]:
        """Weight of the contrast of each kind of example."""
        free = self.weight_contrast_free
        return dict(zip(KINDS, (self.weight_contrast, free, free), strict=True))

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
        Given `steps` are all there are, unless `max_steps` is given too. Names of an earlier
        version are read, and told.
        """
        given = renamed(given)
        if "steps" in given:
            given.setdefault("max_steps", 0)
        if given.get("micro_batch") == "auto":
            given["micro_batch"] = 0
        problems = _type_faults(given)
        wrong = {problem.asked for problem in problems}
        sound = {name: value for name, value in given.items() if f"set {name}" not in wrong}
        ours = base or TrainConfig()
        config = dataclasses.replace(PAPER if given.get("recipe") == "paper" else ours, **sound)
        problems += _value_faults(config)
        if problems:
            raise ConfigError.of("read the training settings", problems)
        return config


@dataclass(frozen=True)
class Preset:
    """How long to learn, in words, and the settings that say so."""

    title: str
    settings: Mapping[str, int]


PRESETS: Mapping[str, Preset] = {
    "quick": Preset("Quick look: 125 steps", {"steps": 125}),
    "standard": Preset("Standard: 375 steps, up to 1,125 while names are left", {}),
    "thorough": Preset(
        "Thorough: up to 1,250 steps, until nothing more is gained", {"steps": 1250}
    ),
}
"""The same in every host; all else is the recipe's."""


PER_NAME, PICTURE_STEPS = 4, 20
"""Pictures of each name that a model draws to learn on, and sampling steps of one."""


def preset(key: str) -> TrainConfig:
    """The recipe with the steps of a preset; ConfigError if there is none of this name."""
    if key not in PRESETS:
        raise ConfigError(
            f"take the preset {key!r}", "there is none", f"take one of {', '.join(PRESETS)}"
        )
    return TrainConfig.from_mapping(PRESETS[key].settings)


PAPER = TrainConfig(
    recipe="paper",
    num_vectors=10,
    num_suffix_vectors=0,
    target="empty",
    repulsion=0.0,
    weighting="eps",
    max_snr=MAX_SNR,
    max_snr_free=MAX_SNR,
    weight_contrast=0.0,
    weight_contrast_free=0.0,
    weight_identity=1.0,
    weight_things=1.0,
    weight_people=1.0,
    batch_identity=1,
    batch_things=1,
    batch_people=0,
    steps=10_000,
    max_steps=0,
    optimizer="adam",
    learning_rate=1e-3,
    backtrack=0.0,
    lr_warmup_steps=0,
    lr_scheduler="constant",
    prefix_init="uniform",
    target_cache=0,
    validate_every=500,
    patience=0,
    save_every=500,
)
"""The authors' step: batch 1 by a coin between identity and general, Adam 1e-3, no schedule."""

SETTINGS: Mapping[str, Field[Any]] = {f.name: f for f in fields(TrainConfig)}
"""Every setting as it is declared, by its name."""


def _fault(name: str, found: str, fix: str) -> ConfigError:
    return ConfigError(f"set {name}", found, fix)


def _type_faults(given: Mapping[str, Any]) -> list[ConfigError]:
    problems: list[ConfigError] = []
    kinds: dict[str, type[object]] = {name: type(f.default) for name, f in SETTINGS.items()}
    for name, value in given.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(kinds)}"
            problems.append(_fault(name, "there is no such setting", fix))
        elif not _is_a(value, kinds[name]):
            found = f"{value!r} is a {type(value).__name__}"
            problems.append(_fault(name, found, f"give a {kinds[name].__name__}"))
    return problems


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _value_faults(config: TrainConfig) -> list[ConfigError]:
    problems: list[ConfigError] = []
    for name, declared in SETTINGS.items():
        value, about = getattr(config, name), declared.metadata
        if about["choices"] and value not in about["choices"]:
            near = difflib.get_close_matches(value, about["choices"], 1)
            fix = f"it takes one of {allowed(declared)}"
            fix = f"did you mean {near[0]}? {fix[0].upper()}{fix[1:]}" if near else fix
            problems.append(_fault(name, f"{value!r} is not known", fix))
        elif not about["choices"] and not (
            math.isfinite(value) and about["min"] <= value <= about["max"]
        ):
            problems.append(_fault(name, f"{value} is out of range", f"give {allowed(declared)}"))
    paper = config.recipe == "paper"
    rules: list[tuple[bool, str, str, str]] = [
        (
            not paper and 0 < config.learning_rate < LEAST_RATE,
            "learning_rate",
            f"{config.learning_rate:g} is counted in lengths of a token embedding now, and far too "
            "small",
            f"take the recipe's own, {TrainConfig.learning_rate}: it fits every model",
        ),
        (
            config.num_suffix_vectors > config.num_vectors,
            "num_suffix_vectors",
            f"{config.num_suffix_vectors} of {config.num_vectors} vectors "
            "cannot stand behind the text",
            "at most as many as num_vectors",
        ),
        (
            0 < config.target_cache < config.batch,
            "target_cache",
            f"{config.target_cache} examples do not fill a batch",
            f"at least {config.batch}, or 0 for no cache",
        ),
        (
            paper and config.repulsion > 0,
            "repulsion",
            "the paper's step has none that counts",
            "leave it at 0",
        ),
        (
            paper and config.proportion_empty_prompts > 0,
            "proportion_empty_prompts",
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
