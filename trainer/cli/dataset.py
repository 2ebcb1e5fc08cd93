"""`apl dataset`: names in, pictures and descriptions out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import ConfigError

from . import arguments
from .common import NO_POCKET, READING, Verbs, add_any_model, is_checkpoint, load_model, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..checkpoints.loaded import Encoder
    from ..data.finish import DatasetSummary
    from ..data.generate import GenerationTools
    from ..data.plan import Amounts, Task
    from ..metadata_jsonl import Split

_FEW = 20
_REAL_ONLY = (
    *READING,
    "size",
    "templates",
    "things_prompts",
    "people_prompts",
    "half",
    "device",
    "faces",
    "weights",
)
_MANY = 100_000


def add(verbs: Verbs) -> None:
    """Add `dataset`."""
    made = verb(
        verbs,
        "dataset",
        run_dataset,
        "draw pictures of names with the model itself, describe them, and write a dataset",
        "apl dataset --model sd15.safetensors --names builtin --out data/figures",
    )
    add_any_model(made)
    made.add_argument(
        "--names", required=True, metavar="FILE", help="text file, one name a line, or `builtin`"
    )
    made.add_argument(
        "--out", type=arguments.out_folder, required=True, help="the dataset's folder"
    )
    _add_amounts(made)
    _add_pictures(made)
    _add_eyes(made)
    arguments.add_shards(made)
    made.add_argument("--json", action="store_true", help="print what was made as JSON")


def _add_amounts(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--heldout", type=Path, metavar="FILE", help="names to measure on only, one a line"
    )
    made.add_argument(
        "--heldout-share",
        type=arguments.decimal(0, 0.9),
        default=0.2,
        help="share that is held out: of general pictures, and of names without --heldout",
    )
    some, any_number = arguments.whole(1, _MANY), arguments.whole(0, _MANY)
    made.add_argument("--count", type=some, default=12, help="pictures a name")
    made.add_argument("--tries", type=some, help="pictures drawn at most for them (3 x count)")
    made.add_argument("--things", type=any_number, default=200, help="name-free pictures of things")
    made.add_argument("--people", type=any_number, default=200, help="name-free pictures of people")
    made.add_argument(
        "--general",
        type=Path,
        metavar="DIR",
        help="take general pictures with .txt captions as well",
    )


def _add_pictures(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--seed", type=arguments.seed, default=0, help="decides every picture and who is held out"
    )
    made.add_argument("--steps", type=arguments.steps, help=arguments.STEPS_HELP)
    made.add_argument(
        "--guidance", type=arguments.guidance, help="CFG scale (7; the pocket model 3)"
    )
    made.add_argument(
        "--size", type=arguments.pixels, help="side of the pictures in pixels (the model's own)"
    )
    made.add_argument(
        "--batch", type=arguments.whole(1, 256), default=4, help="pictures drawn together"
    )
    made.add_argument("--negative", help="negative prompt (the project's own)")
    made.add_argument("--templates", type=Path, metavar="FILE", help="own prompts, {} for the name")
    made.add_argument("--things-prompts", type=Path, metavar="FILE", help="own prompts of things")
    made.add_argument("--people-prompts", type=Path, metavar="FILE", help="own prompts of people")
    made.add_argument("--device", help="cpu or cuda (the best there is)")
    made.add_argument(
        "--half", action="store_true", help="weights of the checkpoint in half precision"
    )


def _add_eyes(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--no-face-filter", action="store_true", help="keep every picture, needs no face reader"
    )
    made.add_argument(
        "--descriptions",
        choices=("voted", "person"),
        default="voted",
        help="what stands for a name: attributes voted over its pictures, or just "
        "`a person`, which needs no open_clip",
    )
    made.add_argument("--no-gender", action="store_true", help="leave gender out of descriptions")
    arguments.add_faces(made)
    made.add_argument("--weights", type=Path, metavar="DIR", help="where `apl fetch` put them")


def run_dataset(given: argparse.Namespace) -> int:
    """Make a dataset, or go on with it."""
    from tqdm import tqdm

    from ..data.captioned_folder import given_tasks
    from ..data.finish import finish
    from ..data.generate import make
    from ..data.plan import Amounts

    pocket = not is_checkpoint(given.model)
    _check(given, pocket)
    tries = min(3 * given.count, _MANY) if given.tries is None else given.tries
    amounts = Amounts(given.count, tries, given.things, given.people, given.heldout_share)
    splits = _names(given, pocket)
    own = given_tasks(given.general, amounts, given.seed, list(splits)) if given.general else []
    tools, encoder = _pocket(given) if pocket else _real(given)
    tasks = _tasks(given, tools, amounts, splits) + own
    encoder.check(_texts(tools, tasks))
    tools.settings.remember(given.out)
    mine = sum(task.wanted for task in tasks[given.shard :: given.num_shards])
    with tqdm(total=mine, desc="pictures", unit="picture", disable=given.json) as bar:
        make(tools, tasks, given.out, given.shard, given.num_shards, bar.update)
    outcome = finish(tools, tasks, amounts, given.out, not given.no_gender)
    return _told(given, outcome, splits)


def _check(given: argparse.Namespace, pocket: bool) -> None:
    """ConfigError for options that do not go together, or that nothing would use."""
    arguments.check_shard(given)
    arguments.refuse_idle_negative(given)
    if pocket:
        arguments.refuse_ignored(given, _REAL_ONLY, *NO_POCKET)
    if given.no_face_filter:
        arguments.refuse_ignored(
            given,
            ("tries", "faces"),
            "without the face filter every picture is kept",
            "leave it out",
        )
    if given.tries is not None and given.tries < given.count:
        raise ConfigError(
            f"make {given.count} pictures a name",
            f"--tries {given.tries} is less than that",
            "give --tries as many or more",
        )


def _names(given: argparse.Namespace, pocket: bool) -> dict[str, Split]:
    from ..data.plan import split_names
    from ..names import read_names
    from ..prompts import built_in_names

    heldout = None if given.heldout is None else read_names(given.heldout)
    if given.names != "builtin":
        names = read_names(Path(given.names))
        return split_names(names, heldout, given.heldout_share, given.seed)
    names, own = _world_names(given) if pocket else built_in_names()
    return split_names(names, own if heldout is None else heldout, 0, given.seed)


def _world_names(given: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Everybody whom the pocket model knows: (to learn from, held out)."""
    from ..pocket.world import World
    from ..run_paths import BUILT_IN

    world = World.load((given.model or BUILT_IN) / "world.json")
    learned, held = (tuple(p.name for p in world.group(g)) for g in ("train", "heldout"))
    return learned, held


