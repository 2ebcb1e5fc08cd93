"""What the pocket world's networks learn from, and the stages that can be killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apl_trainer.pocket.model import load_pocket
from apl_trainer.pocket.networks import new_text_encoder, new_unet, to_latents
from apl_trainer.pocket.recognizer import Recognizer
from apl_trainer.pocket.vocabulary import read_vocabulary
from apl_trainer.pocket.world import World
from apl_trainer.run_paths import BUILT_IN
from benchmarks.pocket_build.build import build
from benchmarks.pocket_build.dataset import Subjects, filler_text, invent
from benchmarks.pocket_build.losses import (
    DenoisingModel,
    TextLoss,
    seen_difference,
    text_loss,
    tokenize,
    unet_loss,
)
from benchmarks.pocket_build.timed_trainer import TimedTrainer

WORLD = World.load(BUILT_IN / "world.json")
TOKENIZER = read_vocabulary(BUILT_IN)


@pytest.fixture(scope="module")
def material() -> tuple[Subjects, Tensor, Tensor]:
    """Subjects, their pictures, and two captions of each as ids."""
    rng = np.random.default_rng(0)
    subjects = invent(WORLD, WORLD.group("train"), (160, 160, 160), rng)
    pictures = torch.from_numpy(subjects.draw(rng, lambda n: n))
    captions = [[subjects.caption(i, rng) for i in range(480)] for _ in range(2)]
    return subjects, pictures, torch.stack([tokenize(TOKENIZER, said) for said in captions])


def new_critic() -> Recognizer:
    torch.manual_seed(1)
    return Recognizer(4).eval().requires_grad_(False)


def descends(module: nn.Module, loss: object, steps: int) -> tuple[float, float]:
    """Mean of the first and of the last four losses of a few optimizer steps."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    random = torch.Generator().manual_seed(0)
    losses: list[float] = []
    for _ in range(steps):
        found = loss(random)  # type: ignore[operator]
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    return sum(losses[:4]) / 4, sum(losses[-4:]) / 4


def test_the_text_encoder_learns_to_read_captions() -> None:
    torch.manual_seed(0)
    model = TextLoss(new_text_encoder(len(TOKENIZER)))
    first, last = descends(model, text_loss(model, TOKENIZER, WORLD, WORLD.group("train")[:8]), 16)
    assert last < 0.95 * first


def test_the_painter_learns_in_short_whole_and_long_batches(
    material: tuple[Subjects, Tensor, Tensor],
) -> None:
    _, pictures, captions = material
    torch.manual_seed(0)
    denoising = DenoisingModel(new_text_encoder(len(TOKENIZER)), new_unet())
    lengths: set[int] = set()

    def seen(module: nn.Module, given: tuple[Tensor, Tensor, list[Tensor]]) -> None:
        lengths.add(sum(chunk.shape[1] for chunk in given[2]))

    denoising.register_forward_pre_hook(seen)
    rng = np.random.default_rng(1)
    fillers = tokenize(TOKENIZER, [filler_text(rng) for _ in range(4)])
    before = captions.clone()
    loss_of = unet_loss(
        denoising, pictures, captions, tokenize(TOKENIZER, [""]), fillers, new_critic()
    )
    first, last = descends(denoising, loss_of, 14)
    assert last < 0.9 * first
    assert {77, 154} <= lengths and min(lengths) < 40
    assert torch.equal(captions, before)


def test_what_a_critic_sees_counts_differences_and_can_be_learned_from(
    material: tuple[Subjects, Tensor, Tensor],
) -> None:
    critic, latents = new_critic(), to_latents(material[1][:8].float() / 255)
    assert seen_difference(critic, latents, latents) == 0
    near = (latents + 0.05 * torch.randn(latents.shape)).requires_grad_()
    far = latents.flip(0)
    assert 0 < seen_difference(critic, near, latents) < seen_difference(critic, far, latents)
    (gradient,) = torch.autograd.grad(seen_difference(critic, near, latents), near)
    assert gradient.abs().sum() > 0
    assert all(weight.grad is None for weight in critic.parameters())


def test_a_finished_model_is_trained_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("_PER_PERSON", 1), ("_ANONYMOUS", 64), ("_THINGS", 64)):
        monkeypatch.setattr(f"benchmarks.pocket_build.build.{name}", count)
    build(tmp_path, WORLD.seed, 0.002, BUILT_IN)
    before, after = load_pocket(), load_pocket(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == (BUILT_IN / "merges.txt").read_bytes()
    assert after.world == before.world
    weights = (before.denoiser.unet.state_dict(), after.denoiser.unet.state_dict())
    moved = [(a - b).abs().max() for a, b in zip(*(w.values() for w in weights), strict=True)]
    assert 0 < max(moved) < 0.1
    readers = (before.recognizer.state_dict(), after.recognizer.state_dict())
    assert all(torch.equal(*pair) for pair in zip(*(r.values() for r in readers), strict=True))


@pytest.mark.parametrize("muon", [False, True])
def test_a_killed_stage_goes_on_where_it_was(tmp_path: Path, muon: bool) -> None:
    if muon and not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")

    class Killed(Exception):
        pass

    def loss_for(module: nn.Linear, until: int) -> object:
        calls = 0

        def loss(random: torch.Generator) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > until:
                raise Killed
            return module(torch.randn(4, 3, generator=random)).square().mean()

        return loss

    one = nn.Linear(3, 1)
    matrices = [one.weight] if muon else []
    stage = TimedTrainer("line", one, tmp_path, 1000.0, 1e-2, matrices=matrices)
    with pytest.raises(Killed):
        stage.run(loss_for(one, 20))  # type: ignore[arg-type]
    stage._save()  # what it does every half minute
    other = nn.Linear(3, 1)
    matrices = [other.weight] if muon else []
    again = TimedTrainer("line", other, tmp_path, 1000.0, 1e-2, matrices=matrices)
    assert again.steps == 20 and again.spent == pytest.approx(stage.spent)
    assert torch.equal(other.weight, one.weight)
    assert torch.equal(again.average["weight"], stage.average["weight"])
    assert len(again.optimizers) == 1 + muon
    for found, wanted in zip(again.optimizers, stage.optimizers, strict=True):
        moments, theirs = (optimizer.state_dict()["state"] for optimizer in (found, wanted))
        assert moments.keys() == theirs.keys() != set()
        for key, state in moments.items():
            assert all(torch.equal(value, theirs[key][name]) for name, value in state.items())
