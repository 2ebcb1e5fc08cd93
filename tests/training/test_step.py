"""One step: how often the networks run, what gets gradients, and the authors' step beside ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_model import WIDTH, TinySource, tiny_model
from tiny_run import settings
from torch import Tensor, nn

from apl_core.example_kinds import Kind
from apl_core.objective import Example, TargetBatch
from apl_core.prefix import Rows
from apl_core.training.batches import BatchSampler
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.frozen import frozen
from apl_core.training.loop import Trainer
from apl_core.training.parallel import Group
from apl_core.training.step import clip, gradient

MODEL = tiny_model()
NETWORKS = [*MODEL.encoder.modules, *MODEL.denoiser.modules]
UNIT = [False, False]
"""Before the first step it is measured what another caption changes."""

PARAMETERS = [p for network in NETWORKS for p in network.parameters()]


def paper(**changes: object) -> TrainConfig:
    small = {"num_vectors": 4, "steps": 8, "validate_every": 0, "prefix_init": "words"}
    return TrainConfig.from_mapping({"recipe": "paper", **small, **changes})


def sampler(config: TrainConfig) -> BatchSampler:
    return BatchSampler(
        config, MODEL.encoder, MODEL.denoiser, TinySource(), Group(), lambda *_: None
    )


def some_rows(seed: int = 0) -> Rows:
    vectors = 0.2 * torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Rows({"pocket": vectors.requires_grad_()}, 2)


def gradient_of(config: TrainConfig, batch: TargetBatch, rows: Rows) -> tuple[Tensor, float]:
    with frozen(NETWORKS):
        loss, _ = gradient(config, MODEL.encoder, MODEL.denoiser, batch, rows, Group(), 1.0)
    found = rows.vectors["pocket"].grad
    assert found is not None
    return found, loss


@contextmanager
def counted(module: nn.Module) -> Iterator[list[bool]]:
    """Every run of a module from now on, and whether gradients were on."""
    runs: list[bool] = []
    handle = module.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    yield runs
    handle.remove()


def runs_of(config: TrainConfig, folder: Path) -> list[bool]:
    run = RunFolder(folder)
    run.create(config)
    with counted(MODEL.denoiser.modules[0]) as runs:
        Trainer(config, MODEL, TinySource(), run).run()
    return runs


def test_a_step_runs_the_unet_twice_once_without_gradient(tmp_path: Path) -> None:
    config = settings(steps=3, validate_every=0, repulsion=0.5)
    assert runs_of(config, tmp_path / "run") == UNIT + [False, True] * 3


def test_with_a_full_pool_a_step_runs_it_once(tmp_path: Path) -> None:
    config = settings(steps=5, validate_every=0, target_cache=12)
    assert runs_of(config, tmp_path / "run") == UNIT + [False, True] * 2 + [True] * 3


def test_a_pool_is_drawn_again_after_its_uses(tmp_path: Path) -> None:
    config = settings(steps=7, validate_every=0, target_cache=12, target_cache_uses=3)
    once = [False, True, False, True, True]
    assert runs_of(config, tmp_path / "run") == UNIT + once + once + once[:2]


def test_the_authors_step_runs_it_three_times(tmp_path: Path) -> None:
    assert runs_of(paper(steps=3), tmp_path / "run") == [False, False, True] * 3


def test_frozen_parts_get_no_gradients_and_are_put_back(tmp_path: Path) -> None:
    weights = [p.detach().clone() for p in PARAMETERS]
    odd = PARAMETERS[3]
    odd.requires_grad_(False)
    odd.grad = torch.ones_like(odd)
    MODEL.denoiser.modules[0].train()
    seen: list[tuple[bool, bool]] = []
    state = torch.random.get_rng_state()

    def look(module: nn.Module, *_: object) -> None:
        seen.append((any(p.requires_grad for p in PARAMETERS), module.training))

    handle = MODEL.denoiser.modules[0].register_forward_hook(look)
    try:
        run = RunFolder(tmp_path)
        config = settings(steps=2, validate_every=0)
        run.create(config)
        Trainer(config, MODEL, TinySource(), run).run()
    finally:
        handle.remove()
    assert seen == [(False, False)] * 6
    assert MODEL.denoiser.modules[0].training and not MODEL.encoder.modules[0].training
    assert [p.requires_grad for p in PARAMETERS] == [p is not odd for p in PARAMETERS]
    assert [p.grad is not None for p in PARAMETERS] == [p is odd for p in PARAMETERS]
    assert all(torch.equal(a, b) for a, b in zip(weights, PARAMETERS, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    odd.requires_grad_()
    odd.grad = None
    MODEL.denoiser.modules[0].eval()


def test_networks_are_put_back_after_an_error() -> None:
    MODEL.denoiser.modules[0].train()
    with pytest.raises(KeyError), frozen(NETWORKS, weight_gradients=True):
        PARAMETERS[0].grad = torch.ones_like(PARAMETERS[0])
        raise KeyError
    assert MODEL.denoiser.modules[0].training and PARAMETERS[0].grad is None
    MODEL.denoiser.modules[0].eval()


def test_the_authors_gradient_is_twice_ours() -> None:
    batch = sampler(settings(repulsion=0.0, target="person")).batch(0)
    ours, loss = gradient_of(settings(repulsion=0.0), batch, some_rows())
    weights = {
        f"weight_{kind}": getattr(settings(), f"weight_{kind}")
        for kind in ("identity", "things", "people")
    }
    theirs, their_loss = gradient_of(paper(**weights), batch, some_rows())
    assert float(nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), 0)) >= 0.9999
    assert float(theirs.norm() / ours.norm()) == pytest.approx(2, rel=1e-4)
    assert their_loss == pytest.approx(4 * loss, rel=1e-4)  # (2 (p - n))^2


def test_the_authors_step_collects_weight_gradients_and_throws_them_away(tmp_path: Path) -> None:
    collected: list[int] = []

    def on_event(event: object) -> None:
        collected.append(sum(p.grad is not None for p in PARAMETERS))

    run = RunFolder(tmp_path)
    run.create(paper(steps=1))
    Trainer(paper(steps=1), MODEL, TinySource(), run, callbacks=[on_event]).run()
    assert collected[0] > 0.9 * len(PARAMETERS)
    assert all(p.grad is None and p.requires_grad for p in PARAMETERS)


def test_the_authors_coin_gives_one_example_a_step() -> None:
    batches = [sampler(paper()).batch(step) for step in range(40)]
    assert all(len(batch) == 1 for batch in batches)
    kinds = [batch.kinds[0] for batch in batches]
    assert set(kinds) == {"identity", "things"} and 10 <= kinds.count("identity") <= 30
    again = [sampler(paper()).counts(step) for step in range(40)]
    assert [max(c, key=lambda k: c[k]) for c in again] == kinds


def test_the_authors_coin_works_with_a_pool_too() -> None:
    pooled = sampler(paper(target_cache=20))
    kinds = [pooled.batch(step).kinds for step in range(20)]
    assert set(kinds) == {("identity",), ("things",)}


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_micro_batches_add_up_to_the_whole_batch(micro_batch: int) -> None:
    """In float64, for this U-Net enlarges what float32 rounds differently in other batches."""
    model = tiny_model()
    networks = [*model.encoder.modules, *model.denoiser.modules]
    for network in networks:
        network.double()
    batch = sampler(settings()).batch(0)
    found: list[Tensor] = []
    for config in (settings(), settings(micro_batch=micro_batch)):
        rows = Rows({"pocket": some_rows().vectors["pocket"].detach().double().requires_grad_()}, 2)
        with frozen(networks):
            loss, losses = gradient(
                config, model.encoder, model.denoiser, batch, rows, Group(), 1.0
            )
        grad = rows.vectors["pocket"].grad
        assert grad is not None and set(losses) == {"identity", "things", "people"}
        found += [grad, torch.tensor([loss, *losses.values()])]
    assert float(found[0].norm()) > 0.1
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[3], found[1], rtol=1e-5, atol=0)


def test_a_kind_counts_by_its_weight_however_many_examples_it_has() -> None:
    batch = sampler(settings(batch_things=5)).batch(0)
    config = settings(weight_identity=0, weight_things=3.0, weight_people=0)
    found, loss = gradient_of(config, batch, some_rows())
    things = batch.pick([i for i, kind in enumerate(batch.kinds) if kind == "things"])
    alone, alone_loss = gradient_of(settings(weight_things=1.0), things, some_rows())
    torch.testing.assert_close(found, 3 * alone, rtol=1e-3, atol=1e-4 * float(found.abs().max()))
    assert loss == pytest.approx(3 * alone_loss, rel=1e-5)


def test_autocast_holds_for_teacher_and_student() -> None:
    [unet] = MODEL.denoiser.modules
    inner = next(m for m in unet.modules() if isinstance(m, nn.Conv2d))
    dtypes: list[torch.dtype] = []
    handle = inner.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    config = settings(mixed_precision="bf16")
    batch = sampler(config).batch(0)
    gradient_of(config, batch, some_rows())
    handle.remove()
    assert dtypes == [torch.bfloat16] * 2
    full = sampler(settings()).batch(0)
    assert torch.equal(batch.x_t, full.x_t) and batch.target.dtype == torch.float32
    assert nn.functional.mse_loss(batch.target, full.target) < 0.2 * full.target.var()


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    for changes in ({}, {"target_cache": 18}, {"target_cache": 18, "target_cache_uses": 3}):
        first, second = sampler(settings(**changes)), sampler(settings(**changes))
        in_order = [first.batch(step) for step in range(8)]
        for step in (7, 2, 5):
            again = second.batch(step)
            assert again.prompts == in_order[step].prompts
            assert torch.equal(again.target, in_order[step].target)
        assert len({float(batch.x_t.sum()) for batch in in_order}) == 8


def test_a_pool_holds_kinds_in_the_batch_s_proportion_and_batches_are_parts_of_it() -> None:
    config = settings(batch_identity=3, batch_things=2, batch_people=1, target_cache=60)
    source = sampler(config)
    batches = [source.batch(step) for step in range(30)]
    counts: dict[Kind, int] = {"identity": 3, "things": 2, "people": 1}
    for batch in batches:
        assert {kind: batch.kinds.count(kind) for kind in counts} == counts
    used = Counter(x.numpy().tobytes() for batch in batches for x in batch.x_t)
    assert len(used) == 60 and set(used.values()) == {3}  # each example once in ten steps


def test_every_step_sees_all_noise_levels() -> None:
    """Of n examples of a kind one lies in each n-th of its levels, fresh or out of a pool."""
    kept = float(MODEL.denoiser.schedule.alphas_cumprod[200])
    max_snr = kept / (1 - kept) * 1.0001
    config = settings(batch_identity=4, batch_things=2, batch_people=1, max_snr=max_snr)
    for batch in (sampler(config).batch(step) for step in range(5)):
        named, free = batch.t[:4].sort().values, batch.t[4:6].sort().values
        assert all(200 * i <= t - 200 < 200 * (i + 1) for i, t in enumerate(named))
        assert all(500 * i <= t < 500 * (i + 1) for i, t in enumerate(free))
    pooled = sampler(replace(config, target_cache=70))
    batches = [pooled.batch(step) for step in range(30)]
    every = torch.cat([batch.t[:4] for batch in batches[10:20]]).sort().values.reshape(4, 10)
    for batch in batches[10:]:
        named = batch.t[:4].sort().values
        assert all(some[0] <= t <= some[-1] for some, t in zip(every, named, strict=True))
    orders = [[float(x.t[:4].sum()) for x in batches[i : i + 10]] for i in (10, 20)]
    assert orders[0] != orders[1]


def test_an_empty_text_is_taught_to_stay_one() -> None:
    """Rows stand in it, its target is the bare text's prediction, and its error moves the rows."""
    batch = sampler(settings(proportion_empty_prompts=1.0)).batch(0)
    free = batch.pick([i for i, kind in enumerate(batch.kinds) if kind != "identity"])
    assert set(free.prompts) == {""}
    with torch.no_grad():
        bare = MODEL.encoder.encode(free.prompts, None)
        wanted = MODEL.denoiser.predict_noise(free.x_t, free.t, bare)
    torch.testing.assert_close(free.target, wanted)
    found, loss = gradient_of(settings(proportion_empty_prompts=1.0), free, some_rows())
    assert loss > 0 and bool((found.abs().amax(1) > 0).all())
    still, nothing = gradient_of(settings(), free, some_rows())
    assert nothing < 1e-9 and not still.any()


