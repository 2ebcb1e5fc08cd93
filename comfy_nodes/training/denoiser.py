# pyright: reportMissingImports=false
"""ComfyUI's loaded MODEL as the denoiser that the core's training loop sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import comfy.model_management as management
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn

from apl_core.errors import HostError
from apl_core.ports import Conditioning
from apl_core.schedule import Schedule

from .texts import Text, Texts
from .trainable import differentiable

Facts = dict[str, Any]
"""What a network is told of a text, by name: the host's own objects."""


class ComfyDenoiser:
    """The diffusion network of a MODEL, its patches and model sampling nodes included.

    The host says how it mixes latents and noise, and what a network's output means; whatever that
    is, it is seen as a schedule whose variance stays 1. `levels` (T,) are the noise levels (the
    host's sigmas) to learn at; without them all of the model's sampling object. Without gradient at
    most `at_once` latents run together.
    """

    def __init__(self, model: Any, at_once: int, levels: Tensor | None = None) -> None:
        self.model, self.at_once = model, at_once
        sampling = model.get_model_object("model_sampling")
        found = getattr(sampling, "sigmas", None) if levels is None else levels
        if found is None or isinstance(sampling, comfy.model_sampling.IMG_TO_IMG):
            raise _unknown_noise(model)
        most = MOST_NOISE if is_flow(model) else math.inf
        self._sigmas = torch.unique(found.detach().clone().float().cpu().clamp(max=most))
        one = torch.ones_like(self._sigmas)
        self._signal, self._noise = (
            sampling.noise_scaling(self._sigmas, noise.clone(), (1 - noise).clone())
            for noise in (0 * one, one)
        )
        share = self._signal.square() / (self._signal.square() + self._noise.square())
        if not bool(((self._signal > 0) & (self._noise > 0)).all()):
            raise _unknown_noise(model)
        self._schedule = Schedule(share)

    @property
    def schedule(self) -> Schedule:
        """The noise levels to learn at."""
        return self._schedule

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The diffusion network."""
        return [self.model.model]

    @property
    def device(self) -> torch.device:
        """Where x_t is expected."""
        return self.model.load_device

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Noise prediction (B, C, ...), whatever the network predicts, for a batch of `Texts`."""
        texts = cast(Texts, conditioning).each
        size = len(x_t) if torch.is_grad_enabled() else self.at_once
        parts = [
            self._predict(x_t[at : at + size], t[at : at + size], texts[at : at + size])
            for at in range(0, len(x_t), size)
        ]
        return torch.cat(parts)

    def _predict(self, x_t: Tensor, t: Tensor, texts: Sequence[Text]) -> Tensor:
        """With x = signal x_0 + noise eps, eps is what is left of x without x_0."""
        management.throw_exception_if_processing_interrupted()
        shape = (-1,) + (1,) * (x_t.dim() - 1)
        signal, noise = (
            some.to(x_t.device)[t].reshape(shape) for some in (self._signal, self._noise)
        )
        x = x_t * (signal.square() + noise.square()).sqrt()
        sigma = self._sigmas.to(x_t.device)[t]
        facts = [self._facts(text, x[at : at + 1]) for at, text in enumerate(texts)]
        denoised = torch.zeros_like(x)
        for group in _alike(facts):
            joined = _joined([facts[at] for at in group])
            found = self._denoised(x[group], sigma[group], joined)
            denoised = denoised.index_copy(0, torch.tensor(group, device=x.device), found)
        return (x - signal * denoised) / noise

    def _facts(self, text: Text, x: Tensor) -> Facts:
        """What the host tells the network of one text for a latent x (1, C, ...)."""
        conds = comfy.sampler_helpers.convert_cond([list(text)])
        blank = torch.zeros_like(x)
        more = {"latent_image": blank, "denoise_mask": None, "seed": 0}
        made = self.model.model.extra_conds
        (cond,) = comfy.samplers.encode_model_conds(made, conds, x, self.device, "positive", **more)
        return {
            name: fact.process_cond(batch_size=1, device=self.device, area=None)
            for name, fact in cond["model_conds"].items()
        }

    def _denoised(self, x: Tensor, sigma: Tensor, facts: Facts) -> Tensor:
        options = dict(self.model.model_options.get("transformer_options", {}))
        options.update(cond_or_uncond=[0], sigmas=sigma)
        with differentiable():
            return self.model.model.apply_model(x, sigma, transformer_options=options, **facts)


MOST_NOISE = 0.999
"""Share of noise of a flow that is learned at: at 1 no noise prediction can be told."""


def is_flow(model: Any) -> bool:
    """Whether a MODEL goes a straight way from noise to picture."""
    sampling = model.get_model_object("model_sampling")
    return isinstance(sampling, comfy.model_sampling.CONST)


def sampled_levels(model: Any, scheduler: str, steps: int) -> Tensor:
    """The noise levels (T,) that a sampler visits: a distilled network knows no others."""
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)[:-1]


def _alike(facts: Sequence[Facts]) -> list[list[int]]:
    """Places of texts that the network can be told of together: the host asks for equal shapes."""
    groups: list[list[int]] = []
    for place, one in enumerate(facts):
        for group in groups:
            other = facts[group[0]]
            if one.keys() == other.keys() and all(
                other[name].size() == fact.size() and other[name].can_concat(fact)
                for name, fact in one.items()
            ):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def _joined(facts: Sequence[Facts]) -> Facts:
    first, *others = facts
    return {name: fact.concat([one[name] for one in others]) for name, fact in first.items()}


def _unknown_noise(model: Any) -> HostError:
    return HostError(
        "train on this MODEL",
        f"it is a {type(model.model).__name__}, which does not draw a picture out of noise",
        "connect a text-to-image model",
    )
