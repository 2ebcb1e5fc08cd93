"""The objective against its formula, and what a teacher may and may not do."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tiny_model import LATENT, WIDTH, tiny_model
from torch import Tensor

from apl_core.example_kinds import Kind, Weighting
from apl_core.objective import (
    Example,
    TargetBatch,
    compute_targets,
    encode_unique,
    example_weights,
    per_example_loss,
)
from apl_core.prefix import Rows

MODEL = tiny_model("v")
ENCODER, DENOISER = MODEL.encoder, MODEL.denoiser
for network in (*ENCODER.modules, *DENOISER.modules):
    network.requires_grad_(False)


def examples() -> list[Example]:
    random = torch.Generator().manual_seed(5)
    latents = torch.randn(4, *LATENT, generator=random)
    texts: list[tuple[Kind, str, str]] = [
        ("identity", "a photo of anna brill", "a photo of an old person"),
        ("things", "a red circle", "a red circle"),
        ("identity", "cuno gral in a garden", ""),
        ("people", "a man with red hair", "a man with red hair"),
    ]
    return [Example(kind, latents[i], *pair) for i, (kind, *pair) in enumerate(texts)]


def noise_and_steps() -> tuple[Tensor, Tensor]:
    noise = torch.randn(4, *LATENT, generator=torch.Generator().manual_seed(6))
    return noise, torch.tensor([10, 400, 700, 990])


def alone(example: Example, noise: Tensor, t: int, prompt: str, rows: Rows | None = None) -> Tensor:
    """The frozen network's noise prediction for one example, run by itself, formulas by hand."""
    kept = DENOISER.schedule.alphas_cumprod[t]
    x_t = (kept.sqrt() * example.latent + (1 - kept).sqrt() * noise)[None]
    conditioning = ENCODER.encode([prompt], rows).cross
    [unet] = DENOISER.modules
    velocity = unet(x_t, torch.tensor([t]), conditioning).sample
    return (kept.sqrt() * velocity + (1 - kept).sqrt() * x_t)[0]


@pytest.mark.parametrize("repulsion", [0.0, 0.5, 2.0])
def test_targets_follow_the_formula(repulsion: float) -> None:
    noise, t = noise_and_steps()
    batch = compute_targets(ENCODER, DENOISER, examples(), t, noise, repulsion)
    for i, example in enumerate(examples()):
        with torch.no_grad():
            neutral = alone(example, noise[i], int(t[i]), example.neutral)
            named = alone(example, noise[i], int(t[i]), example.prompt)
        g = repulsion if example.kind == "identity" else 0.0
        wanted = neutral - g * (named - neutral)
        torch.testing.assert_close(batch.target[i], wanted, rtol=1e-4, atol=1e-4)
        if repulsion and example.kind == "identity":
            assert not torch.allclose(batch.target[i], neutral, atol=1e-2)
    assert batch.prompts == tuple(e.prompt for e in examples())
    assert batch.kinds == ("identity", "things", "identity", "people")


def test_a_teacher_leaves_no_graph() -> None:
    noise, t = noise_and_steps()
    with torch.enable_grad():
        batch = compute_targets(ENCODER, DENOISER, examples(), t, noise, 0.5)
    assert not batch.target.requires_grad and not batch.x_t.requires_grad


def test_errors_are_the_squared_distance_to_the_target() -> None:
    noise, t = noise_and_steps()
    batch = compute_targets(ENCODER, DENOISER, examples(), t, noise, 0.5)
    rows = Rows({"pocket": torch.randn(4, WIDTH)}, 2)
    found = per_example_loss(ENCODER, DENOISER, batch, rows)
    for i, example in enumerate(examples()):
        student = alone(example, noise[i], int(t[i]), example.prompt, rows)
        wanted = (student - batch.target[i]).square().mean()
        torch.testing.assert_close(found[i], wanted, rtol=1e-3, atol=1e-5)


def test_without_a_name_and_without_a_prefix_there_is_nothing_to_learn() -> None:
    """General examples: the target is the prediction itself, so the error is the prefix's alone."""
    noise, t = noise_and_steps()
    batch = compute_targets(ENCODER, DENOISER, examples(), t, noise, 2.0)
    conditioning = encode_unique(ENCODER, batch.prompts, None)
    plain = DENOISER.predict_noise(batch.x_t, batch.t, conditioning)
    error = (plain - batch.target).square().flatten(1).mean(1)
    assert float(error[[1, 3]].max()) < 1e-8 < 1e-3 < float(error[[0, 2]].min())


