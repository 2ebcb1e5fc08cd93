"""Figures of pictures, whoever made them and whichever readers look: pocket model or photographs.

Pictures come as something to go through again and again, in parts, so that many large ones need
not be held at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..readers.protocols import FaceReader, Faces, FeatureReader, TextMatcher
from ..statistics import Mean, mean
from .distances import feature_change, fid, kid_mean, meaning_change, pixel_change
from .identity import Gallery, identity

Parts = Iterable[Tensor]
"""Pictures (B, 3, H, W) in [0, 1], part by part; a list of parts, or what reads them anew."""


def read_faces(reader: FaceReader, pictures: Parts) -> Faces:
    """Who is in all the pictures."""
    return Faces.join([reader.faces(part) for part in pictures])


def likeness(faces: Faces, who: Sequence[str], gallery: Gallery) -> dict[str, Mean]:
    """Figures of `identity` on pictures whose prompts name `who`, a face found or not.

    People who are not in the gallery count in `face_found` alone. A rank among the first five
    says nothing in a gallery of five.
    """
    known = set(gallery.names)
    rows = [i for i, name in enumerate(who) if name in known]
    found = {"face_found": mean(faces.found.cpu().float().numpy(), who)}
    if rows:
        seen = identity(faces.pick(torch.tensor(rows)), [who[i] for i in rows], gallery).figures()
        found = seen | found
        if len(known) <= 5:
            del found["identity_top5"]
    return found


def text_fit(
    matcher: TextMatcher, pictures: Parts, texts: Sequence[str], groups: Sequence[str] | None = None
) -> Mean:
    """CLIP score: mean cosine of each picture with its text."""
    scores: list[Tensor] = []
    start = 0
    for part in pictures:
        scores.append(matcher.match(part, texts[start : start + len(part)]))
        start += len(part)
    return mean(torch.cat(scores).numpy(), groups)


def changes(
    plain: Parts,
    others: dict[str, Parts],
    features: FeatureReader | None,
    matcher: TextMatcher | None = None,
) -> dict[str, Mean]:
    """How far pictures moved from the plain ones, pair by pair and as sets: `change.KIND.NAME`.

    Without a reader only pixels are compared.
    """
    distances: dict[str, list[Tensor]] = {}
    vectors: dict[str, list[Tensor]] = {}
    before: list[Tensor] = []
    for one, *moved in zip(plain, *others.values(), strict=True):  # the plain ones are read once
        maps = features.maps(one) if features else []
        look = matcher.look(one) if matcher else None
        if features:
            before.append(features.features(one))
        for name, other in zip(others, moved, strict=True):
            far = {"pixels": pixel_change(one, other)}
            if features:
                far["features"] = feature_change(maps, features.maps(other))
                vectors.setdefault(name, []).append(features.features(other))
            if matcher and look is not None:
                far["meaning"] = meaning_change(look, matcher.look(other))
            for kind, values in far.items():
                distances.setdefault(f"change.{kind}.{name}", []).append(values)
    found = {key: mean(torch.cat(values).numpy()) for key, values in distances.items()}
    for name, after in vectors.items():
        sets = torch.cat(before), torch.cat(after)
        found[f"change.kid.{name}"] = kid_mean(*sets)
        found[f"change.fid.{name}"] = Mean(fid(*sets), math.nan, math.nan, len(sets[0]))
    return found
