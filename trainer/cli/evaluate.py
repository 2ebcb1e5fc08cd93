"""`apl evaluate`: a prefix measured beside plain baselines on a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import ConfigError
from apl_core.metadata import printable

from . import arguments
from .common import (
    Verbs,
    add_checkpoint,
    add_measurement,
    checkpoint_of,
    load_real,
    refuse_unfit,
    verb,
)

if TYPE_CHECKING:
    import torch

    from ..evaluation.checkpoint_eval import CheckpointEvaluation, EvaluationPlan, Readers

_GALLERY_SEEDS = 4


def add(verbs: Verbs) -> None:
    """Add `evaluate`."""
    evaluate = verb(
        verbs,
        "evaluate",
        run_evaluate,
        "measure a prefix on a checkpoint: identity, faces, fidelity, drift",
        "apl evaluate --model sd15.safetensors --prefix mine.safetensors --names names.txt "
        "--heldout others.txt --out measured",
    )
    add_checkpoint(evaluate)
    add_measurement(evaluate)
    _add_people(evaluate)
    _add_pictures(evaluate)
    arguments.add_faces(evaluate)
    evaluate.add_argument("--weights", type=Path, metavar="DIR", help="where `apl fetch` put them")
    arguments.add_shards(evaluate)


def _add_people(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "--names", metavar="FILE", help="names it was learned from, one a line, or `builtin`"
    )
    evaluate.add_argument(
        "--heldout",
        "--held-out",
        type=Path,
        metavar="FILE",
        help="names that the prefix has never seen, one a line",
    )
    evaluate.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="take names, who is held out, and descriptions from a dataset of `apl dataset`",
    )
    evaluate.add_argument(
        "--gallery",
        type=Path,
        metavar="DIR",
        help="pictures of everybody in a subfolder each, in place of the model's "
        "own pictures without prefix",
    )
    evaluate.add_argument(
        "--gallery-seeds",
        type=arguments.whole(1, 1000),
        help=f"own pictures a name for the gallery ({_GALLERY_SEEDS})",
    )


def _add_pictures(evaluate: argparse.ArgumentParser) -> None:
    add = evaluate.add_argument
    add("--free", type=arguments.whole(0, 100_000), default=32, help="name-free prompts a group")
    add("--seed", type=arguments.seed, default=0, help="decides prompts and noises")
    add("--steps", type=arguments.steps, help=arguments.STEPS_HELP)
    add("--guidance", type=arguments.guidance, help="CFG scale (7)")
    add("--size", type=arguments.pixels, help="side of the pictures in pixels (the model's own)")
    add("--batch", type=arguments.whole(1, 256), default=4, help="pictures drawn together")
    add("--negative", help="negative prompt (the project's own)")
    add("--templates", type=Path, metavar="FILE", help="own prompts, {} for the name")
    add("--things-prompts", type=Path, metavar="FILE", help="own prompts of things")
    add("--people-prompts", type=Path, metavar="FILE", help="own prompts of people")
    add("--device", help="cpu or cuda (the best there is)")


def run_evaluate(given: argparse.Namespace) -> int:
    """Measure a prefix beside the baselines."""
    from apl_core.formats import read_prefix

    from ..callbacks import ProgressBar
    from ..checkpoints.detect import detect
    from ..checkpoints.presets import CPU, own_device, picture_size
    from ..evaluation.checkpoint_eval import CheckpointEvaluator, EvaluationPlan
    from ..evaluation.gallery import pictures_of_people
    from ..prompts import list_book

    checkpoint = checkpoint_of(given)
    _check(given)
    who = _who(given)
    book = list_book(given.templates, given.things_prompts, given.people_prompts)
    prefix = read_prefix(given.prefix)
    found = detect(checkpoint, given.prediction)
    plan = EvaluationPlan(
        who.trained,
        who.heldout,
        who.descriptions,
        given.seeds,
        given.free,
        given.gallery_seeds or _GALLERY_SEEDS,
        given.seed,
        book.negative if given.negative is None else given.negative,
        given.steps or found.steps,
        given.guidance or found.guidance,
        picture_size(found, CPU, given.size),
        given.batch,
    )
    if given.gallery is not None:
        pictures_of_people(given.gallery, plan.names)
    device = own_device(given.device)
    readers = _readers(given, device)
    for line in readers.lacking:
        print(f"not measured: {line}", file=sys.stderr)
    model = load_real(given, found, device)
    refuse_unfit(prefix, model)
    evaluator = CheckpointEvaluator(model, prefix, plan, book, readers, given.gallery, given.out)
    bar = ProgressBar()

    def tell(name: str, done: int, total: int) -> None:
        from apl_core.training.callbacks import Phase

        if not given.json:
            bar(Phase(name, done, total))

    try:
        left = evaluator.draw(tell, given.shard, given.num_shards)
        if left:
            bar.close()
            print(f"{left} pictures are drawn by other processes now; the last one measures")
            return 0
        evaluation = evaluator.measure(tell)
    except KeyboardInterrupt:
        bar.close()
        print(
            f"\nstopped. Pictures are in {printable(str(given.out))}; the same command goes on",
            file=sys.stderr,
        )
        return 1
    bar.close()
    facts = _facts(given, plan, readers, found.sentence, device)
    facts["Prefix"] = f"{prefix.n} vectors, {prefix.behind} behind the text, {prefix.short_digest}"
    return _told(given, evaluation, facts)


@dataclass(frozen=True)
class _Who:
    """Names in two groups, and what is said of them where it is known."""

    trained: tuple[str, ...]
    heldout: tuple[str, ...]
    descriptions: dict[str, str]


def _who(given: argparse.Namespace) -> _Who:
    from ..metadata_jsonl import descriptions_in, read_metadata
    from ..names import check_apart, read_names
    from ..prompts import built_in_names

    entries = () if given.data is None else read_metadata(given.data)
    trained: Sequence[str] = ()
    heldout: Sequence[str] = ()
    if given.names == "builtin":
        trained, heldout = built_in_names()
    elif given.names is not None:
        trained = read_names(Path(given.names))
    if given.heldout is not None:
        heldout = read_names(given.heldout)
    if given.names is None and given.heldout is None:
        trained, heldout = (
            list(dict.fromkeys(e.name for e in entries if e.name and e.split == split))
            for split in ("train", "heldout")
        )
    if not trained and not heldout:
        raise ConfigError(
            "measure a prefix on a checkpoint",
            "there are no names to measure",
            "give --names FILE or `builtin` for names it was learned from, --heldout FILE for "
            "others, or --data DIR",
        )
    check_apart(trained, heldout)
    return _Who(tuple(trained), tuple(heldout), descriptions_in(entries))


def _check(given: argparse.Namespace) -> None:
    arguments.check_shard(given)
    arguments.refuse_idle_negative(given)
    if given.gallery is not None:
        arguments.refuse_ignored(
            given,
            ("gallery_seeds",),
            "the gallery is given with --gallery and not drawn",
            "leave one of the two out",
        )
    if given.out is None:
        fix = "give a folder; pictures stay there, and the same command goes on with them"
        raise ConfigError("measure a prefix on a checkpoint", "--out is missing", fix)


def _readers(given: argparse.Namespace, device: torch.device) -> Readers:
    from ..readers.available import available_readers
    from ..readers.weights import weights_folder

    return available_readers(weights_folder(given.weights), str(device), given.faces)


def _facts(
    given: argparse.Namespace,
    plan: EvaluationPlan,
    readers: Readers,
    sentence: str,
    device: torch.device,
) -> dict[str, str]:
    gallery = (
        f"{plan.gallery} pictures a name of this model without prefix, other seeds than measured"
        if given.gallery is None
        else "pictures of the user's"
    )
    return {
        "Model": f"{given.model.name}: {sentence}",
        "Names": f"{len(plan.trained)} trained, {len(plan.heldout)} held out, "
        f"{plan.seeds} pictures each (2 under the baselines)",
        "Drawing": f"DDIM, {plan.steps} steps, CFG {plan.guidance:g}, {plan.size} pixels, seed "
        f"{plan.seed}, {device}",
        "Gallery": gallery if readers.faces is not None else "none",
        "Faces": readers.faces_name if readers.faces is not None else "not read",
        "Texts": "open_clip ViT-B-32" if readers.clip is not None else "not read",
    }


def _told(
    given: argparse.Namespace, evaluation: CheckpointEvaluation, facts: dict[str, str]
) -> int:
    from ..evaluation.checkpoint_report import flat_figures, notes, tables, write_report

    write_report(given.out, evaluation, facts)
    if given.json:
        figures = {k: m.plain() for k, m in evaluation.figures.items()}
        print(
            json.dumps({**flat_figures(evaluation), "intervals": figures}, indent=1, sort_keys=True)
        )
        return 0
    for table in tables(evaluation):
        print(f"\n{table.title}\n{table.text()}")
    print("\n" + "\n".join(f"- {line}" for line in notes(evaluation)))
    print(f"\nlook at   {given.out / 'report.html'}")
    return 0
