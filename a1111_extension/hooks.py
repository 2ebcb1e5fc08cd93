"""The places where the webui's own code is wrapped: on classes, and inert without a request."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

from apl_core.errors import AplError, HostError

from . import dropped, generation, request, sampled, turns
from .guidance import covers_negative
from .hosts import Host, require_fit
from .insertion import Run, current, emphasised, prefixed_chunks, running
from .refusal import Refused, refusal
from .request import Request
from .spelling import refuse_left_over
from .steps import spliced
from .webui import module

_OWNER = "apl-prefix"
_CACHE_ENTRY = "apl"
"""Our entry among the tags of other networks, and our own tags among them."""


def install(host: Host) -> None:
    """Wrap the host's classes; `remove` takes it back. Twice in a row does nothing more."""
    patches = module("patches")
    for owner, name, wrapper in _places(host):
        if patches.original(_OWNER, owner, name) is None:
            patches.patch(_OWNER, owner, name, wrapper)


def remove(host: Host) -> None:
    """Put the host's own functions back."""
    patches = module("patches")
    for owner, name, _ in _places(host):
        if patches.original(_OWNER, owner, name) is not None:
            patches.undo(_OWNER, owner, name)


def _places(host: Host) -> list[tuple[Any, str, Any]]:
    processing, engine = module("processing"), host.engine_class()
    samplers = [
        processing.StableDiffusionProcessingTxt2Img,
        processing.StableDiffusionProcessingImg2Img,
    ]
    base, denoiser = processing.StableDiffusionProcessing, host.denoiser_class()
    places = [
        (processing, "process_images_inner", _drawing),
        (base, "parse_extra_network_prompts", _parsing),
        (base, "get_conds_with_caching", _conditioning),
        (denoiser, "forward", _stepping),
        (denoiser, "update_inner_model", _swapping),
        (engine, "process_texts", _texts),
        (engine, "process_tokens", _tokens),
        *((one, name, wrap) for one in host.readers() for name, wrap in _READING.items()),
        *((owner, "sample", _sampling) for owner in samplers),
        *((owner, name, _elsewhere) for owner, name in host.remote()),
        *dropped.places(),
    ]
    return [(owner, name, wrap(host, getattr(owner, name))) for owner, name, wrap in places]


def _conditioning(host: Host, original: Any) -> Any:
    @wraps(original)
    def get_conds_with_caching(
        p: Any,
        function: Any,
        required_prompts: Any,
        steps: int,
        caches: Any,
        extra_network_data: Any,
        hires_steps: int | None = None,
    ) -> Any:
        asked = _asked(host, p)
        _refuse_left_over(host, p, required_prompts)
        negative = getattr(required_prompts, "is_negative_prompt", False)
        if asked is not None and (not negative or covers_negative(p)):
            # an empty text draws nobody, but a network beside it may: then it is covered as well
            networks = set(extra_network_data or ()) - {_CACHE_ENTRY}
            function = partial(_encode, host, asked, function, bool(networks))
            # the host only compares this argument: nothing of another mode is taken for ours
            extra_network_data = {**(extra_network_data or {}), _CACHE_ENTRY: asked.key}
        try:
            conds = original(
                p, function, required_prompts, steps, caches, extra_network_data, hires_steps
            )
        except Refused:
            _count_refused(host, p)
            raise
        if asked is not None:
            request.say(p, asked, sampled.has_rows(conds))
        return conds

    return get_conds_with_caching


def _encode(
    host: Host,
    asked: Request,
    function: Any,
    every_text: bool,
    model: Any,
    prompts: Any,
    steps: int,
    hires_steps: int | None = None,
    *more: Any,
) -> Any:
    """The host's conditioning of prompts, with the prefix in it; raises Refused.

    `more`: whether old schedules are meant, which Forge Neo does not know.
    """
    try:
        host.refuse_settings()
        require_fit(host, asked.name, asked.prefix, model)
        rows = asked.prefix.rows(host.device())
        run = Run(asked.name, rows, every_text, host.reading(model))
        try:
            with running(run):
                conds = function(model, prompts, steps, hires_steps, *more)
        finally:
            host.forget(run.title)
        run.verify()
        if not asked.steps.whole:
            count = steps if hires_steps is None or any(more) else hires_steps
            covered = asked.steps.steps(count)
            with running(None):
                bare = function(model, prompts, steps, hires_steps, *more)
            conds = spliced(bare, conds, count, covered)
    except AplError as error:
        raise refusal(error) from error
    return sampled.marked(conds, asked.key, bool(run.inserted))