def _pocket(given: argparse.Namespace) -> tuple[GenerationTools, Encoder]:
    import torch

    from ..pocket.dataset_tools import pocket_tools
    from ..pocket.model import GUIDANCE, STEPS

    torch.set_num_threads(1)  # two OpenMP threads on a busy two-core machine are slower than one
    model = load_model(given.model)
    tools = pocket_tools(
        model,
        given.seed,
        given.steps or STEPS,
        given.guidance or GUIDANCE,
        given.batch,
        not given.no_face_filter,
        given.descriptions == "voted",
        given.negative or "",
    )
    return tools, model.encoder


def _real(given: argparse.Namespace) -> tuple[GenerationTools, Encoder]:

    from ..checkpoints.detect import detect
    from ..checkpoints.load import load_checkpoint
    from ..checkpoints.loaded import Options
    from ..checkpoints.presets import drawing_dtypes, own_device
    from ..data.checkpoint_tools import Choices, real_tools, required_readers
    from ..prompts import list_book
    from ..readers.weights import weights_folder

    book = list_book(given.templates, given.things_prompts, given.people_prompts)
    found = detect(given.model, given.prediction)
    size = given.size or found.size
    device = str(own_device(given.device))
    choices = Choices(
        given.seed,
        given.steps or found.steps,
        given.guidance or found.guidance,
        size,
        given.batch,
        book.negative if given.negative is None else given.negative,
        not given.no_face_filter,
        given.descriptions == "voted",
        weights_folder(given.weights),
        device,
        given.faces,
    )
    faces, attributes = required_readers(choices)
    dtypes = drawing_dtypes(found, given.half)
    options = Options(
        given.tokenizer,
        given.clip_skip,
        given.prediction,
        *dtypes,
        device=device,
        size=size,
        quantize=given.quantize,
    )
    model = load_checkpoint(given.model, options, tqdm_write)
    skip = "" if given.clip_skip is None else f", clip skip {given.clip_skip}"
    fewer = "" if given.quantize is None else f", quantized to {given.quantize}"
    dtype = str(dtypes[0]).removeprefix("torch.")
    reading = f"predicts {found.prediction}, {dtype}{fewer}{skip}"
    return real_tools(model, book, choices, faces, attributes, reading), model.encoder


def tqdm_write(line: str) -> None:
    """Print a line that a progress bar does not run into."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _tasks(
    given: argparse.Namespace, tools: GenerationTools, amounts: Amounts, splits: dict[str, Split]
) -> list[Task]:
    from ..data.plan import general_tasks, name_tasks

    named = name_tasks(splits, amounts, tools.faces is not None)
    return named + general_tasks(amounts, given.batch, given.seed)


def _texts(tools: GenerationTools, tasks: Sequence[Task]) -> set[str]:
    """All that is drawn and said: names, the prompts around them, captions, the negative."""
    settings, book = tools.settings, tools.book
    prompts = {task.template(settings, book, i) for task in tasks for i in range(task.tries)}
    return prompts | {t.label for t in tasks if t.kind == "identity"} | {settings.negative}


def _told(given: argparse.Namespace, outcome: DatasetSummary, splits: dict[str, Split]) -> int:
    """Say what was made and what is odd about it."""
    if not outcome.complete:
        found = f"{outcome.unfinished} parts are still being drawn by other processes"
        if given.json:
            print(json.dumps({"complete": False, "unfinished": outcome.unfinished}))
        else:
            print(f"{found}; the last one writes metadata.jsonl and manifest.json")
        return 0
    for line in _odd(outcome, splits):
        print(f"warning: {line}", file=sys.stderr)
    kinds = [entry.kind for entry in outcome.entries]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    if given.json:
        told = {
            "complete": True,
            "pictures": counts,
            "unknown": outcome.unknown,
            "without_face": outcome.faceless,
            "with_few_faces": outcome.short,
        }
        print(json.dumps(told, ensure_ascii=False))
        return 0
    pictures = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{given.out}: {pictures}; look at sheet-1.png")
    print("  to describe a name otherwise, fill `override` in descriptions.csv and run this again")
    return 0


def _odd(outcome: DatasetSummary, splits: dict[str, Split]) -> list[str]:
    from ..data.finish import listing

    lines: list[str] = []
    learned = sum(split == "train" for split in splits.values())
    if learned < _FEW:
        lines.append(f"{learned} names to learn from are few; a prefix for anybody wants 100")
    lines += outcome.warnings
    if outcome.short:
        lines.append(f"fewer pictures than wanted (raise --tries): {listing(outcome.short)}")
    return lines
