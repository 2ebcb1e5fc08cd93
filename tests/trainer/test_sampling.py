"""Pictures from prompts: what eta does, and that a picture is its own request's alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from apl_core.ports import Conditioning
from apl_core.prefix import Rows
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.model import load_pocket
from apl_trainer.sampling import Request, Sampler

MODEL = load_pocket()
REQUESTS = [
    Request("a photo of a red house", 3),
    Request("a portrait of a woman", 4, "a hat"),
    Request("a photo of a man", 5),
]


def drawn_by_hand(
    request: Request, sampler: Sampler, rows: Rows | None = None, pushed: Rows | None = None
) -> torch.Tensor:
    """DDIM's equations 12 and 16 (arXiv 2010.02502) for one picture, without diffusers."""
    alphas = MODEL.denoiser.schedule.alphas_cumprod.double()
    random = torch.Generator().manual_seed(request.seed)
    x = torch.randn((1, *sampler.shape), generator=random)
    texts = [
        MODEL.encoder.encode([request.negative], pushed),
        MODEL.encoder.encode([request.prompt], rows),
    ]
    steps = [round(len(alphas) - i * len(alphas) / sampler.steps) - 1 for i in range(sampler.steps)]
    for now, then in zip(steps, [*steps[1:], -1], strict=True):
        t = torch.tensor([now])
        plain, asked = (MODEL.denoiser.predict_noise(x, t, c) for c in texts)
        eps = (plain + sampler.guidance * (asked - plain)).double()
        if now not in sampler.guided:
            eps = asked.double()
        before, after = alphas[now], alphas[max(then, 0)]
        clean = (x - (1 - before).sqrt() * eps) / before.sqrt()
        sigma = sampler.eta * ((1 - after) / (1 - before) * (1 - before / after)).sqrt()
        fresh = torch.randn((1, *sampler.shape), generator=random) if sampler.eta else 0
        x = (after.sqrt() * clean + (1 - after - sigma**2).sqrt() * eps + sigma * fresh).float()
    return MODEL.sampler().latents.decode(x)[0]


def test_every_eta_is_ddim_as_written_down() -> None:
    assert 0 < len(MODEL.sampler().guided) < 1000
    for eta in (0.0, 0.5, 1.0):
        sampler = replace(MODEL.sampler(4), eta=eta)
        found = sampler.draw(REQUESTS, None)
        with torch.no_grad():
            wanted = torch.stack([drawn_by_hand(r, sampler) for r in REQUESTS])
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


def test_rows_stand_in_the_negatives_if_they_are_everywhere() -> None:
    sampler = MODEL.sampler(3)
    rows = random_rows(MODEL.encoder, 8, 3)
    both = replace(rows, everywhere=True)
    drawn: list[torch.Tensor] = []
    for given, pushed in ((rows, None), (both, both)):
        drawn.append(sampler.draw(REQUESTS, given))
        with torch.no_grad():
            wanted = [drawn_by_hand(r, sampler, given, pushed) for r in REQUESTS]
        torch.testing.assert_close(drawn[-1], torch.stack(wanted), atol=1e-2, rtol=0)
    assert (drawn[0] - drawn[1]).flatten(1).abs().amax(1).min() > 0.05


def test_a_picture_depends_on_its_own_request_alone() -> None:
    sampler = MODEL.sampler(3)
    assert sampler.eta > 0
    together = sampler.draw(REQUESTS, None)
    alone = torch.cat([sampler.draw([request], None) for request in REQUESTS])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    moved = sampler.draw([replace(REQUESTS[0], seed=9)], None)
    assert (moved[0] - together[0]).abs().max() > 0.05


def test_where_nothing_is_guided_the_negative_is_not_run() -> None:
    class Counted:
        def __init__(self) -> None:
            self.runs = 0

        def __getattr__(self, name: str) -> object:
            return getattr(MODEL.denoiser, name)

        def predict_noise(self, x: torch.Tensor, t: torch.Tensor, c: Conditioning) -> torch.Tensor:
            self.runs += 1
            return MODEL.denoiser.predict_noise(x, t, c)

    steps = range(1000)  # 999, 666 and 332 are drawn
    for guidance, guided, runs in ((1.0, steps, 3), (3.0, steps, 6), (3.0, range(300, 999), 5)):
        counted = Counted()
        sampler = replace(MODEL.sampler(3, guidance), denoiser=counted, guided=guided)
        sampler.draw(REQUESTS[:1], None)
        assert counted.runs == runs
