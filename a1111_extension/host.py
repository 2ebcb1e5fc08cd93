"""What the extension needs of a webui's text side, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from apl_core.errors import HostError
from apl_core.trace import Tally


class Host(Protocol):
    """One webui's text side, and what was done with it."""

    name: str
    tally: Tally
    lends_its_model: bool
    """Whether a prefix can be learned on the loaded checkpoint itself."""

    def engine_class(self) -> type:
        """The class that turns texts into chunks and chunks into conditioning."""
        ...

    def embedding_class(self) -> type:
        """The class whose `forward(ids)` looks rows up and writes `fixes` over them."""
        ...

    def denoiser_class(self) -> type:
        """The class whose `forward` makes every sampling step."""
        ...

    def key(self, engine: Any) -> str:
        """Which text encoder an engine runs, e.g. "clip_l"; HostError if it is none we know."""
        ...

    def engines(self, model: Any) -> Sequence[Any]:
        """The text engines of a loaded checkpoint; HostError if there is one we do not know."""
        ...

    def readers(self) -> Sequence[type]:
        """Classes of engines that read texts with a language model or T5."""
        ...

    def reading(self, model: Any) -> Mapping[int, Any]:
        """How such engines of a loaded checkpoint read texts (`language.Reader`), by their id;
        HostError if its family is none we know."""
        ...

    def layer(self, engine: Any) -> Any:
        """An engine's embedding layer, which is an `embedding_class` in a checkpoint in use."""
        ...

    def table(self, engine: Any) -> Tensor:
        """An engine's token embeddings (vocabulary, width)."""
        ...

    def written(self, rows: Tensor, among: Tensor) -> Tensor:
        """Rows (n, width) as the embedding layer writes them among embedded ones."""
        ...

    def fixes(self, engine: Any) -> Sequence[Sequence[Any]]:
        """The rows that the engine's next run will write, for every text of the batch."""
        ...

    def emphasis(self, engine: Any) -> Any:
        """A fresh object that weights an encoder's output as the user's settings say: in two steps
        of its own (`after_transformers`), or called with rows and multipliers."""
        ...

    def device(self) -> Any:
        """Where prefix rows have to lie, or None where the host moves them itself."""
        ...

    def forget(self, name: str, said: dict[str, Any] | None = None) -> None:
        """Take inserted rows of this name out of what a picture says about its embeddings."""
        ...

    def closed(self) -> Sequence[tuple[Any, str]]:
        """Functions (owner, name) that encode texts where no prefix can be put in."""
        ...

    def remote(self) -> Sequence[tuple[Any, str]]:
        """Functions (owner, name) of a request that have its picture drawn on the network."""
        ...

    def refuse_settings(self) -> None:
        """HostError if a setting sends prompts past the engine."""
        ...


def unknown_encoder(what: str, why: str = "") -> HostError:
    """The error for a checkpoint with a text encoder, or engine, that no prefix can be put into."""
    found = f"its text encoder ({what}) is not one that a prefix can be put into"
    return HostError(
        "anonymize with this checkpoint",
        f"{found}: {why}" if why else found,
        "load a checkpoint of SD 1.x, SD 2.x or SDXL, or of another family that docs/a1111.md "
        "lists for this webui",
    )
