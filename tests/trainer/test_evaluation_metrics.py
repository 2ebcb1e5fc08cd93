"""Every metric against a closed form or another way to compute it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from apl_core.errors import AplError
from apl_trainer.evaluation.distances import (
    feature_change,
    fid,
    frechet,
    kid,
    kid_mean,
    meaning_change,
    pixel_change,
)
from apl_trainer.evaluation.identity import Gallery, identity
from apl_trainer.readers.protocols import Faces
from apl_trainer.statistics import Mean, mean


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def covariance(seed: int, size: int) -> np.ndarray:
    root = normal(seed, size, size).double().numpy()
    return root @ root.T


def test_frechet_of_gaussians_whose_covariances_commute() -> None:
    """With a common eigenbasis it is |m1 - m2|^2 + sum (sqrt l1 - sqrt l2)^2."""
    basis = np.linalg.qr(normal(0, 6, 6).double().numpy())[0]
    one, other = np.array([1.0, 2, 3, 4, 5, 0]), np.array([4.0, 1, 0, 2, 7, 9])
    shift = normal(1, 6).double().numpy()
    found = frechet(shift, (basis * one) @ basis.T, np.zeros(6), (basis * other) @ basis.T)
    wanted = (shift**2).sum() + ((np.sqrt(one) - np.sqrt(other)) ** 2).sum()
    assert found == pytest.approx(wanted)


def test_frechet_of_any_gaussians_by_a_nuclear_norm() -> None:
    """tr (C1^1/2 C2 C1^1/2)^1/2 is the nuclear norm of A B' for C1 = A'A and C2 = B'B."""
    one, other = covariance(2, 7), covariance(3, 7)
    a, b = np.linalg.cholesky(one).T, np.linalg.cholesky(other).T
    wanted = np.trace(one) + np.trace(other) - 2 * np.linalg.svd(a @ b.T)[1].sum()
    assert frechet(np.zeros(7), one, np.zeros(7), other) == pytest.approx(wanted)


def test_fid_of_samples_comes_near_that_of_their_gaussians() -> None:
    one, other = normal(4, 40_000, 3), 2 * normal(5, 40_000, 3) + 1
    assert fid(one, other) == pytest.approx(3 + 3, rel=0.02)  # means 1 apart, deviations 1 and 2
    assert fid(one, one) == pytest.approx(0, abs=1e-6)
    assert math.isnan(fid(one[:1], other))


def test_fid_with_fewer_pictures_than_features_is_finite_and_not_negative() -> None:
    found = fid(normal(6, 5, 64), normal(7, 5, 64))
    assert math.isfinite(found) and found > 0


def test_kid_is_the_naive_double_sum() -> None:
    one, other = normal(8, 9, 4), normal(9, 7, 4) + 0.5

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / 4 + 1) ** 3

    def off_diagonal(x: Tensor) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(k(x[i], x[j]) for i, j in pairs) / len(pairs)

    across = sum(k(x, y) for x in one for y in other) / 63
    assert kid(one, other) == pytest.approx(off_diagonal(one) + off_diagonal(other) - 2 * across)


def test_kid_of_one_dimensional_gaussians_has_its_closed_form() -> None:
    """E k = E x^3 E y^3 + 3 E x^2 E y^2 + 3 E x E y + 1 for independent x and y."""

    def moments(mu: float, s: float) -> tuple[float, float, float]:
        return mu, mu**2 + s**2, mu**3 + 3 * mu * s**2

    def expected(p: tuple[float, ...], q: tuple[float, ...]) -> float:
        return p[2] * q[2] + 3 * p[1] * q[1] + 3 * p[0] * q[0] + 1

    p, q = moments(0.0, 0.5), moments(0.4, 0.25)
    wanted = expected(p, p) + expected(q, q) - 2 * expected(p, q)
    found = [kid(0.5 * normal(i, 200, 1), 0.25 * normal(500 + i, 200, 1) + 0.4) for i in range(60)]
    error = np.std(found) / math.sqrt(len(found))
    assert error < 0.1 * wanted
    assert abs(np.mean(found) - wanted) < 3 * error


def test_kid_of_one_distribution_is_zero_on_average_whatever_the_count() -> None:
    small = [kid(normal(i, 6, 8), normal(900 + i, 6, 8)) for i in range(300)]
    assert abs(np.mean(small)) < 3 * np.std(small) / math.sqrt(300)
    found = kid_mean(normal(1, 200, 8), normal(2, 200, 8))
    assert found.low < 0 < found.high and found.count == 8


