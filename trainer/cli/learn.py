"""`apl train` and `apl resume`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apl_core.errors import ConfigError, RunError

from .common import Verbs, add_model, load_model, verb

if TYPE_CHECKING:
    from apl_core.training.config import TrainConfig

_FLAGS = {
    "recipe": str, "target": str, "steps": int, "rate": float, "vectors": int, "behind": int,
    "seed": int,
}  # fmt: skip


def add(verbs: Verbs) -> None:
    """Add `train` and `resume`."""
    train = verb(
        verbs, "train", run_train, "learn a prefix into a run folder",
        "apl train --target description --steps 400 --out runs/mine",
    )  # fmt: skip
    add_model(train)
    train.add_argument("--out", type=Path, required=True, help="the run's folder; must be new")
    train.add_argument("--config", type=Path, help="settings as TOML (flags win over it)")
    train.add_argument("--names", type=Path, help="text file of names to learn from, one a line")
    train.add_argument("--start", type=Path, help="a prefix file to go on from")
    for name, kind in _FLAGS.items():
        train.add_argument(f"--{name}", type=kind, default=None, help=f"setting `{name}`")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting"
    )
    train.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    resume = verb(
        verbs, "resume", run_resume, "go on with a run that was stopped or killed",
        "apl resume runs/mine",
    )  # fmt: skip
    resume.add_argument("folder", type=Path, help="the run's folder")


def run_train(given: argparse.Namespace) -> int:
    """Learn a prefix from the beginning."""
    from apl_core.formats import read_prefix
    from apl_core.training.config import TrainConfig
    from apl_core.training.folder import RunFolder

    from ..data.names import read_names
    from ..pocket.learn import POCKET, Origin, chosen_people

    config = TrainConfig.from_mapping(_settings(given), POCKET)
    if given.dry_run:
        print(config.to_toml(), end="")
        return 0
    names = None if given.names is None else read_names(given.names)
    start = None if given.start is None else read_prefix(given.start)
    model = load_model(given.model)
    chosen_people(model.world, names)
    folder = RunFolder(given.out)
    folder.create(config)
    origin = Origin(str(model.folder), names)
    origin.save(folder)
    return _go(folder, config, origin, start)


def run_resume(given: argparse.Namespace) -> int:
    """Go on with a run from its last saved state."""
    from apl_core.training.config import TrainConfig
    from apl_core.training.folder import RunFolder

    from ..pocket.learn import Origin

    folder = RunFolder(given.folder)
    if not folder.config.is_file():
        raise RunError(
            f"resume {given.folder}", "there is no run in this folder (no config.toml)",
            "give the folder that `apl train --out` made",
        )  # fmt: skip
    config = TrainConfig.from_mapping(_toml(folder.config))
    return _go(folder, config, Origin.of(folder), None)


def _go(folder: Any, config: TrainConfig, origin: Any, start: Any) -> int:
    import torch

    from apl_core.training.events import Control

    from ..pocket.learn import pocket_run
    from ..report.curves import save_curves
    from ..watch import Bar, stop_on_interrupt

    torch.set_num_threads(1)  # two OpenMP threads on a busy two-core machine are slower than one
    control = Control()
    model = load_model(Path(origin.model))
    with stop_on_interrupt(control):
        trainer = pocket_run(model, config, folder, origin, [Bar()], control, start)
        prefix = trainer.run()
    save_curves(folder.rows(), folder.path / "curves.png")
    if control.stop.is_set():
        print(f"stopped and saved. Go on with: apl resume {folder.path}")
        return 1
    print(f"{folder.prefix}\n  kept step {prefix.card.steps}; measure it with")
    print(f"  apl evaluate --prefix {folder.prefix}")
    return 0


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {} if given.config is None else _toml(given.config)
    for pair in given.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"set {pair}", "there is no = in it", "write --set rate=0.01")
        settings[name] = _parsed(value)
    settings |= {n: getattr(given, n) for n in _FLAGS if getattr(given, n) is not None}
    return settings


def _parsed(value: str) -> Any:
    import contextlib

    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def _toml(path: Path) -> dict[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"read the settings in {path}", str(error), "give a readable TOML file"
        ) from error
