"""The prefix in the first chunk only, as a plain embedding stands there: what that leaves open."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from apl_core.encoding import ReferenceEncoder
from apl_core.ports import Conditioning
from apl_core.prefix import Rows
from apl_core.tokens import CHUNK, arrange, room, split


class FirstChunkOnly(ReferenceEncoder):
    """Encodes the first chunk of every text with the rows in place, later chunks without."""

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Hidden states (B, 77 * chunks, width); texts of a batch get equally many chunks."""
        if rows is None:
            return super().encode(texts, None)
        (tower,) = self.towers
        learned, cut = rows.vectors[tower.key], rows.n - rows.behind
        marks = [-1 - k for k in range(rows.n)]
        laid: list[list[list[int]]] = []
        for text in texts:
            ids = tower.tokenize(text)
            space = room(rows.n) if ids else CHUNK
            front, behind = (marks[:cut], marks[cut:]) if ids else ([], [])
            later = split(ids[space:], CHUNK) if ids[space:] else []
            laid.append([_chunk(tower, ids[:space], front, behind)])
            laid[-1] += [_chunk(tower, part, [], []) for part in later]
        count = max(len(chunks) for chunks in laid)
        empty = _chunk(tower, [], [], [])
        flat = [c for chunks in laid for c in chunks + [empty] * (count - len(chunks))]
        places = torch.tensor(flat, device=tower.table.device)
        known = torch.nn.functional.embedding(places.clamp_min(0), tower.table)
        embeddings = torch.where(
            (places < 0)[..., None], learned[(-1 - places).clamp_min(0)], known
        )
        states, _ = tower.run(places.clamp_min(0), embeddings)
        return Conditioning(states.reshape(len(texts), count * states.shape[1], -1))


def _chunk(tower: object, ids: list[int], front: list[int], behind: list[int]) -> list[int]:
    bos, eos, pad = (int(getattr(tower, name)) for name in ("bos", "eos", "pad"))
    return arrange(ids, bos=bos, eos=eos, pad=pad, front=front, behind=behind)
