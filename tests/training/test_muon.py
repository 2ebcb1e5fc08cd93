"""Muon: levelled matrices, and what a step moves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apl_core.training.muon import Muon, levelled


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
