"""What has to be learned before it can be measured: prefixes, variants, taught people, the eraser.

Every making is a folder `made/NAME` with facts.json in it, written aside and moved into place
when it is finished: a run that was killed finds the finished ones again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from apl_core.atomic import write_text
from apl_core.example_kinds import PERSON
from apl_core.formats import read_prefix
from apl_core.prefix import Prefix
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_trainer.pocket.captions import TEMPLATES
from apl_trainer.pocket.eval_prompts import people_prompts, things_prompts
from apl_trainer.pocket.model import PocketModel, load_pocket
from apl_trainer.pocket.train import PocketOrigin, pocket_run
from apl_trainer.pocket.world import Person

from .eraser import erase
from .finetune import FinetuneData, fine_tune, invert, renders
from .plan import ROUTES, VARIANTS, BenchmarkPlan, ablation
from .styles import STYLES
from .variants import save_variant

WORD_ROWS = 8
"""Token embeddings that a textual inversion learns for one person."""

_STYLE_RATE, _PERSON_RATE, _WORD_RATE = 5e-4, 1e-3, 0.05
_TAUGHT_RENDERS, _KEPT_SEED = 64, 300_000

Facts = dict[str, float]
GenerationSettings = Callable[[PocketModel, Path, BenchmarkPlan], Facts]


@dataclass(frozen=True)
class ArtifactSpec:
    """What a worker needs to make something: the model, where to put it, and how much."""

    model: Path
    out: Path
    plan: BenchmarkPlan
    prefix: Path | None

    def folder(self, name: str) -> Path:
        """Where a making lies once it is finished."""
        return self.out / "made" / name


def names_of(plan: BenchmarkPlan) -> list[str]:
    """All artifacts of a plan, the slowest first."""
    found = ["prefix", *(f"ablation-{a}" for a in plan.ablations), *ROUTES]
    return [*found, *(f"variant-{v}" for v in VARIANTS), "eraser"]


def make(name: str, order: ArtifactSpec) -> Facts:
    """Make one thing, unless it is there already; returns its facts, `seconds` among them."""
    folder = order.folder(name)
    if (folder / "facts.json").exists():
        return read_facts(folder)
    work = order.out / "made" / f".{name}-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    torch.manual_seed(0)
    began = time.perf_counter()
    facts = _maker(name, order)(load_pocket(order.model), work, order.plan)
    facts = {"seconds": time.perf_counter() - began, **facts}
    write_text(work / "facts.json", json.dumps(facts, indent=1) + "\n")
    if folder.exists():  # another process was faster
        shutil.rmtree(work)
        return read_facts(folder)
    work.replace(folder)
    return facts


def read_facts(folder: Path) -> Facts:
    """The facts of a finished making."""
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))


def made_prefix(folder: Path) -> Prefix:
    """The prefix that a making learned."""
    return read_prefix(folder / "prefix.safetensors")


def inverted(person: Person) -> str:
    """The new word that stands for a person after textual inversion."""
    return f"<{person.name.split()[1].lower()}>"


def _maker(name: str, order: ArtifactSpec) -> GenerationSettings:
    kind, _, rest = name.partition("-")
    if name == "prefix":
        return _given(order.prefix) if order.prefix else _learned
    if kind == "ablation":
        return lambda model, out, plan: _train(model, out, *ablation(rest, plan))
    if kind == "variant":
        return lambda model, out, plan: _variant(model, out, plan, rest)
    return {"dreambooth": _dreambooth, "inversion": _inversion, "eraser": _eraser}[kind]


def _given(file: Path) -> GenerationSettings:
    def copied(model: PocketModel, out: Path, plan: BenchmarkPlan) -> Facts:
        shutil.copyfile(file, out / "prefix.safetensors")
        return {"bytes": file.stat().st_size}

    return copied


def _learned(model: PocketModel, out: Path, plan: BenchmarkPlan) -> Facts:
    recipe = TrainConfig()
    cache = plan.target_cache or plan.prefix_steps * recipe.target_cache // recipe.steps
    config = replace(recipe, steps=plan.prefix_steps, target_cache=cache, validate_every=0)
    return _train(model, out, config, None)


def _train(model: PocketModel, out: Path, config: TrainConfig, names: int | None) -> Facts:
    people = None
    if names is not None:  # `training_people` keeps an eighth, and at least one, for choosing
        every = model.world.group("train")
        people = tuple(p.name for p in every[: max(names, 4)])
    folder = RunFolder(out / "run")
    folder.create(config)
    prefix = pocket_run(model, config, folder, PocketOrigin(str(model.folder), people)).run()
    shutil.copyfile(folder.prefix, out / "prefix.safetensors")
    for leftover in out.glob("run/state.*"):
        leftover.unlink()
    size = (out / "prefix.safetensors").stat().st_size
    return {"bytes": size, "steps": config.steps, "vectors": prefix.n}


def _known(model: PocketModel) -> tuple[Person, ...]:
    return model.world.group("train") + model.world.group("heldout")


def _variant(model: PocketModel, out: Path, plan: BenchmarkPlan, kind: str) -> Facts:
    """Fine-tune on re-styled renders, or on another mix: mostly things, and people with hats."""
    n = plan.variant_renders
    mix = (n // 5, n // 5, 3 * n // 5) if kind == "mix" else (n // 2, n // 4, n // 4)
    people = _known(model)[::3] if kind == "mix" else _known(model)
    material = renders(model, people, mix, VARIANTS.index(kind), STYLES.get(kind))
    fine_tune(model, material, plan.variant_steps, _STYLE_RATE, plan.batch)
    save_variant(model.folder, model.denoiser.unet, out)
    return {"steps": plan.variant_steps, "renders": len(material.captions)}


def _taught(model: PocketModel, plan: BenchmarkPlan) -> tuple[Person, ...]:
    return model.world.group("personal")[: plan.personal]


def _dreambooth(model: PocketModel, out: Path, plan: BenchmarkPlan) -> Facts:
    """Teach the personal people by pictures with their names; as many others keep the rest."""
    people = _taught(model, plan)
    taught = renders(model, people, (_TAUGHT_RENDERS * len(people), 0, 0), 11)
    count = len(taught.captions)
    prior = renders(model, _known(model), (count // 2, count // 4, count // 4), 12)
    fine_tune(
        model, FinetuneData.join([taught, prior]), plan.dreambooth_steps, _PERSON_RATE, plan.batch
    )
    save_variant(model.folder, model.denoiser.unet, out)
    return {"steps": plan.dreambooth_steps, "people": len(people)}


def _inversion(model: PocketModel, out: Path, plan: BenchmarkPlan) -> Facts:
    """Learn a new word for each of the personal people; the model itself stays as it is."""
    people = _taught(model, plan)
    material: list[FinetuneData] = []
    for i, person in enumerate(people):
        drawn = renders(model, (person,), (_TAUGHT_RENDERS, 0, 0), 20 + i)
        captions = tuple(c.replace(person.name, inverted(person)) for c in drawn.captions)
        material.append(FinetuneData(drawn.latents, captions))
    words = invert(
        model,
        [inverted(p) for p in people],
        material,
        WORD_ROWS,
        plan.inversion_steps,
        _WORD_RATE,
        plan.batch,
    )
    save_variant(model.folder, None, out, words)
    return {"steps": plan.inversion_steps, "people": len(people)}


def _eraser(model: PocketModel, out: Path, plan: BenchmarkPlan) -> Facts:
    """Erase all train names in closed form; only the edit itself is timed."""
    keep = [
        q.request().prompt
        for ask in (people_prompts, things_prompts)
        for q in ask(model.world, 8 * plan.free, _KEPT_SEED)
    ]
    names = [p.name for p in model.world.group("train")]
    began = time.perf_counter()
    size = erase(model.encoder, model.denoiser.unet, names, TEMPLATES, PERSON, keep)
    seconds = time.perf_counter() - began
    save_variant(model.folder, model.denoiser.unet, out)
    return {"seconds": seconds, "bytes": size, "names": len(names)}
