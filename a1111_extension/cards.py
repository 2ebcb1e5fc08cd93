"""The card tab "APL" beside Lora's: a click puts `<apl:name>` into the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from apl_core.errors import AplError

from . import config
from .refusal import public
from .webui import module


def register() -> None:
    """Add the tab to the webui's extra networks."""
    pages = module("ui_extra_networks")

    class PrefixPage(pages.ExtraNetworksPage):
        def __init__(self) -> None:
            super().__init__("APL")

        def refresh(self) -> None:
            return None

        def create_item(
            self, name: str, index: int | None = None, enable_filter: bool = True
        ) -> dict[str, Any]:
            return _card(self, name, index)

        def list_items(self) -> Iterator[dict[str, Any]]:
            for index, name in enumerate(config.library().names()):
                yield self.create_item(name, index)

        def allowed_directories_for_previews(self) -> list[str]:
            return [str(root) for root in config.roots()]

    pages.register_page(PrefixPage())


def _card(page: Any, name: str, index: int | None) -> dict[str, Any]:
    path = config.library().resolve(name)
    stem = str(path.with_suffix(""))
    try:
        prefix = config.library().load(name)
        metadata = {"family": prefix.family, "vectors": prefix.n, "behind": prefix.behind}
        digest, about = prefix.short_digest, prefix.card.description or prefix.family
    except AplError as error:
        about, digest = public(error.found), ""
        metadata = {"problem": about}
    item: dict[str, Any] = {
        "name": name,
        "filename": str(path),
        "shorthash": digest,
        "preview": page.find_preview(stem),
        "description": page.find_description(stem) or about,
        "search_terms": [page.search_terms_from_path(str(path)), digest],
        "prompt": json.dumps(f"<apl:{name}>"),
        "local_preview": f"{stem}.preview.png",
        "metadata": metadata,
        "sort_keys": {"default": index, **page.get_sort_keys(str(path))},
    }
    page.read_user_metadata(item)
    return item
