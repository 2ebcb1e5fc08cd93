"""What several verbs share: how a verb is added, and which model is meant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import AplError

from . import arguments

if TYPE_CHECKING:
    from apl_core.prefix import Prefix

    from ..checkpoints.load import CheckpointModel
    from ..pocket.model import PocketModel

READING = ("tokenizer", "clip_skip", "prediction")
"""Options of `add_any_model` that only a checkpoint has a use for."""

Verbs = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage]


def verb(
    verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int], about: str, example: str
) -> argparse.ArgumentParser:
    """Add a verb with a one-line description and an example."""
    added = verbs.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
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
    verb.add_argument(
        "--model",
        type=Path,
        default=None,
        metavar="PATH",
        help="checkpoint (.safetensors), diffusers folder or pocket model's folder (built-in one)",
    )
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
        "--prediction", choices=("eps", "v"), help="prediction type (detected if not given)"
    )


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
    """The pocket model or checkpoint that `add_any_model`'s options choose."""
    return load_real(given) if is_checkpoint(given.model) else load_model(given.model)


def load_real(given: argparse.Namespace) -> CheckpointModel:
    """The checkpoint that `add_any_model`'s options choose, in half precision on a GPU."""
    import torch

    from ..checkpoints.load import Options, load_checkpoint
    from ..checkpoints.presets import own_device

    device = own_device(getattr(given, "device", None))
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    options = Options(given.tokenizer, given.clip_skip, given.prediction, dtype, device=str(device))
    return load_checkpoint(given.model, options)


def read_fitting(file: Path, model: PocketModel | CheckpointModel) -> Prefix:
    """The prefix in a file; AplError if it is broken or made for another kind of model."""
    from apl_core.fit import EncoderFace, check_fit, fingerprint
    from apl_core.formats import read_prefix

    prefix = read_prefix(file)
    tables = {key: model.encoder.token_embedding(key) for key in model.encoder.widths}
    faces = [EncoderFace(key, table.shape[1], fingerprint(table)) for key, table in tables.items()]
    check_fit(prefix, faces)
    return prefix