def _texts(host: Host, original: Any) -> Any:
    @wraps(original)
    def process_texts(engine: Any, texts: Any) -> Any:
        run = current()
        if run is None:
            return original(engine, texts)
        return prefixed_chunks(run, engine, host.key(engine), texts, original)

    return process_texts


def _tokens(host: Host, original: Any) -> Any:
    @wraps(original)
    def process_tokens(engine: Any, remade_batch_tokens: Any, batch_multipliers: Any) -> Any:
        if current() is None:
            return original(engine, remade_batch_tokens, batch_multipliers)
        return emphasised(
            engine,
            remade_batch_tokens,
            batch_multipliers,
            host.fixes(engine),
            original,
            host.emphasis(engine),
        )

    return process_tokens


def _lines(_host: Host, original: Any) -> Any:
    @wraps(original)
    def tokenize_line(engine: Any, line: str, *more: Any) -> Any:
        run = current()
        if run is None:
            return original(engine, line, *more)
        return turns.lines(run, turns.reader_of(run, engine), line, original, *more)

    return tokenize_line


def _chunks(_host: Host, original: Any) -> Any:
    @wraps(original)
    def process_tokens(engine: Any, batch_tokens: Any, batch_multipliers: Any) -> Any:
        run = current()
        if run is None:
            return original(engine, batch_tokens, batch_multipliers)
        reader = turns.reader_of(run, engine)
        return turns.processed(run, reader, batch_tokens, batch_multipliers, original)

    return process_tokens


_READING = {"tokenize": turns.marking, "tokenize_line": _lines, "process_tokens": _chunks}
"""What is wrapped of engines for language models and T5."""


def _sampling(host: Host, original: Any) -> Any:
    @wraps(original)
    def sample(p: Any, *args: Any, **kwargs: Any) -> Any:
        asked = _asked(host, p)
        conds = kwargs.get("conditioning", args[0] if args else None)
        if asked is not None and getattr(conds, "apl_key", None) != asked.key:
            _count_refused(host, p)
            raise refusal(
                HostError(
                    "anonymize this image",
                    "the conditioning that is about to be sampled was not made with the prefix: "
                    f"another extension replaced it in {host.name}",
                    "switch that extension off",
                )
            )
        return original(p, *args, **kwargs)

    return sample


def _stepping(host: Host, original: Any) -> Any:
    return sampled.stepping(partial(_asked, host), original)


def _swapping(host: Host, original: Any) -> Any:
    return sampled.swapping(partial(_asked, host), original)


def _drawing(_host: Host, original: Any) -> Any:
    @wraps(original)
    def process_images_inner(p: Any) -> Any:
        with request.under_way(p):
            return original(p)

    return process_images_inner


def _elsewhere(host: Host, original: Any) -> Any:
    @wraps(original)
    def elsewhere(p: Any, *args: Any, **kwargs: Any) -> Any:
        p.setup_prompts()
        generation.begin(host, p, *_arguments(p))
        if _asked(host, p) is not None:
            _count_refused(host, p)
            raise refusal(
                HostError(
                    "anonymize this image",
                    "it would be drawn by a service on the network, where no prefix can be put in",
                    "choose a checkpoint on this computer",
                )
            )
        return original(p, *args, **kwargs)

    return elsewhere


def _arguments(p: Any) -> list[Any]:
    """What the accordion or the API says for this request, before the webui hands it out."""
    scripts = p.scripts.alwayson_scripts if p.scripts is not None else []
    own = [one for one in scripts if one.title() == generation.TITLE]
    return list(p.script_args[own[0].args_from : own[0].args_to]) if own else []


def _parsing(_host: Host, original: Any) -> Any:
    @wraps(original)
    def parse_extra_network_prompts(p: Any) -> Any:
        request.read_late(p)
        return original(p)

    return parse_extra_network_prompts


def _refuse_left_over(host: Host, p: Any, texts: Any) -> None:
    """Refused, which is counted, for a tag that nobody read."""
    try:
        refuse_left_over(texts)
    except AplError as error:
        _count_refused(host, p)
        raise refusal(error) from error


def _asked(host: Host, p: Any) -> Request | None:
    """What `p` asks for; Refused, which is counted."""
    try:
        return request.of(p)
    except Refused:
        _count_refused(host, p)
        raise


def _count_refused(host: Host, p: Any) -> None:
    """Count a refused request once, however often its refusal is met."""
    if not getattr(p, "apl_counted", False):
        p.apl_counted = True
        host.tally.refused += 1
