"""Whether the model knows a name: pictures of one name against pictures of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

LEAST = 0.75
"""Below this a name's pictures are hardly more alike than pictures of different names."""

_MOST_OTHERS = 400


def known(vectors: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float | None]:
    """How surely each name is known, 0.5 for not at all and 1 for surely.

    The share of pairs (two pictures of the name; one of the name and one of another name) in which
    the first two are more alike in their face embeddings' cosine, ties counting half. None for a
    name with fewer than two faces, or where there is no other name to compare with.
    """
    faces = {name: np.stack(v) for name, v in vectors.items() if len(v) > 1}
    found: dict[str, float | None] = dict.fromkeys(vectors)
    for name, own in faces.items():
        others = [v for other, v in faces.items() if other != name]
        if not others:
            continue
        rest = np.concatenate(others)
        rest = rest[:: max(len(rest) // _MOST_OTHERS, 1)]
        within = (own @ own.T)[np.triu_indices(len(own), 1)]
        between = np.sort((own @ rest.T).ravel())
        below = np.searchsorted(between, within, "left")
        upto = np.searchsorted(between, within, "right")
        found[name] = float((below + upto).mean() / (2 * len(between)))
    return found
