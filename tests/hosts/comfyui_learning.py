"""What the probes of learning inside a real ComfyUI share."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

if True:  # behind the probes' start, which makes the host's modules importable
    from apl_comfy.clips import encode
    from apl_comfy.training.denoiser import ComfyDenoiser
    from apl_comfy.training.encoder import ComfyEncoder
    from apl_comfy.training.run import Job
    from apl_comfy.training.trainable import trainable

from apl_core.objective import Example, TargetBatch, compute_targets, per_example_loss
from apl_core.prefix import Rows
from apl_core.training import batches
from apl_core.training.config import TrainConfig
from apl_core.training.frozen import frozen
from apl_core.training.people import people_in

batches.CAPTIONS = 6  # what errors are counted in takes no minute then


def targets(
    encoder: ComfyEncoder, denoiser: ComfyDenoiser, texts: Sequence[str], shape: Sequence[int]
) -> TargetBatch:
    """Random latents with their targets."""
    generator = torch.Generator().manual_seed(1)
    examples = [
        Example("identity", torch.randn(tuple(shape), generator=generator), text, "a person")
        for text in texts
    ]
    steps = denoiser.schedule.steps
    t = torch.tensor([steps * 3 // 5, steps // 20, steps - 10][: len(texts)])
    noise = torch.randn((len(texts), *shape), generator=generator)
    return compute_targets(encoder, denoiser, examples, t, noise, 0.5)


@contextmanager
def kept_routing() -> Iterator[None]:
    """Every mixture of experts (HiDream I1 has them) keeps the experts of its first call.

    Which experts read a token changes in steps. No gradient sees a step, and a difference that
    crosses one measures it.
    """
    gate: Any = importlib.import_module("comfy.ldm.hidream.model").MoEGate
    own, kept = gate.forward, {}

    def forward(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Any]:
        chosen, _, loss = own(self, hidden_states)
        chosen = kept.setdefault(self, chosen)
        scores = torch.nn.functional.linear(hidden_states.flatten(0, 1), self.weight).softmax(-1)
        return chosen, scores.gather(1, chosen), loss

    gate.forward = forward
    try:
        yield
    finally:
        gate.forward = own


def gradient_against_differences(
    model: Any, clip: Any, start: Rows, texts: Sequence[str], shape: Sequence[int] = (4, 8, 8)
) -> None:
    """The derivative along the gradient, against central differences of the loss.

    At the best of three distances: near by the difference is rounding, far away the loss bends.
    """
    encoder, denoiser = ComfyEncoder(clip), ComfyDenoiser(model, 2)
    with trainable(model, clip), frozen([*encoder.modules, *denoiser.modules]), torch.enable_grad():
        given = targets(encoder, denoiser, texts, shape)
        with kept_routing():
            _slopes_against_differences(encoder, denoiser, given, start)


def _slopes_against_differences(
    encoder: ComfyEncoder, denoiser: ComfyDenoiser, given: TargetBatch, start: Rows
) -> None:
    live = {key: one.clone().requires_grad_() for key, one in start.vectors.items()}
    per_example_loss(encoder, denoiser, given, Rows(live, start.behind)).sum().backward()
    for key in live:
        slope = live[key].grad
        assert slope is not None and bool((slope.abs().amax(1) > 0).all()), key
        long = float(slope.norm())

        def loss(far: float, key: str = key, slope: Any = slope, long: float = long) -> float:
            moved = {**start.vectors, key: start.vectors[key] + slope / long * far}
            with torch.no_grad():
                found = per_example_loss(encoder, denoiser, given, Rows(moved, start.behind))
            return float(found.double().sum())

        found = [(loss(far) - loss(-far)) / (2 * far) for far in (2e-3, 1e-2, 5e-2)]
        assert min(abs(one / long - 1) for one in found) < 0.02, (key, found, long)


def encodes_as_the_host(clip: Any, host: Any, texts: Sequence[str], live: Rows | None) -> None:
    """A batch of texts against the host one by one: equal to the bit, whatever it gives."""
    encoder = ComfyEncoder(clip)
    found = encoder.encode(texts, live)
    for at, text in enumerate(texts):
        states, facts = encode(host, encoder.family.written(text))[0]
        mine, beside = found.each[at]
        assert torch.equal(mine, states), text
        assert torch.equal(found.cross[at, : states.shape[1]], states[0]), text
        assert beside.keys() == facts.keys(), (text, beside.keys(), facts.keys())
        for name, fact in facts.items():
            same = torch.equal(beside[name], fact) if isinstance(fact, Tensor) else fact is None
            assert same, (text, name)


def state(*networks: Any) -> str:
    """A hash over all weights, their names and whether they want gradients; and all hooks."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            numbers = value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(name.encode() + numbers.tobytes())
        for name, value in network.named_parameters():
            digest.update(f"{name} {value.requires_grad}".encode())
        for name, module in network.named_modules():
            hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
            digest.update(f"{name} {hooks} {module.training}".encode())
    return digest.hexdigest()


def tiny(**more: Any) -> Job:
    """A job of a few steps on pictures of 64 x 64."""
    config = TrainConfig.from_mapping(
        {
            "num_vectors": 4,
            "num_suffix_vectors": 2,
            "steps": 3,
            "batch_identity": 2,
            "batch_things": 1,
            "batch_people": 1,
            "micro_batch": 2,
            "target_cache": 4,
            "validate_every": 2,
            "lr_warmup_steps": 0,
            **more,
        }
    )
    people = people_in("Ada Lovelace\nAlan Turing\nEmmy Noether\nGrace Hopper")
    return Job(config, people, ["a cat"], ["a woman"], (64, 64), 1, 2, 5.0)
