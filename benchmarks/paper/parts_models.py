"""Experiments 3 to 5: other models, people taught later, and what each setting is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from apl_core.example_kinds import PERSON
from apl_core.prefix import Rows
from apl_trainer.evaluation.distances import pixel_change
from apl_trainer.pocket.eval_prompts import identity_prompts, people_prompts, things_prompts
from apl_trainer.pocket.metrics import PEOPLE, THINGS
from apl_trainer.pocket.networks import to_pictures
from apl_trainer.pocket.render_pool import Rendered
from apl_trainer.report.sheet import save_sheet
from apl_trainer.statistics import Mean, mean

from .artifacts import inverted, made_prefix
from .experiment import Experiment, PendingResult, Result
from .finetune import renders
from .parts import (
    as_asked,
    fidelity_part,
    identity_part,
    reader_part,
    recognized,
    some,
    variations_part,
)
from .plan import ROUTES, VARIANTS, BenchmarkPlan
from .prompts import variation
from .styles import STYLES

_FIRST = 650_000
_READ = 128


class _Exam:
    """Held-out names and a few name-free prompts, asked in one go."""

    def __init__(self, bench: Experiment, names: int, seeds: int, free: int) -> None:
        world = bench.model.world
        self.bench = bench
        self.named = identity_prompts(world, world.group("heldout")[:names], seeds, _FIRST)
        self.people = people_prompts(world, free, _FIRST + 10_000)
        self.things = things_prompts(world, free, _FIRST + 20_000)
        self.asked = [*self.named, *self.people, *self.things]

    def draw(self, rows: Rows | None, folder: Path | None = None) -> PendingResult:
        """Start drawing all its pictures."""
        return self.bench.draw([q.request() for q in self.asked], rows, folder)

    def figures(self, drawn: Rendered) -> dict[str, Mean]:
        """Identity of held-out names, faces, and what of the name-free prompts came out."""
        n, m = len(self.named), len(self.named) + len(self.people)
        found = recognized(self.bench, some(drawn, 0, n), [q.subject for q in self.named])
        return {
            "heldout": found.top1,
            "cosine": found.cosine,
            "face_found": found.face_found,
            "people": mean(as_asked(some(drawn, n, m), self.people, PEOPLE)),
            "things": mean(as_asked(some(drawn, m, None), self.things, THINGS)),
        }


def transfer_part(bench: Experiment, variant: str) -> Result:
    """The prefix, unchanged, on a variant of the model that it was not learned on."""
    folder, facts = bench.made(f"variant-{variant}")
    exam = _Exam(bench, bench.plan.names, bench.plan.transfer_seeds, bench.plan.transfer_free)
    n, step = len(exam.named), max(bench.plan.transfer_seeds, 1)
    places = [*range(0, min(5 * step, n), step), n, n + len(exam.people)]
    usual = bench.draw([exam.asked[i].request() for i in places])
    shots = {"none": exam.draw(None, folder), "prefix": exam.draw(bench.prefix.rows(), folder)}
    drawn = {name: shot.result() for name, shot in shots.items()}
    model = usual.result().pictures
    figures: dict[str, Mean] = {}
    for name, pictures in drawn.items():
        found = exam.figures(pictures)
        figures |= {f"transfer.{variant}.{k}.{name}": m for k, m in found.items()}
    figures[f"transfer.{variant}.reads"] = _reads(bench, variant)
    apart = pixel_change(model, drawn["none"].pictures[places])
    figures[f"transfer.{variant}.apart"] = mean(apart.numpy())
    sheet = f"transfer-{variant}.png"
    save_sheet(
        [model, *(drawn[k].pictures[places] for k in ("none", "prefix"))],
        bench.sheet(sheet),
        ("the model", f"{variant},\nno prefix", f"{variant},\nprefix"),
    )
    seconds = {f"transfer.{variant}.seconds": facts["seconds"]}
    return Result(figures, seconds, {sheet: f"Variant {variant}: held-out names and two others."})


def _reads(bench: Experiment, variant: str) -> Mean:
    """How well the recognizer names people in renders of the variant's style."""
    people = bench.model.world.group("heldout")
    drawn = renders(bench.model, people, (_READ, 0, 0), 40, STYLES.get(variant))
    who = [next(p.name for p in people if p.name in c) for c in drawn.captions]
    with torch.no_grad():
        pictures = to_pictures(drawn.latents)
        reading = bench.model.recognizer(pictures)
    return recognized(bench, Rendered(pictures, reading), who).top1


