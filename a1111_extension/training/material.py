"""What a run in the webui learns from: pictures that the frozen model itself makes.

The target of the objective is a prediction of the frozen model, so its own pictures do; none of
anybody is needed. Latents are made once per run and kept in its folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from apl_core import atomic
from apl_core.errors import RunError
from apl_core.ports import DenoiserPort, TextEncoderPort
from apl_core.prefix import Rows
from apl_core.training.material import Picture


def make_latents(
    path: Path,
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    pictures: Sequence[Picture],
    shape: tuple[int, int, int],
    seed: int,
    tell: Callable[[int, int], None],
    steps: int,
) -> Tensor:
    """Latents (N, C, H, W) of pictures, from `path` if a run has made them before."""
    if path.is_file():
        latents = load_file(path)["latents"]
        if len(latents) != len(pictures):
            raise RunError(
                f"go on in {path.parent.name}",
                f"it holds {len(latents)} pictures for {len(pictures)} prompts: another version of "
                "the extension began it",
                "start a new run with the same names",
            )
        return latents
    made: list[Tensor] = []
    for number, picture in enumerate(pictures):
        drawn = sample(encoder, denoiser, [picture.text], shape, seed + number, None, steps)
        made.append(drawn.cpu())
        tell(number + 1, len(pictures))
    latents = torch.cat(made)
    atomic.write_bytes(path, save({"latents": latents}))
    return latents


@torch.no_grad()
def sample(
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    texts: Sequence[str],
    shape: tuple[int, int, int],
    seed: int,
    rows: Rows | None,
    steps: int,
    guidance: float = 7.0,
    negative: str = "",
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Latents (B, C, H, W) by DDIM without noise (arXiv 2010.02502, eq. 12) and guidance.

    The rows stand in the negative prompt too if they are everywhere.
    """
    random = torch.Generator().manual_seed(seed)
    x = torch.randn((len(texts), *shape), generator=random).to(denoiser.device)
    pushed = rows if rows is not None and rows.everywhere else None
    positive, away = encoder.encode(texts, rows), encoder.encode([negative] * len(texts), pushed)
    kept = denoiser.schedule.alphas_cumprod.to(x.device)
    times = torch.linspace(len(kept) - 1, 0, steps + 1).round().long().tolist()
    for done, (now, after) in enumerate(itertools.pairwise(times), 1):
        t = torch.full((len(texts),), now, device=x.device)
        bare = denoiser.predict_noise(x, t, away)
        eps = bare + guidance * (denoiser.predict_noise(x, t, positive) - bare)
        clean = (x - (1 - kept[now]).sqrt() * eps) / kept[now].sqrt()
        x = kept[after].sqrt() * clean + (1 - kept[after]).sqrt() * eps
        tell(done, steps)
    return x.float()