class Wordy(TinySource):
    """One prompt of things goes on in a second chunk."""

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        first, *others = super().draw(kind, count, random)
        if kind == "things":
            text = ", ".join([first.prompt] * 20)
            first = replace(first, prompt=text, neutral=text)
        return [first, *others]


def test_a_long_prompt_changes_nothing_for_the_others() -> None:
    """Encoded together they would be filled up with an empty chunk, which no host gives them."""
    config = settings()
    found: list[tuple[TargetBatch, dict[str, float]]] = []
    for source in (TinySource(), Wordy()):
        parts = MODEL.encoder, MODEL.denoiser, source, Group(), lambda *_: None
        batch = BatchSampler(config, *parts).batch(0)
        with frozen(NETWORKS):
            _, losses = gradient(
                config, MODEL.encoder, MODEL.denoiser, batch, some_rows(), Group(), 1.0
            )
        found.append((batch, losses))
    (short, losses), (long, others) = found
    same = [i for i, prompt in enumerate(long.prompts) if prompt == short.prompts[i]]
    assert len(same) == len(long) - 1
    torch.testing.assert_close(long.target[same], short.target[same], rtol=1e-3, atol=1e-3)
    for kind in ("identity", "people"):
        assert others[kind] == pytest.approx(losses[kind], rel=1e-2)
    assert others["things"] != pytest.approx(losses["things"], rel=1e-2)


@pytest.mark.parametrize("limit", [0.0, 0.5, 100.0])
def test_clipping_holds_the_joint_norm(limit: float) -> None:
    random = torch.Generator().manual_seed(0)
    given = {k: torch.randn(4, 8, generator=random) for k in ("clip_l", "clip_g")}
    before = torch.cat([g.flatten() for g in given.values()])
    clip(given, limit)
    after = torch.cat([g.flatten() for g in given.values()])
    if limit == 0.5:
        assert float(after.norm()) == pytest.approx(0.5, rel=1e-5)
        torch.testing.assert_close(after / after.norm(), before / before.norm())
    else:
        assert torch.equal(after, before)
