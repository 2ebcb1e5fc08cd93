# pyright: reportMissingImports=false
"""What ComfyUI gets when it asks: the nodes, the model folder, and operator mode if it is on."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import files, queue_hook
from .nodes_before_after import BeforeAfter
from .nodes_identity import IdentityCheck
from .nodes_prefix import ApplyPrefix, LoadPrefix, PrefixConditioning, PrefixInfo
from .nodes_train import TrainPrefix
from .refusal import Refused


class AplExtension(ComfyExtension):
    """APL Prefix for ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes."""
        prefixes = [PrefixConditioning, ApplyPrefix, LoadPrefix, PrefixInfo]
        return [*prefixes, BeforeAfter, TrainPrefix, IdentityCheck, Refused]


def start() -> AplExtension:
    """Register the model folder and the queue's hook, once, while ComfyUI loads its packs."""
    files.register()
    queue_hook.install()
    return AplExtension()
