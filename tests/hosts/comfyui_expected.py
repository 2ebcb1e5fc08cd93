"""What ComfyUI's language-model and T5 families have to give, by transformers' own models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from comfyui_started import WORK
from torch import Tensor

if True:  # behind the start, which makes the host's modules importable
    import comfyui_families
    import nodes
    from apl_comfy import families
    from comfyui_families import TREE, Thin, thin

from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix

PROMPTS = (
    "a",
    "a photo of Ada Lovelace in front of a red house",
    "ünïcode 写真 🙂, ½ – “quotes” (and (brackets:1.3)) {braces} \\(escaped\\)",  # noqa: RUF001
    "line\nbreaks,   spaces\n",
    "word " * 300,
)


@cache
def built(name: str) -> Any:
    """The thin CLIP of a family."""
    if name == "HiDream I1":
        comfyui_families.llama_tokenizer(WORK)
    return comfyui_families.clip_of(thin(name))


def prefix(family: Thin, count: int = 6, behind: int = 2, seed: int = 0) -> Prefix:
    """A random prefix learned through this family."""
    generator = torch.Generator().manual_seed(seed)
    keys = [key for key, _ in families.tokenizers(built(family.name).tokenizer)]
    rows = {key: torch.randn(count, WIDTHS[key], generator=generator) * 0.5 for key in keys}
    return Prefix(rows, behind, PrefixCard(family=family.name))


def stock(clip: Any, text: str) -> Any:
    """What ComfyUI's own CLIPTextEncode gives."""
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def places(chunk: list[Any]) -> list[int]:
    """Where rows stand."""
    return [at for at, one in enumerate(chunk) if isinstance(one[0], dict)]


USER = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
SYSTEM = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
)


def qwen(text: str) -> list[int]:
    """Tokens of a text or a part of a template by transformers' own tokenizer."""
    return list(_qwen()(text, add_special_tokens=False).input_ids)


@cache
def _qwen() -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(TREE / "qwen25_tokenizer"))


def encoded(
    family: Thin, px: Prefix | None, parts: tuple[list[int], list[int], list[int]], fill: Fill
) -> tuple[Tensor, ...]:
    """States of a text by transformers' own model; `fill` pads the list of rows and tokens."""
    clip = built(family.name)
    table = getattr(clip.cond_stage_model, family.key).transformer.get_input_embeddings()
    before, text, after = (table(torch.tensor([ids], dtype=torch.long))[0] for ids in parts)
    front = px.front(family.key) if px else before[:0]
    behind = px.back(family.key) if px else before[:0]
    whole = torch.cat([before, front, text, behind, after]).float()
    embeddings, mask = fill(whole, table)
    found = comfyui_families.states(_model(family), embeddings[None], mask)
    if not torch.allclose(found[0], embeddings):  # transformers before 5 scales what Gemma is given
        scaled = embeddings[None] / WIDTHS[family.key] ** 0.5
        found = comfyui_families.states(_model(family), scaled, mask)
    return found


def _model(family: Thin) -> Any:
    place = family.name, family.key
    if place not in _MODELS:
        _MODELS[place] = comfyui_families.reference(family, built(family.name))
    return _MODELS[place]


_MODELS: dict[tuple[str, str], Any] = {}


Fill = Callable[[Tensor, Any], tuple[Tensor, "Tensor | None"]]


def as_it_is(whole: Tensor, table: Any) -> tuple[Tensor, Tensor | None]:
    """No padding, no mask."""
    return whole, None


def filled(length: int, pad: int, *, masked: bool) -> Fill:
    """Padding up to a length, with a mask or attended to."""

    def fill(whole: Tensor, table: Any) -> tuple[Tensor, Tensor | None]:
        missing = max(length - len(whole), 0)
        more = table(torch.full((1, missing), pad, dtype=torch.long))[0].float()
        mask = torch.tensor([[1] * len(whole) + [0] * missing])
        return torch.cat([whole, more]), mask if masked else None

    return fill