def personal_part(bench: Experiment, route: str) -> Result:
    """People whom the model was taught after the prefix was learned."""
    folder, facts = bench.made(route)
    people = bench.model.world.group("personal")[: bench.plan.personal]
    asked = identity_prompts(bench.model.world, people, bench.plan.personal_seeds, _FIRST)
    words = {p.name: inverted(p) if route == "inversion" else p.name for p in people}
    named = [q.request(words[q.subject]) for q in asked]
    shots = {
        "untaught": bench.draw([q.request() for q in asked]),
        "before": bench.draw(named, None, folder),
        "after": bench.draw(named, bench.prefix.rows(), folder),
        "floor": bench.draw([q.request(PERSON) for q in asked], None, folder),
    }
    figures: dict[str, Mean] = {}
    rows: list[torch.Tensor] = []
    for name, shot in shots.items():
        drawn = shot.result()
        found = recognized(bench, drawn, [q.subject for q in asked])
        figures[f"personalized.{route}.{name}"] = found.top1
        figures[f"personalized.{route}.face_found.{name}"] = found.face_found
        rows.append(drawn.pictures[:: bench.plan.personal_seeds][:8])
    sheet = f"personal-{route}.png"
    titles = ("untaught", "taught,\nno prefix", "taught,\nprefix", "“a person”")
    save_sheet(rows, bench.sheet(sheet), titles, [p.name for p in people[:8]])
    seconds = {f"personalized.{route}.seconds": facts["seconds"]}
    return Result(figures, seconds, {sheet: f"People taught by {route}."})


def chunks_part(bench: Experiment) -> Result:
    """A name in the second chunk: the prefix in every chunk, and in the first one only."""
    people = bench.model.world.group("heldout")[: bench.plan.variation_names]
    tokenize = bench.model.encoder.towers[0].tokenize
    named = variation("far back", people, 1, _FIRST, tokenize, bench.prefix.n)
    requests, rows = [n.request() for n in named], bench.prefix.rows()
    shots = {
        "none": bench.draw(requests),
        "every": bench.draw(requests, rows),
        "first_only": bench.draw(requests, rows, first_only=True),
    }
    drawn = {name: shot.result() for name, shot in shots.items()}
    found = {n: recognized(bench, d, [q.who for q in named]) for n, d in drawn.items()}
    figures = {f"chunks.{n}": f.top1 for n, f in found.items()}
    figures |= {f"chunks.face_found.{n}": f.face_found for n, f in found.items()}
    titles = ("no prefix", "every chunk", "first only")
    save_sheet([d.pictures[:8] for d in drawn.values()], bench.sheet("chunks.png"), titles)
    return Result(figures, {}, {"chunks.png": "A held-out name in the second chunk."})


def ablation_part(bench: Experiment, name: str) -> Result:
    """A prefix that was learned with one setting changed; `none` is no prefix."""
    exam = _Exam(bench, bench.plan.ablation_names, 2, bench.plan.ablation_free)
    if name == "none":
        found, numbers = exam.figures(exam.draw(None).result()), {}
    else:
        folder, facts = bench.made(f"ablation-{name}")
        found = exam.figures(exam.draw(made_prefix(folder).rows()).result())
        numbers = {f"ablation.{name}.{k}": v for k, v in facts.items()}
    return Result({f"ablation.{name}.{k}": m for k, m in found.items()}, numbers)


Part = Callable[[Experiment], Result]


def _with(function: Callable[[Experiment, str], Result], name: str) -> Part:
    return lambda bench: function(bench, name)


def parts_of(plan: BenchmarkPlan) -> dict[str, Part]:
    """All parts of a plan, in the order of the report."""
    parts: dict[str, Part] = {
        "reader": reader_part,
        "identity": identity_part,
        "variations": variations_part,
        "fidelity": fidelity_part,
    }
    parts |= {f"transfer-{v}": _with(transfer_part, v) for v in VARIANTS}
    parts |= {f"personal-{r}": _with(personal_part, r) for r in ROUTES}
    parts["chunks"] = chunks_part
    names = ["none", *plan.ablations]
    return parts | {f"ablation-{a}": _with(ablation_part, a) for a in names}


def needs(part: str) -> list[str]:
    """The artifacts that a part waits for."""
    kind, _, rest = part.partition("-")
    own = {
        "identity": ["prefix", "eraser"],
        "fidelity": ["prefix", "eraser"],
        "variations": ["prefix"],
        "chunks": ["prefix"],
        "reader": [],
        "transfer": ["prefix", f"variant-{rest}"],
        "personal": ["prefix", rest],
        "ablation": [] if rest == "none" else [part],
    }
    return own[kind]
