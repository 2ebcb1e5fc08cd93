"""The same prompts and seeds without and with a prefix, refused before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from apl_core.errors import ConfigError
from apl_core.fit import EncoderFace, check_fit, fingerprint
from apl_core.ports import TextEncoderPort
from apl_core.prefix import Prefix, Rows

from .sampling import Progress, Request, Sampler

if TYPE_CHECKING:
    from .checkpoints.loaded import Encoder


def refuse_unfit(prefix: Prefix, encoder: TextEncoderPort, family: str = "") -> None:
    """FitError for a prefix that was made for another kind of model."""
    tables = {key: encoder.token_embedding(key) for key in encoder.widths}
    faces = [EncoderFace(key, t.shape[1], fingerprint(t)) for key, t in tables.items()]
    check_fit(prefix, faces, family)


def draw_two(
    encoder: Encoder,
    sampler: Sampler,
    requests: Sequence[Request],
    rows: Rows,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Pictures (B, 3, H, W) in [0, 1] of requests, without the rows and with them.

    PromptError for a text that cannot be encoded, ConfigError for a negative prompt that is not
    run: both before anything is drawn.
    """
    encoder.check(text for r in requests for text in (r.prompt, r.negative))
    if sampler.guidance == 1 and any(r.negative for r in requests):
        raise ConfigError(
            "draw with a negative prompt",
            "this model is sampled without guidance (CFG 1), where no negative prompt is run",
            "leave it out",
        )

    def told(before: int, done: int, total: int) -> None:
        if progress:
            progress(before * total + done, 2 * total)

    return [
        sampler.draw(requests, used, lambda done, total, n=number: told(n, done, total))
        for number, used in enumerate((None, rows))
    ]
