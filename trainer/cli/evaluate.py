"""`apl evaluate`: a prefix measured beside plain baselines, on a pocket model or a checkpoint."""

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
    READING,
    Verbs,
    add_any_model,
    is_checkpoint,
    load_model,
    load_real,
    read_fitting,
    verb,
)

if TYPE_CHECKING:
    from ..evaluation.checkpoint_eval import CheckpointEvaluation, EvaluationPlan, Readers

_REAL_ONLY = (
    *READING,
    "heldout",
    "data",
    "gallery",
    "templates",
    "things_prompts",
    "people_prompts",
    "negative",
    "steps",
    "guidance",
    "size",
    "device",
    "weights",
    "seed",
    "gallery_seeds",
    "batch",
    "rank",
    "of",
)
_POCKET = {"names": "64", "seeds": 4, "free": 128}
_REAL = {
    "seeds": 4,
    "free": 32,
    "gallery_seeds": 4,
    "steps": 20,
    "batch": 4,
    "seed": 0,
    "rank": 0,
    "of": 1,
}
_some = arguments.whole(1, 1000)


def add(verbs: Verbs) -> None:
    """Add `evaluate`."""
    evaluate = verb(
        verbs,
        "evaluate",
        run_evaluate,
        "measure a prefix: identity, faces, fidelity, drift",
        "apl evaluate --model sd15.safetensors --prefix mine.safetensors --names names.txt "
        "--heldout others.txt --out measured",
    )
    add_any_model(evaluate)
    evaluate.add_argument("--prefix", type=Path, required=True, help="the prefix file")
    evaluate.add_argument(
        "--names",
        metavar="FILE|N",
        help="on a checkpoint: names it was learned from, one a line, or `builtin`; on a pocket "
        "model: how many names a group (64)",
    )
    evaluate.add_argument("--seeds", type=_some, help="pictures a name (4)")
    evaluate.add_argument(
        "--free",
        type=arguments.whole(0, 100_000),
        help="name-free prompts a group (32; on a pocket model 128)",
    )
    evaluate.add_argument(
        "--out", type=arguments.out_folder, help="folder for pictures, report.html and figures"
    )
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")
    _add_real(evaluate.add_argument_group("on a real checkpoint"))


def _add_real(real: argparse._ArgumentGroup) -> None:  # pyright: ignore[reportPrivateUsage]
    real.add_argument(
        "--heldout",
        "--held-out",
        type=Path,
        metavar="FILE",
        help="names that the prefix has never seen, one a line",
    )
    real.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="take names, who is held out, and descriptions from a dataset of `apl dataset`",
    )
    real.add_argument(
        "--gallery",
        type=Path,
        metavar="DIR",
        help="pictures of everybody in a subfolder each, in place of the model's "
        "own pictures without prefix",
    )
    real.add_argument("--gallery-seeds", type=_some, help="own pictures a name for the gallery (4)")
    real.add_argument("--seed", type=arguments.seed, help="decides prompts and noises (0)")
    real.add_argument("--steps", type=arguments.steps, help="DDIM steps (20)")
    real.add_argument("--guidance", type=arguments.guidance, help="CFG scale (7)")
    real.add_argument(
        "--size", type=arguments.pixels, help="side of the pictures in pixels (the model's own)"
    )
    real.add_argument("--batch", type=arguments.whole(1, 256), help="pictures drawn together (4)")
    real.add_argument("--negative", help="negative prompt (the project's own)")
    real.add_argument("--templates", type=Path, metavar="FILE", help="own prompts, {} for the name")
    real.add_argument("--things-prompts", type=Path, metavar="FILE", help="own prompts of things")
    real.add_argument("--people-prompts", type=Path, metavar="FILE", help="own prompts of people")
    real.add_argument("--device", help="cpu or cuda (the best there is)")
    real.add_argument("--weights", type=Path, metavar="DIR", help="where `apl fetch` put them")
    real.add_argument("--rank", type=arguments.rank, help="this process's number, from 0")
    real.add_argument("--of", type=arguments.ranks, help="how many processes share the drawing (1)")


