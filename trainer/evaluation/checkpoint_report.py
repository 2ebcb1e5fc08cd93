"""What `apl evaluate` writes about a prefix on a checkpoint: figures, report, sheet and page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apl_core.atomic import reason, write_text
from apl_core.errors import RunError
from apl_core.metadata import printable

from ..report.page import Picture, Table, write_page
from ..statistics import Mean
from .before_after import save_before_after
from .checkpoint_eval import GROUPS, CheckpointEvaluation
from .faces_sheet import save_faces
from .image_cache import ImageSet, read_image
from .titles import RESEEDED

FORMAT = 1
_CHANGES = ("prefix", "random", "reseeded")
_WORDS = {"trained": "trained names", "heldout": "held-out names"}
_SMALL = 192
_TOLD = 12
_UNSURE = 0.5


def flat_figures(evaluation: CheckpointEvaluation) -> dict[str, float]:
    """The plain numbers of figures.json; what was not measured or has no value is left out."""
    flat = {k: m.value for k, m in evaluation.figures.items() if not math.isnan(m.value)}
    for kind in (*GROUPS, "people", "things"):
        keys = f"base.clip_score.{kind}", f"prefix.clip_score.{kind}"
        if all(key in flat for key in keys):
            flat[f"drift.clip_score.{kind}"] = flat[keys[0]] - flat[keys[1]]
    if flat.get("change.pixels.reseeded"):
        share = flat["change.pixels.prefix"] / flat["change.pixels.reseeded"]
        flat["change.share_of_a_seed"] = share
    return flat


def tables(evaluation: CheckpointEvaluation) -> list[Table]:
    """Identity, fit and drift, as far as they were measured."""
    found = [
        *(_identity(evaluation, group) for group in GROUPS),
        _fit(evaluation),
        _drift(evaluation),
    ]
    return [table for table in found if table is not None]


def notes(evaluation: CheckpointEvaluation) -> list[str]:
    """What the figures are, what was not measured, and what is odd about them."""
    plan, people = evaluation.plan, evaluation.people
    lines = [f"Not measured: {text}." for text in evaluation.lacking]
    lines.append(
        "Intervals are 95 % bootstrap intervals, over names where there are names. A picture "
        "without a face is in no cosine and no rank and is not anonymous: it counts in face found "
        "alone."
    )
    if people is not None and people.gallery is None:
        lines.append(
            "No face was found in any picture of the gallery: nobody can be recognized, "
            "and nothing is said about identity."
        )
    if people is not None and people.gallery is not None:
        size = len(people.gallery.names)
        chance = f"by chance {100 / size:.1f} % are ranked first"
        lines.append(f"The gallery holds {size} people; {chance}.")
        if size <= 5:
            lines.append("Ranks among the first five are left out: the gallery has no more.")
        lines += _doubts(evaluation)
        lines += _threshold(evaluation)
    if people is not None and people.faceless:
        lines.append(
            f"No face in any gallery picture of {_listing(people.faceless)}: not in the "
            "identity figures."
        )
    if people is not None and people.unknown:
        lines.append(
            f"The model does not seem to know {_listing(people.unknown)}: gallery "
            "pictures of one are hardly more alike than of two. Such names look anonymous "
            "without any prefix."
        )
    if any(".clip_score." in key for key in evaluation.figures):
        lines.append(
            "Text fit is CLIP's cosine of a picture with its prompt, in which “a person” "
            "stands for the name. FID and KID are of CLIP's picture embeddings: "
            "comparable between rows, with nothing else."
        )
    if plan.free:
        lines.append(
            f"Drift is over {2 * plan.free} name-free prompts; another seed is the yardstick."
        )
    return lines


def write_report(out: Path, evaluation: CheckpointEvaluation, facts: Mapping[str, str]) -> None:
    """Write everything; RunError if the disk does not take it."""
    figures = {key: value.plain() for key, value in evaluation.figures.items()}
    people = evaluation.people
    data = {
        "format": FORMAT,
        "facts": dict(facts),
        "figures": figures,
        "numbers": flat_figures(evaluation),
        "not_measured": list(evaluation.lacking),
        "gallery": [] if people is None or people.gallery is None else list(people.gallery.names),
        "without_face": [] if people is None else list(people.faceless),
        "unknown": [] if people is None else list(people.unknown),
        "notes": notes(evaluation),
    }

    def pictures(places: list[int]) -> list[Tensor]:
        return [_few(evaluation.image_sets[name], places) for name in ("none", "prefix")]

    try:
        out.mkdir(parents=True, exist_ok=True)
        numbers = json.dumps(flat_figures(evaluation), indent=1, sort_keys=True)
        write_text(out / "figures.json", numbers + "\n")
        text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False)
        write_text(out / "report.json", text + "\n")
        save_before_after(out / "sheet.png", evaluation.asked, pictures, 1)
        caption = "The same prompts and seeds, without and with the prefix."
        shown = [Picture(out / "sheet.png", caption), *_faces(out / "faces.png", evaluation)]
        write_page(
            out / "report.html",
            "A prefix on a checkpoint, measured",
            "The same prompts and seeds without and with the prefix, beside plain baselines.",
            shown,
            tables(evaluation),
            facts,
            notes(evaluation),
        )
    except OSError as error:
        raise RunError(f"write the report into {printable(str(out))}", *reason(error)) from error


def _faces(path: Path, evaluation: CheckpointEvaluation) -> list[Picture]:
    """The faces that were compared, if there are any."""
    seen = evaluation.sightings
    if seen is None:
        return []
    caption = (
        "Look for yourself: the people who come nearest to their gallery picture with the prefix, "
        "with the distance of the recognizer's vectors."
    )
    return [Picture(path, caption)] if save_faces(path, seen) else []


def _threshold(evaluation: CheckpointEvaluation) -> list[str]:
    """Which distance makes two faces one person, who says so, and what that accepts here."""
    seen = evaluation.sightings
    if seen is None or seen.same is None:
        return []
    lines = [
        f"Same person: nearer than {seen.same:g} (Euclidean) to any gallery picture of the person "
        "named, the threshold that the recognizer's authors publish."
    ]
    for key, words in (("other", "two names (wrongly)"), ("same", "one name (rightly)")):
        share = evaluation.figures.get(f"gallery.accepted_{key}_name")
        if share is not None:
            lines.append(
                f"It takes {100 * share.value:.1f} % of the {share.count} pairs of gallery faces "
                f"of {words} for one person."
            )
    return lines


def _doubts(evaluation: CheckpointEvaluation) -> list[str]:
    """Where the row without prefix shows that there is little to take away."""
    lines: list[str] = []
    for group in GROUPS:
        base = evaluation.figures.get(f"base.identity_top1.{group}")
        if base is not None and base.value < _UNSURE:
            lines.append(
                f"Without prefix only {base.percent()} % of the pictures of "
                f"{_WORDS[group]} are recognized: what a prefix takes away can be no "
                "more than that."
            )
    return lines


def _identity(evaluation: CheckpointEvaluation, group: str) -> Table | None:
    if evaluation.people is None or f"base.face_found.{group}" not in evaluation.figures:
        return None
    keys = {
        "identity_top1": "top-1",
        "identity_top5": "top-5",
        "identity_same": "same person",
        "identity_cosine": "cosine",
        "identity_cosine_max": "largest",
        "anonymous": "anonymous",
        "face_found": "face found",
    }
    columns = [
        (title, f"{key}.{group}")
        for key, title in keys.items()
        if f"base.{key}.{group}" in evaluation.figures
    ]
    about = (
        "Percent with 95 % intervals. Top-1, top-5 and cosines: lower is more anonymous; the "
        "largest is the cosine of each name's likeliest picture. Same person: share of the faces "
        "that the recognizer's published threshold takes for the person named. Anonymous: share of "
        "all pictures that show a face of somebody else."
    )
    return _table(evaluation, f"Identity, {_WORDS[group]}", about, columns)


def _fit(evaluation: CheckpointEvaluation) -> Table | None:
    titles = {**_WORDS, "people": "people without name", "things": "things"}
    columns = [
        (title, f"clip_score.{key}")
        for key, title in titles.items()
        if f"base.clip_score.{key}" in evaluation.figures
    ]
    if not columns:
        return None
    about = "Cosine of each picture with the text as asked, the name taken out, in percent."
    return _table(evaluation, "Text fit", about, columns)


def _table(
    evaluation: CheckpointEvaluation, title: str, about: str, columns: Sequence[tuple[str, str]]
) -> Table:
    rows = [
        [words, *(_cell(evaluation.figures.get(f"{_key(name)}.{key}")) for _, key in columns)]
        for name, words in evaluation.titles.items()
    ]
    return Table(title, about, ["", *(head for head, _ in columns)], rows)


def _drift(evaluation: CheckpointEvaluation) -> Table | None:
    kinds = {
        "pixels": "pixels",
        "features": "features",
        "meaning": "meaning",
        "fid": "FID",
        "kid": "KID",
    }
    there = [kind for kind in kinds if f"change.{kind}.prefix" in evaluation.figures]
    if not there:
        return None
    names = {**evaluation.titles, "reseeded": RESEEDED}
    rows = [
        [names[name], *(_change(evaluation.figures[f"change.{kind}.{name}"]) for kind in there)]
        for name in _CHANGES
        if f"change.pixels.{name}" in evaluation.figures
    ]
    about = (
        "Name-free pictures against those without prefix, same seeds: mean squared pixel "
        "difference, perceptual distance on CLIP's patches, 1 - cosine of CLIP's picture "
        "embeddings, distances of the sets."
    )
    return Table("Drift", about, ["", *(kinds[kind] for kind in there)], rows)


def _key(name: str) -> str:
    return "base" if name == "none" else name


def _cell(found: Mean | None) -> str:
    if found is None:
        return "-"
    return found.percent() if found.count else "no face found"


def _change(found: Mean) -> str:
    return "-" if math.isnan(found.value) else f"{found.value:.4f}"


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(printable(name, 60) for name in names[:_TOLD]) + more


def _few(image_set: ImageSet, places: Sequence[int]) -> Tensor:
    pictures = torch.stack([read_image(image_set.files[i]) for i in places])
    side = min(_SMALL, pictures.shape[-1])
    return F.interpolate(pictures, (side, side), mode="area")