def z_image(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Z-Image's denoiser reads: layer -2, the whole template."""
    parts = qwen(USER[0]), qwen(unescaped(text)), qwen(USER[1])
    return encoded(family, px, parts, as_it_is)[-2]


def qwen_image(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What the denoisers of Qwen-Image and Mage-Flow read: the last layer, 34 tokens cut off."""
    parts = qwen(SYSTEM + USER[0]), qwen(unescaped(text)), qwen(USER[1])
    assert len(parts[0]) == 34
    return encoded(family, px, parts, as_it_is)[-1][:, 34:]


def krea_2(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Krea 2's denoiser reads: twelve layers joined, 34 tokens cut off."""
    parts = qwen(SYSTEM + USER[0]), qwen(unescaped(text)), qwen(USER[1])
    found = encoded(family, px, parts, as_it_is)
    return torch.cat([found[layer] for layer in range(2, 36, 3)], -1)[:, 34:]


def klein(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Klein's denoiser reads: three layers joined, at least 512 tokens, padding masked."""
    after = qwen(USER[1] + "<think>\n\n</think>\n\n")
    parts = qwen(USER[0]), qwen(unescaped(text)), after
    found = encoded(family, px, parts, filled(512, 151643, masked=True))
    return torch.cat([found[layer] for layer in (9, 18, 27)], -1)


@cache
def _t5() -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(TREE / "t5_tokenizer"))


def t5(text: str) -> list[int]:
    """Tokens of a text by transformers' own tokenizer, without the end."""
    return list(_t5()(text, add_special_tokens=False).input_ids)


def segments(text: str) -> list[tuple[str, float]]:
    """The parts of a text with their weights, written down by hand."""
    if "(brackets:1.3)" not in text:
        return [(unescaped(text), 1.0)]
    first, _, rest = text.partition("(and (brackets:1.3))")
    return [(first, 1.0), ("and ", 1.1), ("brackets", 1.3), (unescaped(rest), 1.0)]


def weighted(
    family: Thin,
    px: Prefix | None,
    text: str,
    ids_of: Callable[[str], list[int]],
    ends: tuple[list[int], list[int]],
    fill: Fill,
    empty: list[int],
    layer: int = -1,
) -> Tensor:
    """States of a text with weights: each of them moves its token away from the empty text's."""
    tokens = [(one, weight) for part, weight in segments(text) for one in ids_of(part)]
    parts = ends[0], [one for one, _ in tokens], ends[1]
    states = encoded(family, px, parts, fill)[layer].clone()
    if family.key == "llama":
        return states  # the host takes a token's weight for a layer's there: rows and BOS have none
    if any(weight != 1 for _, weight in tokens):
        masked, length = family.name in MASKED, states.shape[1]
        ids = empty if masked else empty + [0] * (length - len(empty))
        around = filled(length, 0, masked=True) if masked else as_it_is
        zero = encoded(family, None, ([], ids, []), around)[layer].clone()
        if family.name == "Wan":
            zero[:, len(ids) :] = 0  # as all of its padding
        first = len(ends[0]) + (px.rows_in_front if px else 0)
        for at, (_, weight) in enumerate(tokens, first):
            states[0, at] = (states[0, at] - zero[0, at]) * weight + zero[0, at]
    return states


MASKED = ("Lumina 2", "Wan", "HiDream I1")
"""Families whose padding no token looks at."""


def flux_1(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Flux.1's denoiser reads of T5: at least 256 tokens, padding attended to."""
    return weighted(family, px, text, t5, ([], [1]), filled(256, 0, masked=False), [1])


def chroma(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Chroma's denoiser reads: no padding; weights are against padding alone."""
    return weighted(family, px, text, t5, ([], [1]), as_it_is, [])


def sd_35(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What SD 3.5's denoiser reads: T5 with at least 77 tokens behind what CLIP says."""
    states = weighted(family, px, text, t5, ([], [1]), filled(77, 0, masked=False), [1])
    return torch.cat([by_hand(family, px, text)[0], states], 1)


def by_hand(family: Thin, px: Prefix | None, text: str) -> tuple[Tensor, Tensor]:
    """States and pooled output of the CLIPs, whose rows are put in entry by entry here."""
    clip, model = built(family.name), built(family.name).cond_stage_model
    told = {}
    for short in ("l", "g"):
        inner = getattr(clip.tokenizer, f"clip_{short}", None)
        if inner is None:
            continue
        chunks = chunked(inner, text, px, f"clip_{short}")
        told[short] = getattr(model, f"clip_{short}").encode_token_weights(chunks)
    if family.name == "Flux.1":
        return told["l"]
    cut = min(told["l"][0].shape[1], told["g"][0].shape[1])
    joined = torch.cat([told["l"][0][:, :cut], told["g"][0][:, :cut]], -1)
    joined = torch.nn.functional.pad(joined, (0, 4096 - joined.shape[-1]))
    return joined, torch.cat([told["l"][1], told["g"][1]], -1)


def chunked(inner: Any, text: str, px: Prefix | None, key: str) -> list[list[Any]]:
    """Chunks of 77 entries of a text, with rows around the words of each."""
    rows = (list(px.front(key)), list(px.back(key))) if px else ([], [])
    narrow = copy.copy(inner)
    narrow.max_length -= px.n if px else 0
    found: list[list[Any]] = []
    for chunk in narrow.tokenize_with_weights(text, True):
        said = [(token, weight) for token, weight, word in chunk if word]
        plain = [(token, weight) for token, weight, word in chunk if not word]
        front, behind = ([(row, 1.0) for row in side] for side in rows)
        found.append([plain[0], *front, *said, *behind, *plain[1:]])
    return found


LUMINA = (
    "You are an assistant designed to generate high-quality images with the highest degree of "
    "image-text alignment based on textual prompts. <Prompt Start>"
)


def lumina_2(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Lumina 2's denoiser reads: layer -2, the text behind BOS; embeddings are scaled."""
    gemma = pieces_of(family)
    if text.startswith(LUMINA):
        head, said = [2, *gemma(LUMINA)], text.removeprefix(LUMINA)
    else:
        head, said = [2], text
    return weighted(family, px, said, gemma, (head, []), as_it_is, [2], -2)


def pieces_of(family: Thin) -> Callable[[str], list[int]]:
    """Tokens of a text by the family's own small sentencepiece model."""
    inner = next(one for _, one in families.tokenizers(built(family.name).tokenizer))
    model = inner.tokenizer.tokenizer
    return lambda text: list(model.encode(text, add_bos=False, add_eos=False))


def flux_2(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Flux.2's denoiser reads: three layers joined."""
    mistral = tekken_of(family)
    before, after = FLUX_2.split("{}")
    parts = [1, *mistral(before)], mistral(unescaped(text)), mistral(after)
    found = encoded(family, px, parts, as_it_is)
    return torch.cat([found[layer] for layer in (10, 20, 30)], -1)


FLUX_2 = (
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured "
    "responses focusing on object relationships, object\nattribution and actions without "
    "speculation.[/SYSTEM_PROMPT][INST]{}[/INST]"
)


def tekken_of(family: Thin) -> Callable[[str], list[int]]:
    """Tokens of a text by the family's own small tokenizer of Mistral's kind."""
    inner = next(one for _, one in families.tokenizers(built(family.name).tokenizer))
    return lambda text: list(inner.tokenizer(text)["input_ids"])


def ernie(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What ERNIE's denoiser reads: layer -2, the text behind BOS."""
    parts = [1], tekken_of(family)(unescaped(text)), []
    return encoded(family, px, parts, as_it_is)[-2]


def wan(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What Wan's denoiser reads: at least 512 tokens, padding masked and zero."""
    umt5 = pieces_of(family)
    fill = filled(512, 0, masked=True)
    states = weighted(family, px, text, umt5, ([], [1]), fill, [1])
    used = sum(len(umt5(part)) for part, _ in segments(text)) + 1 + (px.n if px else 0)
    states[:, used:] = 0
    return states


def hidream(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What HiDream I1's denoiser reads of Llama: all layers, at least 128 tokens."""
    inner = built(family.name).tokenizer.llama

    def llama(part: str) -> list[int]:
        return list(inner.tokenizer(part)["input_ids"][1:])

    fill = filled(128, 128009, masked=True)
    found = [
        weighted(family, px, text, llama, ([128000], []), fill, [128000], layer)
        for layer in (1, 2, 3)
    ]
    return torch.stack(found, 1)


EXPECTED = {
    "Z-Image": z_image,
    "Qwen-Image": qwen_image,
    "Krea 2": krea_2,
    "Mage-Flow": qwen_image,
    "Flux.2 Klein 4B": klein,
    "Flux.2 Klein 9B": klein,
    "Flux.1": flux_1,
    "Chroma": chroma,
    "SD 3.5": sd_35,
    "Lumina 2": lumina_2,
    "Flux.2 dev": flux_2,
    "Wan": wan,
    "HiDream I1": hidream,
    "ERNIE": ernie,
}


def close(states: Tensor, wanted: Tensor, name: str) -> None:
    """Every token of a conditioning is what the reference says, but for rounding."""
    assert states.shape == wanted.shape, (name, states.shape, wanted.shape)
    off = (states - wanted).abs().amax(-1) / wanted.abs().amax(-1).clamp_min(1e-3)
    assert float(off.max()) < 2e-3, (name, off.max(), off.argmax(), off.shape)


def unescaped(text: str) -> str:
    """A text as the host reads it."""
    return text.replace("\\(", "(").replace("\\)", ")")


def found_states(family: Thin, conditioning: Any) -> Tensor:
    """What a conditioning has of the encoder that the reference runs."""
    facts = conditioning[0][1]
    return facts["conditioning_llama3"] if family.name == "HiDream I1" else conditioning[0][0]