def test_changes_of_equal_and_of_opposite_pictures() -> None:
    pictures = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert pixel_change(pictures, pictures).eq(0).all()
    assert torch.allclose(pixel_change(pictures, pictures + 0.5), torch.tensor(0.25))
    maps = [normal(1, 4, 5, 6, 6).abs(), normal(2, 4, 7, 3, 3).abs()]
    assert feature_change(maps, maps).abs().max() < 1e-6
    assert torch.allclose(feature_change(maps, [7 * m for m in maps]), torch.zeros(4), atol=1e-5)
    assert torch.allclose(feature_change(maps, [-m for m in maps]), torch.full((4,), 4.0))
    assert torch.allclose(meaning_change(normal(3, 4, 9), -normal(3, 4, 9)), torch.full((4,), 2.0))


def test_feature_change_is_lpips_written_out_place_by_place() -> None:
    one, other = [normal(4, 1, 3, 2, 2)], [normal(5, 1, 3, 2, 2)]
    total = 0.0
    for y in range(2):
        for x in range(2):
            a, b = one[0][0, :, y, x], other[0][0, :, y, x]
            total += float((a / a.norm() - b / b.norm()).square().sum())
    assert feature_change(one, other).item() == pytest.approx(total / 4, rel=1e-5)


def test_cosines_and_ranks_of_a_gallery_on_the_axes() -> None:
    gallery = Gallery(("ann", "bob", "cid"), torch.eye(3))
    looks = torch.tensor([[4.0, 3, 0], [0.6, 0.8, 0], [0, 1, 0], [1, 0, 0]])
    faces = Faces.of(looks, torch.tensor([True, True, True, False]))
    found = identity(faces, ["ann", "ann", "bob", "bob"], gallery)
    assert found.cosine.value == pytest.approx((0.8 + 0.6 + 1) / 3)
    assert found.cosine_max.value == pytest.approx((0.8 + 1) / 2)
    assert found.top1.value == pytest.approx(2 / 3) and found.top1.count == 3
    assert found.top5.value == 1
    assert found.face_found.value == 0.75
    assert found.anonymous.value == 0.25, "a picture without a face is not anonymous"


def test_no_face_at_all_is_no_anonymity() -> None:
    gallery = Gallery(("ann",), torch.eye(3)[:1])
    found = identity(Faces.of(torch.zeros(3, 3), torch.zeros(3).bool()), ["ann"] * 3, gallery)
    assert math.isnan(found.top1.value) and math.isnan(found.cosine.value)
    assert found.anonymous.value == 0 and found.face_found.value == 0


def test_of_two_people_in_a_prompt_the_likelier_one_counts() -> None:
    gallery = Gallery(("ann", "bob"), torch.eye(2))
    faces = Faces.of(torch.tensor([[0.0, 1.0]]), torch.tensor([True]))
    assert identity(faces, ["ann"], gallery).top1.value == 0
    assert identity(faces, ["ann"], gallery, ["bob"]).top1.value == 1


def test_a_gallery_is_the_mean_of_found_faces_and_says_who_is_missing() -> None:
    looks = torch.tensor([[1.0, 0], [0, 1], [5, 5], [0, 1]])
    faces = Faces.of(looks, torch.tensor([True, True, False, False]))
    gallery = Gallery.of(faces, ["ann"] * 4)
    assert torch.allclose(gallery.embeddings, torch.full((1, 2), math.sqrt(0.5)))
    with pytest.raises(AplError, match="bob"):
        Gallery.of(faces, ["ann", "ann", "ann", "bob"])
    with pytest.raises(AplError, match="eve"):
        identity(faces, ["eve"] * 4, gallery)


def test_the_bootstrap_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        found = mean(rng.random(80) < 0.3, resamples=400)
        hits += found.low <= 0.3 <= found.high
    assert 0.90 <= hits / 300 <= 0.985


def test_pictures_of_one_name_do_not_narrow_the_interval() -> None:
    """With four equal pictures a name whole names are drawn; drawing pictures would not cover."""
    rng = np.random.default_rng(2)
    names = [i for i in range(50) for _ in range(4)]
    clustered = naive = 0
    for _ in range(200):
        values = np.repeat(rng.random(50) < 0.4, 4)
        one, other = mean(values, names, 300), mean(values, None, 300)
        clustered += one.low <= 0.4 <= one.high
        naive += other.low <= 0.4 <= other.high
    assert clustered / 200 >= 0.89
    assert naive / 200 < 0.8


def test_a_mean_goes_through_json() -> None:
    for found in (mean([0.0, 1, 1]), mean([float("nan")])):
        again = Mean.of(found.plain())
        assert again.plain() == found.plain()
    assert mean([float("nan")]).plain()["value"] is None
