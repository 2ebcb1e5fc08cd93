"""Who is recognized: cosines to a gallery, ranks in it, and pictures without a face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apl_core.errors import AplError

from ..readers.protocols import Faces
from ..statistics import Mean, mean


@dataclass(frozen=True, eq=False)
class Gallery:
    """Known people: a name and a unit embedding each, `embeddings` (P, D)."""

    names: tuple[str, ...]
    embeddings: Tensor

    @staticmethod
    def of(faces: Faces, names: Sequence[str]) -> Gallery:
        """The mean face of every name, over the pictures in which one was found.

        AplError names the people of whom no picture shows a face: they cannot be recognized.
        """
        known = list(dict.fromkeys(names))
        place = torch.tensor([known.index(n) for n in names], device=faces.found.device)
        sums = faces.embedding.new_zeros(len(known), faces.embedding.shape[1])
        sums.index_add_(0, place, faces.embedding)
        seen = torch.zeros(len(known), device=sums.device)
        seen.index_add_(0, place, faces.found.float())
        missing = [n for n, count in zip(known, seen.tolist(), strict=True) if not count]
        if missing:
            raise AplError(
                "make a gallery",
                f"no face was found in any picture of {', '.join(missing)}",
                "add pictures that show them, or leave them out",
            )
        return Gallery(tuple(known), torch.nn.functional.normalize(sums, dim=1))

    def cosines(self, faces: Faces) -> Tensor:
        """Cosine (B, P) of every picture with everybody; NaN where no face was found."""
        found = faces.embedding @ self.embeddings.to(faces.embedding).T
        return torch.where(faces.found[:, None], found, torch.nan)


@dataclass(frozen=True)
class Identity:
    """What a set of pictures gives away of the people named in its prompts.

    A picture without a face is in no cosine, no rank and not in `anonymous`: it shows up in
    `face_found` alone, so that a broken picture never counts as an anonymous one.
    """

    cosine: Mean
    cosine_max: Mean
    top1: Mean
    top5: Mean
    face_found: Mean
    anonymous: Mean

    def figures(self) -> dict[str, Mean]:
        """The figures by name."""
        return {
            "identity_cosine": self.cosine,
            "identity_cosine_max": self.cosine_max,
            "identity_top1": self.top1,
            "identity_top5": self.top5,
            "face_found": self.face_found,
            "anonymous": self.anonymous,
        }


def identity(
    faces: Faces, who: Sequence[str], gallery: Gallery, others: Sequence[str | None] | None = None
) -> Identity:
    """Figures of pictures whose prompts name `who`, with 95 % intervals over names.

    `cosine_max` takes the likeliest picture of each name. `anonymous` is the share of pictures
    that show a face which is not recognized as the person named. `others` (B) may name a second
    person of each prompt: whichever of the two is the likelier one counts.
    """
    if missing := sorted(set(who) - set(gallery.names)):
        raise AplError(
            "measure identity", f"the gallery lacks {', '.join(missing)}", "add pictures of them"
        )
    place = {name: i for i, name in enumerate(gallery.names)}
    cosines = gallery.cosines(faces).cpu()
    rows = torch.arange(len(who))
    own = cosines[rows, torch.tensor([place[n] for n in who])]
    if others is not None:
        second = torch.tensor([place[o or n] for n, o in zip(who, others, strict=True)])
        own = torch.maximum(own, cosines[rows, second])
    rank = (cosines > own[:, None]).sum(1).float()  # people who look more like the picture
    found = faces.found.cpu()
    first, fifth = (torch.where(found, (rank < k).float(), torch.nan).numpy() for k in (1, 5))
    best: dict[str, float] = {}
    for name, value in zip(who, own.tolist(), strict=True):
        if not np.isnan(value):
            best[name] = max(value, best.get(name, -1.0))
    return Identity(
        mean(own.numpy(), who),
        mean(list(best.values()) or [np.nan]),
        mean(first, who),
        mean(fifth, who),
        mean(found.float().numpy(), who),
        mean((found & (rank >= 1)).float().numpy(), who),
    )
