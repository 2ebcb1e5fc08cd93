"""Operator mode: the text encoder is the gate, in the whole process and for as long as it lives.

Cover: every text that becomes tokens gets the enforced prefix, negative and empty ones too. Check:
every chunk that becomes embeddings carries the prefix's rows bit for bit, or the run ends there.
Each family of checkpoints has a prefix of its own. Neither reads requests, so no side, weight,
script or setting leads past them. `Reload UI` leaves both in place: what is kept here lives as long
as the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from apl_core.enforced import Enforced, find
from apl_core.errors import AplError, FitError, HostError
from apl_core.trace import TraceWriter

from . import config, turns
from .hosts import Host, choose_host, family, require_fit
from .insertion import Run, emphasised, prefixed_chunks, title
from .language import table_of
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
    """The enforced prefixes by family, read once, and what was done with them."""

    def __init__(self, host: Host, prefixes: Mapping[str, Enforced]) -> None:
        self.host, self.prefixes = host, prefixes
        self.chunks = 0
        """Chunks that were embedded with the prefix since the process began."""
        self.fitting: str | None = None
        """The last checkpoint that was loaded and that the prefix fits."""

    def of(self, model: Any) -> Enforced:
        """The prefix for a checkpoint: its family's, or the only one; AplErrors."""
        only = next(iter(self.prefixes.values()))
        if model is None or len(self.prefixes) == 1:
            return only
        name = family(self.host, model)
        if name not in self.prefixes:
            raise FitError(
                "draw with this checkpoint",
                f"this server enforces prefixes for {', '.join(self.prefixes)}, and the loaded "
                f"checkpoint is {name}",
                "use a checkpoint of a family that has a prefix here",
            )
        return self.prefixes[name]

    def run(self, model: Any) -> Run:
        """An encoding with the prefix for a checkpoint in every text; AplErrors."""
        if model is None:
            raise _bare()
        self._require_fit(model)
        one = self.of(model)
        rows, reading = one.prefix.rows(self.host.device()), self.host.reading(model)
        return Run(one.name, rows, every_text=True, readers=reading)

    def cover(
        self, engine: Any, texts: Sequence[str], process_texts: Callable[..., Any]
    ) -> tuple[list[list[Any]], int]:
        """The engine's `process_texts` with the prefix in every chunk; Refused."""
        with self._refusing():
            key, one = self.host.key(engine), self.of(loaded_model())
            if key not in one.prefix.vectors:  # another family: the check says which
                return process_texts(engine, texts)
            run = Run(one.name, one.prefix.rows(self.host.device()), every_text=True)
            return prefixed_chunks(run, engine, key, texts, process_texts)

    def line(self, engine: Any, line: str, tokenize_line: Callable[..., Any], *more: Any) -> Any:
        """A language model's `tokenize_line` with the prefix around every text; Refused."""
        with self._refusing():
            run = self.run(loaded_model())
            return turns.lines(run, turns.reader_of(run, engine), line, tokenize_line, *more)

    def chunk(self, engine: Any, chunks: Any, weights: Any, process: Callable[..., Any]) -> Any:
        """A language model's `process_tokens`, if every text has its rows in place; Refused."""
        with self._refusing():
            run = self.run(loaded_model())
            reader = turns.reader_of(run, engine)
            encoded = turns.processed(run, reader, chunks, weights, process)
            self.chunks += len(chunks)
            return encoded

    def watch(self, engine: Any) -> None:
        """Let an engine's table of embeddings be read for covered texts alone."""
        with suppress(AplError):  # one that nobody knows is refused where it reads
            table_of(engine).register_forward_hook(self._looked_up)

    def _looked_up(self, *_: Any) -> None:
        with self._refusing():
            turns.require_covered()

    def check(self, layer: Any, ids: Tensor, embed: Callable[..., Tensor]) -> Tensor:
        """What the layer embeds (B, T, width), with the prefix's rows in place; Refused."""
        with self._refusing():
            embedded = embed(layer, ids)
            key = self._key(layer)
            enforced = self.of(loaded_model()).prefix
            front, back = (
                self.host.written(part, embedded)
                for part in (enforced.front(key), enforced.back(key))
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

    def reads(self, p: Any) -> Enforced | None:
        """The prefix that all conditioning of a picture was encoded with, or None."""
        given = [
            one for one in (getattr(p, "c", None), getattr(p, "hr_c", None)) if one is not None
        ]
        digests = {getattr(one, _MARK, None) for one in given}
        return next((one for one in self.prefixes.values() if digests == {one.digest}), None)

    def say(self, p: Any) -> None:
        """Let a picture's parameters name the prefix that was read for it, or none."""
        said = p.extra_generation_params
        for key in (NAME, HASH, STEPS, ENFORCED):
            said.pop(key, None)
        for one in self.prefixes.values():
            self.host.forget(title(one.name), said)
        if one := self.reads(p):
            short = one.digest[:10]
            said.update({NAME: one.name, HASH: short, ENFORCED: f"{one.name} {short}"})

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
            one = self.of(model)
            require_fit(self.host, one.name, one.prefix, model)
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
    """Read the prefixes of this name and close the gate, once in a process; AplErrors."""
    if not _GATES:
        host = choose_host()
        gate = Gate(host, find(config.library(), name))
        trace = TraceWriter.of(os.environ)
        if trace is not None:  # inside of the gate, so that it sees what the encoder gets
            from . import traced

            traced.install(host, trace, list(gate.prefixes.values()))
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
    for one in host.readers():
        places += [(one, name, wrap) for name, wrap in _READING.items()]
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


def _lines(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def tokenize_line(engine: Any, line: str, *more: Any) -> Any:
        return gate.line(engine, line, original, *more)

    return tokenize_line


def _chunks(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def process_tokens(engine: Any, tokens: Any, multipliers: Any) -> Any:
        return gate.chunk(engine, tokens, multipliers, original)

    return process_tokens


def _watched(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def __init__(engine: Any, *args: Any, **more: Any) -> None:
        original(engine, *args, **more)
        gate.watch(engine)

    return __init__


_READING = {
    "tokenize": turns.marking,
    "tokenize_line": _lines,
    "process_tokens": _chunks,
    "__init__": _watched,
}
"""What is wrapped of engines for language models and T5."""


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
            one = gate.of(model)
            require_fit(gate.host, one.name, one.prefix, model)
        except AplError:
            return None
        gate.fitting = model.sd_checkpoint_info.title
        return original(model)

    return get_empty_cond


def _set(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def set_option(
        options: Any, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True
    ) -> Any:
        changed = original(options, key, value, is_api=is_api, run_callbacks=run_callbacks)
        label = options.data_labels.get(key)
        # where nothing was called it is loaded for the next picture, whose texts are checked then
        loaded = run_callbacks and getattr(label, "onchange", None)
        if changed and key == "sd_model_checkpoint" and loaded:
            gate.chosen()
        return changed

    return set_option


def _marked(gate: Gate, original: Any) -> Any:
    @wraps(original)
    def get_multicond_learned_conditioning(*args: Any, **more: Any) -> Any:
        before = gate.chunks
        conds = original(*args, **more)
        if gate.chunks > before:
            setattr(conds, _MARK, gate.of(loaded_model()).digest)
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
