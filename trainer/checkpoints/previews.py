"""Preview sheets of a run on a checkpoint: the same prompts and seeds, without and with prefix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from apl_core.captions import alike
from apl_core.prefix import Rows

from ..prompts import built_in_names
from ..report.sheet import BEFORE_AFTER, TITLES, save_sheet
from ..sampling import Request, Sampler

_NOBODY = ("a photo of an old man with glasses", "a photo of a wooden chair")
_SEED = 1000


class Previews:
    """Draws two trained names, a held-out one, somebody without a name, and a thing.

    The held-out name is one of the dataset's, else a public figure of the project's list.
    """

    def __init__(self, sampler: Sampler, trained: Sequence[str], heldout: Sequence[str]) -> None:
        known = {alike(name) for name in trained}
        others = [name for name in (*heldout, *built_in_names()[1]) if alike(name) not in known]
        texts = [*(f"a photo of {name}" for name in (*trained[:2], *others[:1])), *_NOBODY]
        self.heads = [*trained[:2], *others[:1], *_NOBODY]
        counts = len(trained[:2]), len(others[:1]), 1, 1
        self._groups = list(zip(TITLES.values(), counts, strict=True))
        self._requests = [Request(text, _SEED + i) for i, text in enumerate(texts)]
        self._sampler = sampler
        self._plain: Tensor | None = None

    def __call__(self, rows: Rows, path: Path) -> None:
        """Write the sheet of some rows as PNG."""
        if self._plain is None:
            self._plain = self._sampler.draw(self._requests, None)
        drawn = self._sampler.draw(self._requests, rows)
        save_sheet([self._plain, drawn], path, BEFORE_AFTER, self.heads, 1, self._groups)
