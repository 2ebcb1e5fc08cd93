"""Experiments 1 and 2: who is recognized under which prompt, and what happens to the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from apl_core.prefix import Rows
from apl_trainer.evaluation.conditions import (
    Condition,
    EvalPrompt,
    baselines,
    random_rows,
    reseeded,
)
from apl_trainer.evaluation.distances import feature_change, fid, kid_mean, pixel_change
from apl_trainer.evaluation.identity import Identity, identity
from apl_trainer.evaluation.titles import CONDITION_TITLES
from apl_trainer.pocket.eval_prompts import correct
from apl_trainer.pocket.metrics import PEOPLE, SCENE, THINGS, PromptSet
from apl_trainer.pocket.reader import faces_of
from apl_trainer.pocket.render_pool import Rendered
from apl_trainer.report.sheet import save_sheet
from apl_trainer.statistics import Mean, mean

from ..pocket_build.card import read_renders
from .experiment import Experiment, Result
from .prompts import VARIATIONS, Named, variation

GROUPS = ("trained", "heldout")
_SEED = 600_000
_RENDERS = 400


def recognized(
    bench: Experiment,
    drawn: Rendered,
    who: Sequence[str],
    others: Sequence[str | None] | None = None,
) -> Identity:
    """Who is recognized in pictures whose prompts name `who`."""
    return identity(faces_of(drawn.reading), who, bench.reader.gallery, others)


def some(drawn: Rendered, start: int, stop: int | None) -> Rendered:
    """The pictures from `start` up to `stop`."""
    rows = slice(start, stop)
    return Rendered(drawn.pictures[rows], drawn.reading.rows(rows))


def as_asked(drawn: Rendered, questions: Sequence[EvalPrompt], heads: Sequence[str]) -> np.ndarray:
    """Share of what was asked that each picture shows, (B,)."""
    return correct(drawn.reading, questions, heads).nanmean(1).numpy()


def largest(means: Sequence[Mean]) -> Mean:
    """The mean with the largest value; one that is not a number only if all are."""
    return max(means, key=lambda m: -1.0 if np.isnan(m.value) else m.value)


def reader_part(bench: Experiment) -> Result:
    """How well the recognizer reads renders that it never saw."""
    count = min(_RENDERS, 20 * bench.plan.names)
    return Result(
        {
            f"reader.{k}": m
            for k, m in read_renders(bench.model.recognizer, bench.model.world, count).items()
        }
    )


def _paper(bench: Experiment) -> PromptSet:
    plan = bench.plan
    return PromptSet.of(bench.model.world, plan.names, plan.seeds, plan.free)


def _random(bench: Experiment) -> Rows:
    return random_rows(bench.model.encoder, bench.prefix.n, bench.prefix.behind)


def identity_part(bench: Experiment) -> Result:
    """Trained and held-out names under the prefix, every baseline, and the eraser."""
    prompts = _paper(bench)
    eraser, cost = bench.made("eraser")
    conditions = {
        **baselines(_random(bench)),
        "prefix": Condition(CONDITION_TITLES["prefix"], bench.prefix.rows(), brief=False),
        "eraser": Condition("weights edited"),
    }
    shots = {
        name: bench.draw(
            [c.rewrite(q) for q in c.prompts_of(prompts).named],
            c.rows,
            eraser if name == "eraser" else None,
        )
        for name, c in conditions.items()
    }
    drawn = {name: shot.result() for name, shot in shots.items()}
    figures: dict[str, Mean] = {}
    for name, condition in conditions.items():
        asked = condition.prompts_of(prompts)
        start = 0
        for group, questions in zip(GROUPS, (asked.trained, asked.heldout), strict=True):
            part = some(drawn[name], start, start + len(questions))
            start += len(questions)
            found = recognized(bench, part, [q.subject for q in questions])
            figures |= {f"{k}.{group}.{name}": m for k, m in found.figures().items()}
        who = [q.subject for q in asked.named]
        figures[f"face_found.{name}"] = mean(drawn[name].reading.is_face().numpy(), who)
        figures[f"scene.{name}"] = mean(as_asked(drawn[name], asked.named, SCENE), who)
    learned = dict(bench.made("prefix")[1])
    if bench.order.prefix:  # the copying of a file is no training
        del learned["seconds"]
    numbers = {f"eraser.{k}": v for k, v in cost.items()}
    numbers |= {f"prefix.{k}": v for k, v in learned.items()}
    return Result(figures, numbers, _identity_sheet(bench, prompts, conditions, drawn))


def _identity_sheet(
    bench: Experiment,
    prompts: PromptSet,
    conditions: dict[str, Condition],
    drawn: dict[str, Rendered],
) -> dict[str, str]:
    brief = prompts.brief()
    shown = [*brief.trained[:3], *brief.heldout[:3]]
    titles = {
        "none": "no prefix",
        "prefix": "prefix",
        "eraser": "weights\nedited",
        "description": "description",
        "negative": "negative\nprompt",
    }
    asked = {n: conditions[n].prompts_of(prompts).named for n in titles}
    rows = [drawn[n].pictures[[asked[n].index(q) for q in shown]] for n in titles]
    groups = [("train group", len(brief.trained[:3])), ("held out", len(brief.heldout[:3]))]
    save_sheet(
        rows,
        bench.sheet("identity.png"),
        list(titles.values()),
        [q.subject for q in shown],
        groups=groups,
    )
    return {"identity.png": "Names of the train group above, held-out names below; same seeds."}


def variations_part(bench: Experiment) -> Result:
    """Prompts as people really type them, with and without the prefix."""
    world, plan = bench.model.world, bench.plan
    count = plan.variation_names
    people = {
        "trained": world.group("train")[-max(count // 2, 2) :],
        "heldout": world.group("heldout")[:count],
    }
    tokenize, vectors = bench.model.encoder.towers[0].tokenize, bench.prefix.n
    asked: dict[tuple[str, str], list[Named]] = {
        (group, kind): variation(kind, members, plan.variation_seeds, _SEED, tokenize, vectors)
        for group, members in people.items()
        for kind in VARIATIONS
    }
    requests = [n.request() for named in asked.values() for n in named]
    shots = {"none": bench.draw(requests), "prefix": bench.draw(requests, bench.prefix.rows())}
    figures: dict[str, Mean] = {}
    rows: list[torch.Tensor] = []
    for condition, shot in shots.items():
        drawn, start = shot.result(), 0
        places: list[int] = []
        for (group, kind), named in asked.items():
            part = some(drawn, start, start + len(named))
            found = recognized(bench, part, [n.who for n in named], [n.other for n in named])
            figures[f"variation.{kind}.{group}.{condition}"] = found.top1
            figures[f"variation_face.{kind}.{group}.{condition}"] = found.face_found
            places += [start] if group == "heldout" else []
            start += len(named)
        rows.append(drawn.pictures[places])
    heldout = [figures[f"variation.{k}.heldout.prefix"] for k in VARIATIONS]
    faces = [m for k, m in figures.items() if "_face." in k and k.endswith(".prefix")]
    figures["identity.heldout.worst_variation"] = largest(heldout)
    figures["face_found.worst"] = min(faces, key=lambda m: m.value)
    save_sheet(rows, bench.sheet("variations.png"), ("no prefix", "prefix"), VARIATIONS)
    caption = f"{people['heldout'][0].name} (held out), in every kind of prompt."
    return Result(figures, {}, {"variations.png": caption})


def fidelity_part(bench: Experiment) -> Result:
    """Name-free prompts of people and of things: drawn as asked, and drawn as before."""
    prompts = _paper(bench)
    requests = [q.request() for q in prompts.free]
    shots = {
        "none": bench.draw(requests),
        "reseeded": bench.draw(reseeded(prompts)),
        "random": bench.draw(requests, _random(bench)),
        "eraser": bench.draw(requests, folder=bench.made("eraser")[0]),
        "prefix": bench.draw(requests, bench.prefix.rows()),
    }
    drawn = {name: shot.result() for name, shot in shots.items()}
    middle = len(prompts.people)
    heads = {
        "people": (0, middle, prompts.people, PEOPLE),
        **{f"people.{h}": (0, middle, prompts.people, (h,)) for h in PEOPLE},
        "things": (middle, None, prompts.things, THINGS),
        "objects": (middle, None, prompts.things, ("thing0", "thing1")),
        "colours": (middle, None, prompts.things, ("colour0", "colour1")),
        "backgrounds": (middle, None, prompts.things, ("background",)),
    }
    figures: dict[str, Mean] = {}
    for key, (start, stop, questions, asked) in heads.items():
        right = {n: as_asked(some(d, start, stop), questions, asked) for n, d in drawn.items()}
        figures |= {f"fidelity.{key}.{n}": mean(v) for n, v in right.items()}
        for name in ("prefix", "eraser", "random"):
            end = "drop" if name == "prefix" else f"drop.{name}"
            figures[f"fidelity.{key}.{end}"] = mean(right["none"] - right[name])
    plain = drawn["none"].pictures
    maps, features = bench.reader.maps(plain), bench.reader.features(plain)
    for name in ("reseeded", "random", "eraser", "prefix"):
        pictures = drawn[name].pictures
        figures[f"change.pixels.{name}"] = mean(pixel_change(plain, pictures).numpy())
        change = feature_change(maps, bench.reader.maps(pictures))
        figures[f"change.features.{name}"] = mean(change.numpy())
        seen = bench.reader.features(pictures)
        figures[f"change.kid.{name}"] = kid_mean(features, seen)
        value = fid(features, seen)
        figures[f"change.fid.{name}"] = Mean(value, np.nan, np.nan, len(seen))
    share = figures["change.pixels.prefix"].value / figures["change.pixels.reseeded"].value
    places = [*range(4), *range(middle, middle + 4)]
    places = [p for p in places if p < len(plain)]
    titles = {
        "none": "no prefix",
        "prefix": "prefix",
        "eraser": "weights\nedited",
        "reseeded": "other seed",
    }
    save_sheet(
        [drawn[n].pictures[places] for n in titles],
        bench.sheet("fidelity.png"),
        list(titles.values()),
    )
    sheets = {"fidelity.png": "Prompts that name nobody: people on the left, things on the right."}
    return Result(figures, {"change.share_of_a_seed": share}, sheets)
