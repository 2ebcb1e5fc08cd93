# pyright: reportMissingImports=false
"""Operator mode: which classes of nodes may run, by where their code really comes from.

What passes a text encoder is the gate's. This is for what never does: nodes of packs that could
make a picture by encoders of their own, and nodes that make a conditioning out of no text.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
import nodes

from apl_core.errors import HostError
from apl_core.metadata import printable

OWN = frozenset(
    {
        "APL_LoadPrefix",
        "APL_ApplyPrefix",
        "APL_PrefixConditioning",
        "APL_PrefixInfo",
        "APL_IdentityCheck",
        "APL_BeforeAfter",
    }
)
"""Our nodes that make no picture which the gate has not seen the text of."""

_HOST = Path(nodes.__file__).resolve().parent
_HERE = Path(__file__).resolve().parent


class Trusted:
    """The classes that were there when the server started, and those that the operator allows."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._allowed = frozenset(allowed)
        self._started_with = {
            kind for kind in nodes.NODE_CLASS_MAPPINGS.values() if _is_hosts(kind)
        }

    def check(self, class_type: object) -> None:
        """HostError, in one sentence, for a class of nodes that may not run, by its name."""
        kind = nodes.NODE_CLASS_MAPPINGS.get(class_type) if isinstance(class_type, str) else None
        if kind is None:
            raise _no(str(class_type), "this server does not know such a node", "remove it")
        self.check_class(kind)

    def check_class(self, kind: type) -> None:
        """The same for a class that is about to run."""
        names = [name for name, one in nodes.NODE_CLASS_MAPPINGS.items() if one is kind]
        if self._allowed.intersection(names):
            return
        if OWN.intersection(names) and _HERE in _file(kind).parents:
            return
        name = names[0] if names else kind.__name__
        if kind not in self._started_with or not _is_hosts(kind):
            raise _no(
                name,
                "it is not one of ComfyUI's own local nodes, so it could make a picture without "
                "the prefix",
                "remove it, or ask the operator of this server to allow it in APL_ENFORCE_NODES",
            )
        if _makes_conditioning_of_nothing(kind):
            raise _no(
                name,
                "its conditioning comes from no text, so the prefix cannot reach it",
                "use a model that draws from a text",
            )


def _is_hosts(kind: type) -> bool:
    """Whether a class and all of its functions are of ComfyUI itself, not of a pack."""
    file = _file(kind)
    home = file == _HOST / "nodes.py" or _HOST / "comfy_extras" in file.parents
    return home and not any(_is_packs(source) for source in _sources(kind))


def _file(kind: type) -> Path:
    """The file that a class stands in; an empty path where nobody knows."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file).resolve() if file else Path()


def _sources(kind: type) -> Iterator[str]:
    """The files of a class's functions, also of those that wrap another one."""
    for part in kind.__mro__:
        for value in vars(part).values():
            function = getattr(value, "__func__", value)
            while inspect.isfunction(function):
                yield function.__code__.co_filename
                function = getattr(function, "__wrapped__", None)


@cache
def _is_packs(source: str) -> bool:
    packs = [Path(folder).resolve() for folder in folder_paths.get_folder_paths("custom_nodes")]
    return any(pack in Path(source).resolve().parents for pack in packs)


def _makes_conditioning_of_nothing(kind: Any) -> bool:
    """Whether a class gives a conditioning and has to be given neither a CLIP nor one."""
    if "CONDITIONING" not in map(str, kind.RETURN_TYPES):
        return False
    required = kind.INPUT_TYPES().get("required", {}).values()
    return not any(str(declared[0]) in ("CLIP", "CONDITIONING") for declared in required)


def _no(class_type: str, found: str, fix: str) -> HostError:
    return HostError(f"run the node {printable(class_type, 80)!r} on this server", found, fix)
