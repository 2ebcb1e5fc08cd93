"""Operator mode: the text encoder is the gate, in the whole process and for as long as it lives.

Cover: every text that becomes tokens gets the enforced prefix, negative and empty ones too. Check:
every chunk that becomes embeddings carries the prefix's rows bit for bit, or the run ends there.
Neither reads requests, so no side, weight, script or setting leads past them. `Reload UI` leaves
both in place: what is kept here lives as long as the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from apl_core.errors import AplError, HostError
from apl_core.prefix import Prefix
from apl_core.trace import TraceWriter

from . import config
from .hosts import Host, choose_host, require_fit
from .insertion import Run, emphasised, prefixed_chunks, title
from .refusal import refusal
from .request import ENFORCED, HASH, NAME, STEPS
from .webui import loaded_model, module

OWNER = "apl-prefix"
_BOS, _EOS = 49406, 49407
_PADDING = {_EOS, 0}
"""Token ids of CLIP, in every family that a prefix can be for."""

_MARK, _EMPTY = "apl_read", "cond_stage_model_empty_prompt"
"""Attributes of conditioning from behind the gate, and of a model for its empty prompt."""


class Gate:
    """The enforced prefix, read once, and what was done with it."""

    def __init__(self, host: Host, name: str, prefix: Prefix) -> None:
        self.host, self.name, self.prefix = host, name, prefix
        self.digest = prefix.digest
        self.chunks = 0
        """Chunks that were embedded with the prefix since the process began."""
        self.fitting: str | None = None
        """The last checkpoint that was loaded and that the prefix fits."""

    def cover(
        self, engine: Any, texts: Sequence[str], process_texts: Callable[..., Any]
    ) -> tuple[list[list[Any]], int]:
        """The engine's `process_texts` with the prefix in every chunk; Refused."""
        with self._refusing():
            key = self.host.key(engine)
            if key not in self.prefix.vectors:  # another family: the check says which
                return process_texts(engine, texts)
            run = Run(self.name, self.prefix.rows(self.host.device()), every_text=True)
            return prefixed_chunks(run, engine, key, texts, process_texts)

    def check(self, layer: Any, ids: Tensor, embed: Callable[..., Tensor]) -> Tensor:
        """What the layer embeds (B, T, width), with the prefix's rows in place; Refused."""
        with self._refusing():
            embedded = embed(layer, ids)
            key = self._key(layer)
            front, back = (
                self.host.written(part, embedded)
                for part in (self.prefix.front(key), self.prefix.back(key))
            )
            looked_up = layer.wrapped(ids)
            lines = ids.reshape(-1, ids.shape[-1]).tolist()
            shape = (len(lines), ids.shape[-1], -1)
            chunks = zip(lines, embedded.reshape(shape), looked_up.reshape(shape), strict=True)
            if not all(_stands(*chunk, front, back) for chunk in chunks):
                raise _bare()
            self.chunks += len(lines)
            return embedded

    def passed(self, encode: Callable[[], Any]) -> Any:
        """What an engine encodes, if it was embedded where the gate looks; Refused."""
        before = self.chunks
        encoded = encode()
        with self._refusing():
            if self.chunks == before:
                raise _bare()
        return encoded

    def reads(self, p: Any) -> bool:
        """Whether all conditioning that a picture is drawn with was encoded behind the gate."""
        given = [
            one for one in (getattr(p, "c", None), getattr(p, "hr_c", None)) if one is not None
        ]
        return bool(given) and all(getattr(one, _MARK, None) == self.digest for one in given)

    def say(self, p: Any) -> None:
        """Let a picture's parameters name the prefix that was read for it, or none."""
        said = p.extra_generation_params
        for key in (NAME, HASH, STEPS, ENFORCED):
            said.pop(key, None)
        self.host.forget(title(self.name), said)
        if self.reads(p):
            short = self.digest[:10]
            said.update({NAME: self.name, HASH: short, ENFORCED: f"{self.name} {short}"})

    def _key(self, layer: Any) -> str:
        """The encoder of the loaded checkpoint that a layer belongs to; AplErrors."""
        model = loaded_model()
        engines = [] if model is None else self.host.engines(model)
        own = [one for one in engines if self.host.layer(one) is layer]
        if not own:
            raise _bare()
        self._require_fit(model)
        return self.host.key(own[0])

    def chosen(self) -> None:
        """Refused if the checkpoint that was loaded for a setting is of another family."""
        model = loaded_model()
        if model is not None:
            with self._refusing():
                self._require_fit(model)

    def _require_fit(self, model: Any) -> None:
        """FitError for a checkpoint of another family, which nobody else shall have to meet."""
        try:
            require_fit(self.host, self.name, self.prefix, model)
        except AplError:
            if self.fitting is not None:  # else whoever chose it would stop everybody
                module("shared").opts.data["sd_model_checkpoint"] = self.fitting
            raise

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except AplError as error:
            self.host.tally.refused += 1
            raise refusal(error) from error


