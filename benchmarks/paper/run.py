"""Runs the benchmark: parts one after the other, each kept, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from apl_core.atomic import write_text
from apl_core.errors import RunError
from apl_core.training.config import TrainConfig
from apl_trainer.pocket.model import PocketModel

from .artifacts import ArtifactSpec, names_of
from .experiment import Experiment, Pool, Result
from .parts_models import needs, parts_of
from .plan import BenchmarkPlan
from .report import Facts, write_report


@dataclass(frozen=True)
class Share:
    """Which of the parts this process does: every `of`-th, from `rank` on."""

    rank: int = 0
    of: int = 1

    def parts(self, names: list[str]) -> list[str]:
        """The names of this process's parts."""
        return names[self.rank :: self.of]


def run_paper(
    model: PocketModel,
    out: Path,
    plan: BenchmarkPlan,
    prefix: Path | None,
    workers: int,
    share: Share,
    command: str,
) -> dict[str, float | None] | None:
    """The parts of this share, and the report once all parts are there; else None.

    Every part is a file `parts/NAME.json` that is used again; RunError when `out` holds a
    benchmark of another model, prefix or plan.
    """
    began = time.perf_counter()
    digest = _digest(model.folder / "model.safetensors")
    out.mkdir(parents=True, exist_ok=True)
    _claim(
        out,
        {
            "plan": plan.plain(),
            "model": digest,
            "recipe": TrainConfig().to_toml(),
            "prefix": _digest(prefix) if prefix else None,
        },
    )
    torch.set_num_threads(1)
    parts = parts_of(plan)
    missing = [p for p in share.parts(list(parts)) if not _file(out, p).exists()]
    wanted = {m for p in missing for m in needs(p)}
    total = len(missing) + len(wanted)
    with Pool(workers) as pool, tqdm(total=total, unit="piece", desc="paper") as bar:

        def advance(_: object = None) -> None:
            with tqdm.get_lock():  # artifacts end in another thread
                bar.update()

        bench = Experiment(model, ArtifactSpec(model.folder, out, plan, prefix), pool)
        bar.set_postfix_str(f"{len(wanted)} artifacts under way")
        bench.start([m for m in names_of(plan) if m in wanted], advance)
        for name in missing:
            bar.set_postfix_str(name)
            start = time.perf_counter()
            try:
                result = parts[name](bench)
            except BrokenProcessPool as error:
                raise RunError(
                    f"measure {name}",
                    "a worker process was ended from outside (memory?)",
                    "start the same command again, it goes on here; --workers 1 takes less memory",
                ) from error
            result.numbers[f"seconds.part.{name}"] = time.perf_counter() - start
            result.save(_file(out, name))
            advance()
        if not all(_file(out, p).exists() for p in parts):
            return None
        rows = bench.prefix
    results = {name: Result.load(_file(out, name)) for name in parts}
    about = {"digest": rows.short_digest, "vectors": rows.n, "behind": rows.behind}
    seconds = time.perf_counter() - began
    return write_report(out, results, Facts(model.name, digest, about, command, plan, seconds))


def missing_parts(out: Path, plan: BenchmarkPlan) -> list[str]:
    """Parts that are not measured yet."""
    return [p for p in parts_of(plan) if not _file(out, p).exists()]


def _file(out: Path, part: str) -> Path:
    return out / "parts" / f"{part}.json"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Write settings.json, or check that it says the same."""
    file = out / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if not file.exists():
        write_text(file, text)
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    other = [k for k, v in json.loads(text).items() if found.get(k) != v]
    if other:
        raise RunError(
            f"go on with the benchmark in {out}",
            f"it was begun with another {', '.join(other)}",
            "give another --out, or delete that folder",
        )
