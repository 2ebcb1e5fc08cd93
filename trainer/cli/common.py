"""What several verbs share: how a verb is added, and which model is meant."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import AplError, ConfigError
from apl_core.metadata import printable

from . import arguments

if TYPE_CHECKING:
    import torch

    from apl_core.prefix import Prefix

    from ..checkpoints.loaded import CheckpointModel, Info
    from ..pocket.model import PocketModel

READING = ("tokenizer", "clip_skip", "prediction", "quantize")
"""Options of `add_any_model` that only a checkpoint has a use for."""

NO_POCKET = (
    "a pocket model draws at 32x32 on the CPU, with its own words and vocabulary",
    "leave it out, or give a checkpoint with --model",
)
"""Why options have no meaning on a pocket model, and what to do: for `refuse_ignored`."""

Verbs = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage]


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []):
            return action.help
        return super()._get_help_string(action)


def verb(
    verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int], about: str, example: str
) -> argparse.ArgumentParser:
    """Add a verb with a one-line description and an example."""
    added = verbs.add_parser(
        name, help=about, description=about, epilog=f"example: {example}", formatter_class=Help
    )
    added.set_defaults(run=run)
    return added


def add_model(verb: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """The option that chooses another pocket world than the built-in one."""
    verb.add_argument(
        "--model", type=Path, default=None, metavar="DIR", help="a pocket model's folder (built-in)"
    )


def add_any_model(verb: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """The options that choose a pocket model or a real checkpoint, and how that one is read."""
    about = "checkpoint (.safetensors), diffusers folder or pocket model's folder (built-in one)"
    verb.add_argument("--model", type=Path, default=None, metavar="PATH", help=about)
    _add_reading(verb)


def add_checkpoint(verb: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """The options that choose a checkpoint, and how it is read: for `checkpoint_of`."""
    about = "checkpoint (.safetensors) or diffusers folder"
    verb.add_argument("--model", type=Path, default=None, metavar="CHECKPOINT", help=about)
    _add_reading(verb)


def _add_reading(verb: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    verb.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="CLIP's vocab.json and merges.txt, if needed"
    )
    verb.add_argument(
        "--clip-skip",
        type=arguments.clip_skip,
        metavar="N",
        help="as hosts count it; 1 is the last",
    )
    verb.add_argument(
        "--prediction",
        choices=("eps", "v", "flow"),
        help="prediction type (detected if not given; flow: a rectified-flow SDXL)",
    )
    verb.add_argument(
        "--quantize",
        choices=("int8", "fp8", "nf4"),
        help="weights of newer families in fewer bits: half of the memory, or a quarter",
    )


def add_measurement(evaluate: argparse.ArgumentParser) -> None:
    """The options of both verbs that measure a prefix."""
    evaluate.add_argument("--prefix", type=Path, required=True, help="the prefix file")
    evaluate.add_argument(
        "--seeds", type=arguments.whole(1, 1000), default=4, help="pictures a name"
    )
    evaluate.add_argument(
        "--out", type=arguments.out_folder, help="folder for pictures, report.html and figures"
    )
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")


def checkpoint_of(given: argparse.Namespace) -> Path:
    """The checkpoint of `--model`; ConfigError with the command for a pocket model if it is none.

    AplError for a folder that holds no model.
    """
    if is_checkpoint(given.model):
        return given.model
    verb = given.words[0]
    other = _command("pocket", *given.words)
    if given.model is None:
        raise ConfigError(
            f"{verb} without a model",
            "--model is missing",
            f"give --model CHECKPOINT, or take the built-in pocket model: {other}",
        )
    found = f"it is a pocket model, and `apl {verb}` is for checkpoints"
    raise ConfigError(f"{verb} on {printable(str(given.model), 300)}", found, f"run: {other}")


def pocket_of(given: argparse.Namespace) -> PocketModel:
    """The pocket model of `--model`; ConfigError with the command for a checkpoint if it is one."""
    if given.model is not None and given.model.exists() and is_checkpoint(given.model):
        verb = given.words[1]
        raise ConfigError(
            f"{verb} on {printable(str(given.model), 300)}",
            f"it is not a pocket model, and `apl pocket {verb}` is for those",
            f"run: {_command(*given.words[1:])}",
        )
    return load_model(given.model)


def _command(*words: str) -> str:
    return printable(shlex.join(["apl", *words]), 1000)


def is_checkpoint(path: Path | None) -> bool:
    """Whether a path is meant for a real checkpoint; AplError for a folder of something else."""
    from ..checkpoints.model_paths import kind_of

    return path is not None and kind_of(path) == "checkpoint"


def load_model(folder: Path | None) -> PocketModel:
    """The pocket model of a folder, or the built-in one."""
    from ..pocket.model import BUILT_IN, load_pocket

    if folder is not None and folder.exists() and is_checkpoint(folder):
        raise AplError(
            f"load {folder}",
            "this verb works on pocket models only, and this is not one",
            "give a pocket model's folder, or leave --model out; on a checkpoint, look at pictures "
            "of many names with `apl generate`",
        )
    return load_pocket(folder or BUILT_IN)


def load_any(given: argparse.Namespace) -> PocketModel | CheckpointModel:
    """The pocket model or checkpoint that `add_any_model`'s options and `--size` choose."""
    if is_checkpoint(given.model):
        return load_real(given)
    arguments.refuse_ignored(given, (*READING, "size"), *NO_POCKET)
    return load_model(given.model)


def load_real(
    given: argparse.Namespace, found: Info | None = None, device: torch.device | None = None
) -> CheckpointModel:
    """The checkpoint that the options choose, in half precision on a GPU.

    `found` and `device` if they are known already.
    """

    from ..checkpoints.detect import detect
    from ..checkpoints.load import load_detected
    from ..checkpoints.loaded import Options
    from ..checkpoints.presets import drawing_dtypes, own_device

    device = device or own_device(None)
    found = found or detect(given.model, given.prediction)
    dtypes = drawing_dtypes(found, device.type != "cpu")
    options = Options(
        given.tokenizer,
        given.clip_skip,
        None,
        *dtypes,
        device=str(device),
        size=given.size,
        quantize=given.quantize,
    )
    return load_detected(found, options)


def read_fitting(file: Path, model: PocketModel | CheckpointModel) -> Prefix:
    """The prefix in a file; AplError if it is broken or made for another kind of model."""
    from apl_core.formats import read_prefix

    prefix = read_prefix(file)
    refuse_unfit(prefix, model)
    return prefix


def refuse_unfit(prefix: Prefix, model: PocketModel | CheckpointModel) -> None:
    """FitError for a prefix that was made for another kind of model."""
    from .. import two_pictures

    two_pictures.refuse_unfit(prefix, model.encoder, getattr(model, "family", ""))