_GATES: list[Gate] = []
"""The one of this process, once it is closed: this module outlives every reload of the scripts."""


def running() -> Gate | None:
    """The gate of this process, None in normal mode."""
    return _GATES[0] if _GATES else None


def start(name: str) -> Gate:
    """Read the prefix and close the gate, once in a process; AplErrors."""
    if not _GATES:
        host = choose_host()
        gate = Gate(host, name, config.library().load(name))
        trace = TraceWriter.of(os.environ)
        if trace is not None:  # inside of the gate, so that it sees what the encoder gets
            from . import traced

            traced.install(host, trace, (name, gate.prefix))
        _close(gate)
        _GATES.append(gate)
    return _GATES[0]


def _close(gate: Gate) -> None:
    host, models = gate.host, module("sd_models")
    places = [
        (host.engine_class(), "process_texts", _covered),
        (host.engine_class(), "process_tokens", _weighted),
        (host.embedding_class(), "forward", _checked),
        (module("prompt_parser"), "get_multicond_learned_conditioning", _marked),
        (module("processing"), "create_infotext", _told),
        (type(module("shared").opts), "set", _set),
    ]
    if hasattr(models, "get_empty_cond"):
        places.append((models, "get_empty_cond", _baseline))
    for owner, name, wrap in places:
        module("patches").patch(OWNER, owner, name, wrap(gate, getattr(owner, name)))
    if hasattr(model := loaded_model(), _EMPTY):  # another extension was quicker
        with torch.no_grad():
            setattr(model, _EMPTY, models.get_empty_cond(model))


def _covered(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def process_texts(engine: Any, texts: Any) -> Any:
        return gate.cover(engine, texts, original)

    return process_texts


def _weighted(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def process_tokens(engine: Any, tokens: Any, multipliers: Any) -> Any:
        fixes = gate.host.fixes(engine) or []
        emphasis = gate.host.emphasis(engine)
        return gate.passed(
            lambda: emphasised(engine, tokens, multipliers, fixes, original, emphasis)
        )

    return process_tokens


def _checked(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def forward(layer: Any, input_ids: Tensor) -> Tensor:
        return gate.check(layer, input_ids, original)

    return forward


def _baseline(gate: Gate, original: Any) -> Any:
    """The host's own empty prompt; None for a checkpoint that will be refused for every picture."""

    @wraps(original)
    def get_empty_cond(model: Any) -> Any:
        try:
            require_fit(gate.host, gate.name, gate.prefix, model)
        except AplError:
            return None
        gate.fitting = model.sd_checkpoint_info.title
        return original(model)

    return get_empty_cond


def _set(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def set_option(options: Any, key: str, *args: Any, **more: Any) -> Any:
        changed = original(options, key, *args, **more)
        label = options.data_labels.get(key)
        # a Forge loads it for the next picture, whose texts are checked then
        if changed and key == "sd_model_checkpoint" and getattr(label, "onchange", None):
            gate.chosen()
        return changed

    return set_option


def _marked(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def get_multicond_learned_conditioning(*args: Any, **more: Any) -> Any:
        before = gate.chunks
        conds = original(*args, **more)
        if gate.chunks > before:
            setattr(conds, _MARK, gate.digest)
        return conds

    return get_multicond_learned_conditioning


def _told(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def create_infotext(p: Any, *args: Any, **more: Any) -> Any:
        gate.say(p)
        return original(p, *args, **more)

    return create_infotext


def _stands(ids: list[int], got: Tensor, plain: Tensor, front: Tensor, back: Tensor) -> bool:
    """Whether a chunk (T, width) is BOS, front, text, back, EOS and nothing but padding behind."""
    if ids[0] != _BOS or _EOS not in ids:
        return False
    end, first = ids.index(_EOS), 1 + len(front)
    return (
        first <= end - len(back)
        and _PADDING.issuperset(ids[end:])
        and torch.equal(got[0], plain[0])
        and torch.equal(got[1:first], front)
        and torch.equal(got[end - len(back) : end], back)
        and torch.equal(got[end:], plain[end:])
    )


def _bare() -> HostError:
    return HostError(
        "anonymize this image",
        "a text reached the text encoder without the prefix; another extension, or an encoder "
        "that is not the loaded checkpoint's, stands in the way",
        "switch that extension off",
    )
