# pyright: reportMissingImports=false
"""ComfyUI's loaded networks, fit for gradients for a while and handed back as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def trainable(model: Any | None, clip: Any) -> Iterator[None]:
    """Load MODEL and CLIP wholly and let gradients pass through both, to inputs and not to weights.

    Ends inference mode, which ComfyUI runs nodes under. The weights keep their values to the bit.
    Without a MODEL whoever runs the CLIP looks for interrupts.
    """
    training = hasattr(management, "in_training")  # hosts of late 2026 stream weights otherwise
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if training:
            before = management.in_training
            management.in_training = True
            stack.callback(setattr, management, "in_training", before)
        load(model, clip)
        networks = [one.model for one in _patchers(model, clip)]
        stack.enter_context(_copied_before_norms(*networks))
        if model is not None:
            stack.enter_context(_interruptible(*networks))
        yield


def load(model: Any | None, clip: Any) -> None:
    """Have both networks wholly on their device, as ordinary tensors."""
    patchers = _patchers(model, clip)
    management.load_models_gpu(patchers, force_full_load=True)
    for patcher in patchers:
        leave_inference(patcher.model)


def _patchers(model: Any | None, clip: Any) -> list[Any]:
    return [clip.patcher] if model is None else [model, clip.patcher]


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
def _copied_before_norms(*networks: nn.Module) -> Iterator[None]:
    """Give the norms over states of tokens a copy of their input.

    Layers of CLIP, T5 and Flux add their residuals in place, onto the very tensor that a norm keeps
    for backward. Those of a U-Net, over groups of channels, do not.
    """

    def copied(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].clone(), *inputs[1:])

    norms = [
        module
        for network in networks
        for module in network.modules()
        if "Norm" in type(module).__name__ and not isinstance(module, nn.GroupNorm)
    ]
    handles = [norm.register_forward_pre_hook(copied) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def differentiable() -> contextlib.AbstractContextManager[object]:
    """Run what the host wrote for inference alone with gradients, where they are recorded."""
    return _Differentiable() if torch.is_grad_enabled() else contextlib.nullcontext()


class _Differentiable(TorchFunctionMode):
    """Copies into `out=` what a function gives: that has a gradient, and writing there has none.

    Late ComfyUI 0.8 and ERNIE's network turn positions by operators that have no gradient either.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if isinstance(func, _OPERATORS) and (rotated := _ROTATIONS.get(_plain_name(func))):
            return rotated(*args, **given)
        out = given.pop("out", None)
        found = func(*args, **given)
        return found if out is None else out.copy_(found)


def _rotated(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Pairs of numbers (..., 2 d) turned by matrices (..., d, 2, 2)."""
    pairs = x.to(freqs_cis.dtype).unflatten(-1, (-1, 1, 2))
    return (freqs_cis * pairs).sum(-1).flatten(-2).to(x.dtype)


def _halves_rotated(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """The same where a pair is a number of the first half and one of the second."""
    pairs = x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    return _rotated(pairs, freqs_cis).unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def _both(rotated: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    def turned(xq: Tensor, xk: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
        return rotated(xq, freqs_cis), rotated(xk, freqs_cis)

    return turned


_OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
_ROTATIONS: Mapping[str, Callable[..., Any]] = {
    "comfy_kitchen.apply_rope": _both(_rotated),
    "comfy_kitchen.apply_rope1": _rotated,
    "comfy_kitchen.apply_rope_split_half": _both(_halves_rotated),
    "comfy_kitchen.apply_rope_split_half1": _halves_rotated,
}


def _plain_name(operator: object) -> str:
    return str(operator).removesuffix(".default")


@contextlib.contextmanager
def _interruptible(*networks: nn.Module) -> Iterator[None]:
    """Ask after every block, forward and backward, whether the user wants to stop.

    ComfyUI 0.8 asks in every layer, forward only; 0.3.64 does not ask inside a network. A block is
    what stands in a list: a transformer's layer, a part of the U-Net's way down or up.
    """

    def passed(_: nn.Module, __: object, output: Any) -> None:
        management.throw_exception_if_processing_interrupted()
        found = output[0] if isinstance(output, tuple) else output
        if isinstance(found, Tensor) and found.requires_grad:
            found.register_hook(passed_back)

    def passed_back(_: Tensor) -> None:
        management.throw_exception_if_processing_interrupted()

    blocks = {
        block
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.ModuleList)
        for block in module
    }
    handles = [block.register_forward_hook(passed) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