def test_gradients_of_the_loss_are_right() -> None:
    """Analytic against central differences in float64, through encoder and U-Net."""
    model = tiny_model("x0")
    for network in (*model.encoder.modules, *model.denoiser.modules):
        network.double().requires_grad_(False)
    noise, _ = noise_and_steps()
    t = torch.tensor([300, 400, 700, 800])
    given = [Example(e.kind, e.latent.double(), e.prompt, e.neutral) for e in examples()]
    batch = compute_targets(model.encoder, model.denoiser, given, t, noise.double(), 0.5)
    random = torch.Generator().manual_seed(3)
    vectors = 0.2 * torch.randn(4, WIDTH, generator=random, dtype=torch.float64)
    vectors.requires_grad_()

    def loss(of: Tensor) -> Tensor:
        return per_example_loss(model.encoder, model.denoiser, batch, Rows({"pocket": of}, 2)).sum()

    loss(vectors).backward()
    assert vectors.grad is not None
    for _ in range(3):
        # outputs are rounded to float32 on their way out, so go where the slope is large
        direction = vectors.grad * torch.rand(vectors.shape, generator=random, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            moved = loss(vectors + 2e-4 * direction) - loss(vectors - 2e-4 * direction)
        slope = float((vectors.grad * direction).sum())
        assert float(moved) / 4e-4 == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize(
    ("weights", "kinds"),
    [
        ({"identity": 1.0, "things": 1.5, "people": 4.0}, ["identity"] * 3 + ["people", "things"]),
        ({"identity": 2.0, "things": 0.0, "people": 4.0}, ["things", "identity", "things"]),
    ],
)
def test_every_kind_counts_by_its_weight(weights: Mapping[Kind, float], kinds: list[Kind]) -> None:
    each = example_weights(kinds, weights)
    for kind in set(kinds):
        parts = [w for w, k in zip(each, kinds, strict=True) if k == kind]
        assert sum(parts) == pytest.approx(weights[kind]) and len(set(parts)) == 1


def test_texts_are_encoded_once_each_and_come_back_in_order() -> None:
    seen: list[list[str]] = []

    class Counting:
        widths, modules, token_embedding = ENCODER.widths, (), ENCODER.token_embedding

        def encode(self, texts: list[str], rows: Rows | None) -> object:
            seen.append(list(texts))
            return ENCODER.encode(texts, rows)

    texts = ["a red circle", "anna brill", "a red circle", "", "anna brill"]
    with torch.no_grad():
        found = encode_unique(Counting(), texts, None).cross  # pyright: ignore[reportArgumentType]
        wanted = ENCODER.encode(texts, None).cross
    assert seen == [["a red circle", "anna brill", ""]]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_picking_examples_keeps_them_together() -> None:
    random = torch.Generator().manual_seed(1)
    batch = TargetBatch(
        ("identity", "things", "people"),
        ("a", "b", "c"),
        torch.randn(3, 1, generator=random),
        torch.tensor([7, 8, 9]),
        torch.randn(3, 1, generator=random),
        torch.randn(3, 1, generator=random),
    )
    picked = batch.pick([2, 0])
    assert picked.kinds == ("people", "identity") and picked.prompts == ("c", "a")
    assert picked.t.tolist() == [9, 7] and len(picked) == 2
    assert torch.equal(picked.x_t, batch.x_t[[2, 0]])
    assert torch.equal(picked.target, batch.target[[2, 0]])
    assert torch.equal(picked.contrast_direction, batch.contrast_direction[[2, 0]])


def test_a_swap_is_what_the_swapped_word_changes_and_nothing_without_one() -> None:
    noise, t = noise_and_steps()
    given = examples()
    given[3] = replace(given[3], contrast_prompt="a woman with red hair")
    batch = compute_targets(ENCODER, DENOISER, given, t, noise, 0.5)
    with torch.no_grad():
        other = alone(given[3], noise[3], 990, given[3].contrast_prompt)
        names = {
            i: alone(given[i], noise[i], int(t[i]), given[i].prompt)
            - alone(given[i], noise[i], int(t[i]), given[i].neutral)
            for i in (0, 2)
        }
    torch.testing.assert_close(
        batch.contrast_direction[3], other - batch.target[3], rtol=1e-4, atol=1e-4
    )
    for i, name in names.items():  # from the neutral prediction, not from the pushed target
        torch.testing.assert_close(batch.contrast_direction[i], name, rtol=1e-4, atol=1e-4)
    assert (
        all(batch.contrast_direction[i].abs().max() > 0 for i in (0, 2, 3))
        and not batch.contrast_direction[1].any()
    )
    without_push = compute_targets(ENCODER, DENOISER, given, t, noise)
    torch.testing.assert_close(
        without_push.contrast_direction, batch.contrast_direction, rtol=1e-4, atol=1e-4
    )
    assert not compute_targets(
        ENCODER, DENOISER, given, t, noise, 0.5, with_contrast=False
    ).contrast_direction.any()


@pytest.mark.parametrize("weighting", ["eps", "x0"])
@pytest.mark.parametrize(("way", "cost"), [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0), (-1.0, 1.0)])
def test_a_swap_costs_the_square_of_the_share_that_is_made(
    weighting: Weighting, way: float, cost: float
) -> None:
    noise, t = noise_and_steps()
    given = [replace(e, contrast_prompt="a woman") if e.kind == "people" else e for e in examples()]
    batch = compute_targets(ENCODER, DENOISER, given, t, noise)
    rows = Rows({"pocket": torch.zeros(1, WIDTH)}, 0)

    class Fixed:
        schedule = DENOISER.schedule

        def predict_noise(self, *_: object) -> Tensor:
            return batch.target + way * batch.contrast_direction + aside

    random = torch.randn(batch.contrast_direction.shape, generator=torch.Generator().manual_seed(1))
    contrast_direction = batch.contrast_direction
    along = (random * contrast_direction).flatten(1).sum(1) / contrast_direction.square().flatten(
        1
    ).sum(1).clamp_min(1e-9)
    aside = (
        random - along[:, None, None, None] * contrast_direction
    )  # what is beside the contrast_direction costs nothing here
    weights: dict[Kind, float] = {"identity": 2.0, "things": 7.0, "people": 5.0}
    found = [
        per_example_loss(ENCODER, Fixed(), batch, rows, weighting, contrasts, unit)  # type: ignore[arg-type]
        for contrasts, unit in ((None, 1.0), (None, 4.0), (weights, 1.0), (weights, 4.0))
    ]
    added = torch.tensor([2 * cost, 0, 2 * cost, 5 * cost])  # shares have no unit
    for without, with_contrast in (found[0], found[2]), (found[1], found[3]):
        torch.testing.assert_close(with_contrast - without, added, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1], found[0] / 4)
