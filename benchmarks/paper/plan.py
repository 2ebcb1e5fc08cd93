"""How much of everything is drawn and learned: the quick run, the full one, and a tiny one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from apl_core.training.config import PAPER, TrainConfig

VARIANTS = ("ink", "warm", "mix")
"""Fine-tuned pocket models: drawn with outlines, in another palette, learned from other data."""

ROUTES = ("dreambooth", "inversion")
"""Ways in which somebody is taught to the model after the prefix was learned."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """Counts of one benchmark; two runs with equal plans, models and prefixes are equal."""

    names: int = 64
    seeds: int = 4
    free: int = 128
    variation_names: int = 64
    variation_seeds: int = 2
    transfer_seeds: int = 2
    transfer_free: int = 48
    personal: int = 16
    personal_seeds: int = 6
    steps: int = 10
    variant_steps: int = 300
    variant_renders: int = 900
    dreambooth_steps: int = 500
    inversion_steps: int = 900
    prefix_steps: int = 375
    target_cache: int = 0
    ablation_steps: int = 400
    ablation_names: int = 64
    ablation_free: int = 48
    ablations: tuple[str, ...] = ()
    batch: int = 32

    def plain(self) -> dict[str, object]:
        """The plan for JSON."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**found, "ablations": list(self.ablations)}


def ablation(name: str, plan: BenchmarkPlan) -> tuple[TrainConfig, int | None]:
    """The settings of one ablation, and how many train names it learns from (None: all)."""
    base = TrainConfig(steps=plan.ablation_steps, validate_every=0, save_every=10_000)
    base = replace(base, target_cache=plan.target_cache or base.target_cache)
    key, _, value = name.partition("=")
    if key == "num_vectors":
        count = int(value)  # in front and behind in the recipe's proportion
        return replace(
            base,
            num_vectors=count,
            num_suffix_vectors=count * base.num_suffix_vectors // base.num_vectors,
        ), None
    if key == "names":
        return base, int(value)
    if key == "recipe" and value == "paper":  # three of its steps cost about one of ours
        return replace(
            PAPER, steps=3 * plan.ablation_steps, validate_every=0, save_every=10_000
        ), None
    if key == "place":
        return replace(
            base, num_suffix_vectors=0 if value == "front" else base.num_suffix_vectors
        ), None
    if key == "people":
        return replace(base, weight_people=float(value)), None
    if key in ("target", "prefix_init"):
        return replace(base, **{key: value}), None
    if name == "recipe=apl":
        return base, None
    raise ValueError(f"no ablation is called {name}")


FULL = BenchmarkPlan(
    ablations=(
        "recipe=apl",
        "recipe=paper",
        "num_vectors=1",
        "num_vectors=4",
        "num_vectors=20",
        "place=front",
        "target=description",
        "target=empty",
        "prefix_init=normal",
        "prefix_init=uniform",
        "people=1",
        "names=4",
        "names=16",
        "names=64",
    )
)
"""37 minutes on two quiet cores, measured when the prefix took 700 steps."""

QUICK = BenchmarkPlan(
    names=20,
    seeds=2,
    free=48,
    variation_names=20,
    variation_seeds=1,
    transfer_seeds=1,
    transfer_free=16,
    personal=8,
    personal_seeds=3,
    steps=10,
    variant_steps=80,
    variant_renders=600,
    dreambooth_steps=200,
    inversion_steps=320,
    prefix_steps=360,
    ablation_steps=60,
    ablation_names=20,
    ablation_free=16,
    ablations=("recipe=apl", "recipe=paper", "place=front"),
)
"""Seven and a half minutes on two quiet cores: every experiment is there, with wide intervals."""

TINY = BenchmarkPlan(
    names=2,
    seeds=2,
    free=2,
    variation_names=2,
    variation_seeds=1,
    transfer_seeds=1,
    transfer_free=2,
    personal=2,
    personal_seeds=1,
    steps=2,
    variant_steps=1,
    variant_renders=12,
    dreambooth_steps=1,
    inversion_steps=1,
    prefix_steps=2,
    target_cache=30,
    ablation_steps=2,
    ablation_names=2,
    ablation_free=2,
    ablations=("recipe=paper", "names=4"),
    batch=4,
)
"""Seconds, for tests: everything runs and nothing is learned."""
