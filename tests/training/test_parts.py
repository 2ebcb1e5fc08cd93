"""Rates, first values, norms, warm start."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TinySource, tiny_model, xl_model
from torch import Tensor

from apl_core.objective import encode_unique
from apl_core.prefix import Rows
from apl_core.training.batches import BatchSampler, generator
from apl_core.training.config import TrainConfig
from apl_core.training.initial import initial_rows, norm_ratio
from apl_core.training.loop import learning_rate
from apl_core.training.muon import Muon, levelled
from apl_core.training.parallel import Group
from apl_core.training.step import clip
from apl_core.training.warmstart import warm_start

MODEL = tiny_model()


def test_a_cosine_rate_warms_up_and_falls_to_nothing() -> None:
    config = TrainConfig(steps=110, lr_warmup_steps=10, learning_rate=0.03)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.003 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.03) and rates[60] == pytest.approx(0.015)
    assert rates[35] == pytest.approx(0.015 * (1 + math.cos(math.pi / 4)))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-4


def test_a_constant_rate_stays() -> None:
    config = TrainConfig(steps=50, lr_warmup_steps=4, learning_rate=0.02, lr_scheduler="constant")
    assert [learning_rate(config, s) for s in (0, 3, 4, 49)] == pytest.approx(
        [0.005, 0.02, 0.02, 0.02]
    )
    assert (
        learning_rate(
            TrainConfig(lr_warmup_steps=0, lr_scheduler="constant", learning_rate=0.02), 0
        )
        == 0.02
    )


@pytest.mark.parametrize("init", ["words", "normal", "uniform"])
def test_first_values_are_of_their_kind(init: str) -> None:
    config = TrainConfig(num_vectors=64, num_suffix_vectors=3, prefix_init=init)
    rows = initial_rows(config, MODEL.encoder, generator(0, "initial"))
    vectors, table = rows.vectors["pocket"], MODEL.encoder.token_embedding("pocket").detach()
    assert vectors.shape == (64, 128) and rows.behind == 3 and vectors.dtype == torch.float32
    if init == "words":
        assert all(bool((table == row).all(1).any()) for row in vectors)
    elif init == "normal":
        assert float(vectors.std()) == pytest.approx(float(table.std()), rel=0.05)
        assert float(vectors.norm(dim=1).mean()) == pytest.approx(
            float(table.norm(dim=1).mean()), rel=0.05
        )
    else:
        assert float(vectors.min()) >= 0 and float(vectors.max()) < 1
        assert float(vectors.mean()) == pytest.approx(0.5, abs=0.02)
    again = initial_rows(config, MODEL.encoder, generator(0, "initial"))
    other = initial_rows(config, MODEL.encoder, generator(1, "initial"))
    assert torch.equal(again.vectors["pocket"], vectors)
    assert not torch.equal(other.vectors["pocket"], vectors)


def test_two_encoders_get_rows_of_their_own_widths() -> None:
    encoder = xl_model().encoder
    rows = initial_rows(
        TrainConfig(num_vectors=3, num_suffix_vectors=0), encoder, generator(0, "initial")
    )
    assert {k: tuple(v.shape) for k, v in rows.vectors.items()} == {
        "clip_l": (3, 768),
        "clip_g": (3, 1280),
    }


def test_norm_ratio_is_the_longest_row_over_the_longest_token() -> None:
    table = MODEL.encoder.token_embedding("pocket").detach()
    longest = table[table.norm(dim=1).argmax()]
    rows = torch.stack([longest * 0.1, longest * 1.7, longest])
    assert norm_ratio(Rows({"pocket": rows}), MODEL.encoder) == pytest.approx(1.7)


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


def distance(rows: Rows) -> Mapping[str, float]:
    """Of the last state of every kind of prompt to its target, unseen examples."""
    found: dict[str, float] = {}
    for kind in ("identity", "things", "people"):
        examples = TinySource().draw(kind, 6, torch.Generator().manual_seed(99))
        with torch.no_grad():
            prompts = encode_unique(MODEL.encoder, [e.prompt for e in examples], rows).cross
            wanted = encode_unique(MODEL.encoder, [e.neutral for e in examples], None).cross
        found[kind] = float((prompts[:, -1] - wanted[:, -1]).square().mean())
    return found


def test_name_free_examples_are_noised_from_a_level_of_their_own_on() -> None:
    config = TrainConfig(
        min_timestep=700,
        min_timestep_free=300,
        target_cache=0,
        batch_identity=20,
        batch_things=20,
        batch_people=20,
    )
    model = MODEL.encoder, MODEL.denoiser, TinySource(), Group()
    batch = BatchSampler(config, *model, lambda *_: None).batch(0)
    named = [kind == "identity" for kind in batch.kinds]
    levels = [int(t) for t in batch.t]
    assert all(700 <= t < 1000 for t, who in zip(levels, named, strict=True) if who)
    free = [t for t, who in zip(levels, named, strict=True) if not who]
    assert min(free) >= 300 and sum(t < 700 for t in free) > len(free) // 4
    same = BatchSampler(replace(config, min_timestep_free=700), *model, lambda *_: None).batch(0)
    assert [int(t) for t in same.t[:20]] == levels[:20]


def test_a_warm_start_draws_prompts_to_their_targets() -> None:
    config = TrainConfig(
        num_vectors=4,
        num_suffix_vectors=2,
        warm_start_steps=40,
        batch_identity=4,
        batch_things=4,
        batch_people=4,
    )
    batches = BatchSampler(
        config, MODEL.encoder, MODEL.denoiser, TinySource(), Group(), lambda *_: None
    )
    rows = initial_rows(config, MODEL.encoder, generator(0, "initial"))
    reports: list[tuple[str, int, int]] = []

    def warmed() -> Tensor:
        found = warm_start(config, MODEL.encoder, batches, rows, lambda *said: reports.append(said))
        return found.vectors["pocket"]

    vectors = warmed()
    assert [done for _, done, _ in reports] == list(range(1, 41))
    assert torch.equal(warmed(), vectors)
    before, after = distance(rows), distance(Rows({"pocket": vectors}, 2))
    assert after["identity"] < 0.7 * before["identity"]
    assert sum(after.values()) < 0.7 * sum(before.values())


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**31))
def test_a_levelled_matrix_keeps_directions_and_takes_roots_of_their_lengths(
    rows: int, width: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, width, generator=random)
    found = levelled(matrix)
    before, after = np.linalg.svd(matrix.numpy())[1], np.linalg.svd(found.numpy())[1]
    assert np.allclose(after**2, before / before.mean(), atol=1e-3)
    assert torch.allclose(levelled(matrix * 1e-9), found, atol=1e-4)
    signs = torch.linalg.eigvalsh((found.T @ matrix).double())
    assert float(signs.min()) > -1e-4, "it turned a direction round"


def test_what_has_no_gradient_stays_where_it_is() -> None:
    matrix = torch.zeros(3, 8)
    assert torch.equal(levelled(matrix), matrix)
    matrix[1] = 2.0
    assert torch.equal(levelled(matrix)[0], matrix[0])
    assert torch.allclose(levelled(matrix)[1], torch.full((8,), 8**-0.5), atol=1e-6)


def test_muon_moves_as_far_as_its_rate_and_as_its_formula_says() -> None:
    random = torch.Generator().manual_seed(5)
    rows = torch.randn(4, 16, generator=random).requires_grad_()
    start, moved = rows.detach().clone(), Muon([rows], lr=0.02)
    gradients = [torch.randn(4, 16, generator=random) for _ in range(3)]
    expected, momentum = start.clone(), torch.zeros(4, 16)
    for gradient in gradients:
        rows.grad = gradient
        before = rows.detach().clone()
        moved.step()
        assert float((rows - before).square().mean().sqrt()) == pytest.approx(0.02, rel=1e-4)
        momentum = 0.9 * momentum + gradient
        ahead = (gradient + 0.9 * momentum).numpy()
        left, values, right = np.linalg.svd(ahead, full_matrices=False)
        step = left * (values / values.mean()) ** 0.5 @ right
        expected = expected - 0.02 * 16**0.5 * torch.from_numpy(step)
    assert torch.allclose(rows.detach(), expected, atol=1e-5)


def test_a_share_of_name_free_examples_loses_its_words_and_nothing_else_changes() -> None:
    """A share of 0 is the recipe without it; the others' examples are the same to the bit."""
    base = TrainConfig(batch_identity=40, batch_things=60, batch_people=60)
    plain, some, whole = (
        _curriculum(replace(base, proportion_empty_prompts=share)).examples(base.counts, "step", 3)
        for share in (0.0, 0.3, 1.0)
    )
    emptied: list[str] = []
    for before, after in zip(plain, some, strict=True):
        assert torch.equal(before.latent, after.latent) and before.kind == after.kind
        if after.prompt != before.prompt:
            assert after.prompt == after.neutral == after.contrast_prompt == ""
            emptied.append(after.kind)
        else:
            assert after.neutral == before.neutral
    assert 20 < len(emptied) < 55 and set(emptied) == {"things", "people"}
    assert all(bool(e.prompt) == (e.kind == "identity") for e in whole)


def _curriculum(config: TrainConfig) -> BatchSampler:
    return BatchSampler(
        config, MODEL.encoder, MODEL.denoiser, TinySource(), Group(), lambda *_: None
    )
