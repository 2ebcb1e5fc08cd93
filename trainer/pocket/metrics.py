"""The full measurement of a prefix on a pocket model: identity, faces, scenes and drift.

Everything is measured beside plain baselines in the same call, on the same prompts and seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluation.conditions import Condition, EvalPrompts
from ..statistics import Mean, mean
from .eval_prompts import correct, identity_prompts, people_prompts, things_prompts
from .render_pool import Rendered
from .world import World

SCENE = ("hat", "shirt", "background")
PEOPLE = ("gender", "hair", "background")
THINGS = ("thing0", "thing1", "colour0", "colour1", "background")

Advance = Callable[[int], object]


@dataclass(frozen=True)
class PromptSet(EvalPrompts):
    """The prompts of one evaluation in a pocket world."""

    @staticmethod
    def of(world: World, names: int = 64, seeds: int = 4, free: int = 128) -> PromptSet:
        """Questions about `names` trained and held-out names each, and `free` name-free prompts."""
        trained, heldout = world.group("train")[-names:], world.group("heldout")[:names]
        return PromptSet(
            tuple(identity_prompts(world, trained, seeds)),
            tuple(identity_prompts(world, heldout, seeds, 10_000)),
            tuple(people_prompts(world, free)),
            tuple(things_prompts(world, free)),
        )


@dataclass(frozen=True)
class PendingImages:
    """Pictures in the making: the futures of what a renderer draws."""

    futures: list[Future[Rendered]]

    def result(self, advance: Advance) -> Rendered:
        """Wait for the pictures; `advance` is told how many came."""
        parts: list[Rendered] = []
        for future in self.futures:
            parts.append(future.result())
            advance(len(parts[-1].pictures))
        return Rendered.join(parts)


def figures(drawn: Rendered, condition: Condition, whole: PromptSet) -> dict[str, Mean]:
    """All figures of one condition, each with its interval; keys as in docs/results.md."""
    prompts = condition.prompts_of(whole)
    found: dict[str, Mean] = {}
    groups = {"trained": prompts.trained, "heldout": prompts.heldout}
    first = 0
    for group, questions in groups.items():
        identity = drawn.reading.scores["identity"][first : first + len(questions)]
        asked = torch.tensor([q.asked["identity"] for q in questions])
        who = [q.subject for q in questions]
        best = identity.topk(5, 1).indices == asked[:, None]
        found[f"identity_top1.{group}"] = mean(best[:, 0].numpy(), who)
        found[f"identity_top5.{group}"] = mean(best.any(1).numpy(), who)
        first += len(questions)
    everyone = [q.subject for q in prompts.named]
    found["face_found"] = mean(drawn.reading.is_face()[:first].numpy(), everyone)
    reading = drawn.reading.rows(slice(first))
    found["scene"] = mean(correct(reading, prompts.named, SCENE).nanmean(1).numpy(), everyone)
    if condition.free:
        middle = first + len(prompts.people)
        people = correct(drawn.reading.rows(slice(first, middle)), prompts.people, PEOPLE)
        found["people"] = mean(people.nanmean(1).numpy())
        found |= {f"people.{h}": mean(people[:, i].numpy()) for i, h in enumerate(PEOPLE)}
        things = correct(drawn.reading.rows(slice(middle, None)), prompts.things, THINGS)
        found["things"] = mean(things.nanmean(1).numpy())
        for name, columns in (("objects", [0, 1]), ("colours", [2, 3]), ("backgrounds", [4])):
            found[name] = mean(things[:, columns].nanmean(1).numpy())
    return found


def change(one: Tensor, other: Tensor) -> Mean:
    """Mean squared pixel difference of pictures (B, 3, H, W), pair by pair."""
    return mean((one - other).square().flatten(1).mean(1).numpy())
