# pyright: reportMissingImports=false
"""ComfyUI's loaded networks, fit for gradients for a while and handed back as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def borrowed(model: Any, clip: Any) -> Iterator[None]:
    """Load MODEL and CLIP wholly and let gradients pass through both, to inputs and not to weights.

    Ends inference mode, which ComfyUI runs nodes under. The weights keep their values to the bit.
    """
    training = hasattr(management, "in_training")  # hosts of late 2026 stream weights otherwise
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if training:
            before = management.in_training
            management.in_training = True
            stack.callback(setattr, management, "in_training", before)
        load(model, clip)
        stack.enter_context(_copied_before_norms(clip.cond_stage_model))
        yield


def load(model: Any, clip: Any) -> None:
    """Have both networks wholly on their device, as ordinary tensors."""
    management.load_models_gpu([model, clip.patcher], force_full_load=True)
    leave_inference(model.model)
    leave_inference(clip.cond_stage_model)


def leave_inference(root: nn.Module) -> None:
    """Replace inference tensors by equal ordinary ones: those cannot be saved for a backward run.

    A new parameter object is needed; new `.data` alone would still have no version counter.
    """
    with torch.no_grad():
        for module in root.modules():
            for name, value in list(module._parameters.items()):
                if value is not None and value.is_inference():
                    module._parameters[name] = nn.Parameter(value.clone(), value.requires_grad)
            for name, value in list(module._buffers.items()):
                if value is not None and value.is_inference():
                    module._buffers[name] = value.clone()


@contextlib.contextmanager
def _copied_before_norms(root: nn.Module) -> Iterator[None]:
    """Give the layer norms of ComfyUI's CLIP layers a copy of their input.

    A CLIP layer adds its residuals in place, onto the very tensor that its norm keeps for backward.
    """

    def copied(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].clone(), *inputs[1:])

    norms = [
        module
        for name, module in root.named_modules()
        if name.endswith(("layer_norm1", "layer_norm2"))
    ]
    handles = [norm.register_forward_pre_hook(copied) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