def run_evaluate(given: argparse.Namespace) -> int:
    """Measure a prefix beside the baselines."""
    real = is_checkpoint(given.model)
    if not real:
        arguments.refuse_on_pocket(given, _REAL_ONLY)
    elif given.gallery is not None:
        arguments.refuse_ignored(
            given,
            ("gallery_seeds",),
            "the gallery is given with --gallery and not drawn",
            "leave one of the two out",
        )
    for name, value in (_REAL if real else _POCKET).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return _on_checkpoint(given) if real else _on_pocket(given)


def _on_pocket(given: argparse.Namespace) -> int:
    from ..pocket.eval_report import detailed, write_outcome
    from ..pocket.evaluate import EVALUATION_STEPS, evaluate
    from ..pocket.metrics import PromptSet
    from ..pocket.render_pool import RenderPool

    if not given.names.isdecimal() or not int(given.names):
        raise ConfigError(
            f"measure {printable(given.names, 60)} names",
            "a pocket model has its own people",
            "give how many, such as --names 64, or a checkpoint with --model",
        )
    if not given.free:
        raise ConfigError(
            "measure on no name-free prompts",
            "a pocket model's table needs some",
            "give --free 1 or more, or leave it out",
        )
    model = load_model(given.model)
    prefix = read_fitting(given.prefix, model)
    prompts = PromptSet.of(model.world, int(given.names), given.seeds, given.free)
    with RenderPool(model.folder, EVALUATION_STEPS) as renderer:
        outcome = evaluate(model, renderer, prompts, prefix)
    if given.json:
        figures = {k: m.plain() for k, m in detailed(model, outcome).items()}
        print(json.dumps({**outcome.flat, "intervals": figures}, indent=1, sort_keys=True))
    else:
        print(outcome.table().text())
    if given.out:
        write_outcome(given.out, model, prefix, outcome)
    return 0


def _on_checkpoint(given: argparse.Namespace) -> int:
    from apl_core.formats import read_prefix

    from ..callbacks import ProgressBar
    from ..checkpoints.detect import detect
    from ..checkpoints.presets import CPU, own_device, picture_size
    from ..evaluation.checkpoint_eval import CheckpointEvaluator, EvaluationPlan
    from ..evaluation.gallery import pictures_of_people
    from ..prompts import list_book

    _check(given)
    who = _who(given)
    book = list_book(given.templates, given.things_prompts, given.people_prompts)
    read_prefix(given.prefix)
    found = detect(given.model, given.prediction)
    guidance = _guidance(given)
    plan = EvaluationPlan(
        who.trained,
        who.heldout,
        who.descriptions,
        given.seeds,
        given.free,
        given.gallery_seeds,
        given.seed,
        book.negative if given.negative is None else given.negative,
        given.steps,
        guidance,
        picture_size(found, CPU, given.size),
        given.batch,
    )
    if given.gallery is not None:
        pictures_of_people(given.gallery, plan.names)
    device = str(own_device(given.device))
    readers = _eyes(given, device)
    for line in readers.lacking:
        print(f"not measured: {line}", file=sys.stderr)
    model = load_real(given)
    prefix = read_fitting(given.prefix, model)
    evaluator = CheckpointEvaluator(model, prefix, plan, book, readers, given.gallery, given.out)
    bar = ProgressBar()

    def tell(name: str, done: int, total: int) -> None:
        from apl_core.training.callbacks import Phase

        if not given.json:
            bar(Phase(name, done, total))

    try:
        left = evaluator.draw(tell, given.rank, given.of)
        if left:
            bar.close()
            print(f"{left} pictures are still being drawn by other ranks; the last one measures")
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
    arguments.check_share(given)
    arguments.refuse_idle_negative(given)
    if given.out is None:
        fix = "give a folder; pictures stay there, and the same command goes on with them"
        raise ConfigError("measure a prefix on a checkpoint", "--out is missing", fix)


def _guidance(given: argparse.Namespace) -> float:
    from ..checkpoints.load import GUIDANCE

    return GUIDANCE if given.guidance is None else given.guidance


def _eyes(given: argparse.Namespace, device: str) -> Readers:
    from ..readers.available import available_readers
    from ..readers.weights import weights_folder

    return available_readers(weights_folder(given.weights), device)


def _facts(
    given: argparse.Namespace, plan: EvaluationPlan, readers: Readers, sentence: str, device: str
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
        "Faces": "facexlib RetinaFace and ArcFace" if readers.faces is not None else "not read",
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
