"""Checks of language models and T5 as text encoders inside a real ComfyUI, run by its Python.

``venv/bin/python comfyui_families_probe.py HOST MODELS WORK`` writes WORK/said.json. Every family
of comfyui_families.py that this host has is compared with transformers' own model, token by token.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import comfyui_setup
from comfyui_setup import raises

HOST, MODELS, WORK = (Path(argument) for argument in sys.argv[1:4])
comfyui_setup.start(HOST, MODELS)

import comfyui_families
import nodes
import torch
import transformers
from apl_comfy import clips, families, nodes_prefix
from comfyui_families import FAMILIES, Thin
from torch import Tensor

from apl_core.errors import FitError, HostError, PromptError
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix

TREE = HOST / "comfy" / "text_encoders"
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


def thin(name: str) -> Thin:
    """A family's description."""
    return next(one for one in FAMILIES if one.name == name)


def here() -> Iterator[Thin]:
    """The families that this ComfyUI has."""
    wanted = os.environ.get("FAMILIES", "")
    for one in FAMILIES:
        if wanted and one.name not in wanted.split(","):
            continue
        module = TREE / f"{one.module}.py"
        if not module.exists() or f"class {one.tokenizer}" not in module.read_text("utf-8"):
            continue
        old = not (TREE / "bpe_tokenizer.py").exists()
        if old and one.name in ("HiDream I1", "Flux.2 dev", "ERNIE"):
            continue  # older hosts read these tokenizers with transformers of their time
        if one.name == "Lumina 2" and not scales_what_it_looks_up():
            continue
        yield one


def scales_what_it_looks_up() -> bool:
    """Whether this host scales Gemma's embeddings where it looks them up, and not all of them."""
    return "ScaledEmbedding" in (TREE / "llama.py").read_text("utf-8")


def check_a_host_that_scales_rows_is_refused() -> None:
    if not scales_what_it_looks_up():
        clip = built("Lumina 2")
        px = Prefix({"gemma2_2b": torch.zeros(4, 2304)}, 1, PrefixCard(family="Lumina 2"))
        with raises(HostError, "update ComfyUI"):
            clips.apply_prefix(clip, px)


def check_a_quantized_table_is_not_known() -> None:
    for family in here():
        if family.name in ("Z-Image", "Chroma"):
            clip = comfyui_families.clip_of(family)
            encoder = getattr(clip.cond_stage_model, family.key)
            table = encoder.transformer.get_input_embeddings()
            table.weight = torch.nn.Parameter(table.weight.to(torch.float8_e4m3fn), False)
            report = clips.fit(clip, prefix(family))
            assert report.same_encoder is None
            patched = clips.apply_prefix(clip, prefix(family))
            stock(patched, PROMPTS[1])
            tokens = [one[0] for one in patched.tokenize(PROMPTS[1])[family.key][0]]
            embedded = encoder.process_tokens([tokens], "cpu")[0][0]
            at = next(at for at, one in enumerate(tokens) if isinstance(one, dict))
            assert torch.equal(embedded[at : at + 4], prefix(family).front(family.key))


def prefix(family: Thin, count: int = 6, behind: int = 2, seed: int = 0) -> Prefix:
    """A random prefix learned through this family."""
    generator = torch.Generator().manual_seed(seed)
    keys = [key for key, _ in families.tokenizers(built(family.name).tokenizer)]
    rows = {key: torch.randn(count, WIDTHS[key], generator=generator) * 0.5 for key in keys}
    return Prefix(rows, behind, PrefixCard(family=family.name))


def stock(clip: Any, text: str) -> Any:
    """What ComfyUI's own CLIPTextEncode gives."""
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def same(one: Any, other: Any) -> bool:
    """Whether two conditionings are equal to the bit, masks and pooled outputs too."""
    (a, facts_a), (b, facts_b) = one[0], other[0]
    if facts_a.keys() != facts_b.keys() or not torch.equal(a, b):
        return False
    tensors = [key for key, value in facts_a.items() if isinstance(value, Tensor)]
    return all(torch.equal(facts_a[key], facts_b[key]) for key in tensors)


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
    mistral = _tekken(family)
    before, after = FLUX_2.split("{}")
    parts = [1, *mistral(before)], mistral(unescaped(text)), mistral(after)
    found = encoded(family, px, parts, as_it_is)
    return torch.cat([found[layer] for layer in (10, 20, 30)], -1)


FLUX_2 = (
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured "
    "responses focusing on object relationships, object\nattribution and actions without "
    "speculation.[/SYSTEM_PROMPT][INST]{}[/INST]"
)


def _tekken(family: Thin) -> Callable[[str], list[int]]:
    inner = next(one for _, one in families.tokenizers(built(family.name).tokenizer))
    return lambda text: list(inner.tokenizer(text)["input_ids"])


def ernie(family: Thin, px: Prefix | None, text: str) -> Tensor:
    """What ERNIE's denoiser reads: layer -2, the text behind BOS."""
    parts = [1], _tekken(family)(unescaped(text)), []
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


def check_every_token_is_as_transformers_has_it() -> None:
    for family in here():
        clip, px = built(family.name), prefix(family)
        patched = clips.apply_prefix(clip, px)
        texts = (*PROMPTS, f"{LUMINA} {PROMPTS[1]}") if family.name == "Lumina 2" else PROMPTS
        for text in texts:
            wanted = EXPECTED[family.name](family, px, text)
            close(found_states(family, stock(patched, text)), wanted, family.name)
        plain = found_states(family, stock(clip, PROMPTS[1]))  # takes the guards out of the model
        close(plain, EXPECTED[family.name](family, None, PROMPTS[1]), family.name)


def check_hidreams_t5_is_as_transformers_has_it() -> None:
    for family in here():
        if family.name == "HiDream I1":
            other = {"key": "t5xxl", "reference": "T5EncoderModel", "config": {}}
            by_t5, px = dataclasses.replace(family, **other), prefix(family)
            patched = clips.apply_prefix(built(family.name), px)
            for text in PROMPTS[:4]:
                fill = filled(128, 0, masked=True)
                wanted = weighted(by_t5, px, text, t5, ([], [1]), fill, [1])
                close(stock(patched, text)[0][0], wanted, text)


def check_pooled_outputs_have_the_rows() -> None:
    for family in here():
        if family.name in ("Flux.1", "SD 3.5"):
            px = prefix(family)
            patched = clips.apply_prefix(built(family.name), px)
            for text in PROMPTS:
                pooled = stock(patched, text)[0][1]["pooled_output"]
                assert torch.equal(pooled, by_hand(family, px, text)[1]), (family.name, text)


def check_an_empty_text_stays_as_it_is() -> None:
    for family in here():
        clip = built(family.name)
        patched = clips.apply_prefix(clip, prefix(family))
        for text in ("", " "):
            assert patched.tokenize(text) == clip.tokenize(text), (family.name, text)
            assert same(stock(patched, text), stock(clip, text)), (family.name, text)


def check_up_to_two_thousand_tokens() -> None:
    for family in here():
        clip, px = built(family.name), prefix(family, 10, 4)
        patched = clips.apply_prefix(clip, px)
        for count in (1, 2, 76, 240, 507, 2000):
            (chunk, *more) = patched.tokenize("x " * (count - 1) + "x")[family.key]
            plain = clip.tokenize("x " * (count - 1) + "x")[family.key][0]
            assert not more
            places = [at for at, one in enumerate(chunk) if isinstance(one[0], dict)]
            first, last = places[0], places[6]
            assert places == [*range(first, first + 6), *range(last, last + 4)]
            whole = chunk[:first] + chunk[first + 6 : last] + chunk[last + 4 :]
            pad = plain[-1]
            while len(whole) < len(plain):  # what is filled up is filled up by fewer
                whole.append(pad)
            assert whole == plain, (family.name, count)


def check_control_tokens_are_refused() -> None:
    for family in here():
        clip = built(family.name)
        patched = clips.apply_prefix(clip, prefix(family))
        inner = dict(families.tokenizers(clip.tokenizer))[family.key]
        marks = next(one for one in families.TABLE if one.name == family.name).controls.split()
        ids = {token for token, piece in inner.inv_vocab.items() if piece in marks}
        assert ids, family.name
        for control in marks:
            for text in (f"Ada {control} Lovelace", f"{control}Ada", f"Ada{control}"):
                spelled = ids.intersection(inner.tokenizer(text)["input_ids"][inner.tokens_start :])
                if spelled - {inner.end_token}:
                    refused(patched, text)
        if family.reference in ("Qwen2Model", "Qwen3Model", "MistralModel"):
            refused(patched, f"Ada {marks[0]} Lovelace")  # these have all of them


def refused(clip: Any, text: str, **options: Any) -> None:
    """Encoding a text ends in a sentence of ours."""
    try:
        clip.encode_from_tokens_scheduled(clip.tokenize(text, **options))
    except (PromptError, HostError) as error:
        assert "Fix:" in str(error)
    else:
        raise AssertionError(f"{text!r} {options.keys()} was encoded")


def check_templates_of_others_and_pictures_are_refused() -> None:
    picture = torch.zeros(1, 56, 56, 3)
    turn = "<|im_start|>system\nDraw.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    for family in here():
        patched = clips.apply_prefix(built(family.name), prefix(family))
        if family.reference in ("Qwen2Model", "Qwen3Model"):
            refused(patched, "a cat", llama_template=turn)
            refused(patched, "", llama_template=turn)
            refused(patched, turn.format("a cat"))
        if family.name in ("Qwen-Image", "Krea 2"):
            refused(patched, "a cat", images=[picture])
            refused(patched, "", images=[picture])
        if family.name == "Krea 2":
            refused(patched, "a cat", thinking=False)
        if family.name == "Qwen-Image":
            edit = importlib.import_module("comfy_extras.nodes_qwen").TextEncodeQwenImageEdit
            with raises(HostError, "pictures"):
                edit.execute(patched, "a cat", image=picture)
            assert same(edit.execute(patched, "a cat").args[0], stock(patched, "a cat"))


def check_prefix_off_changes_nothing() -> None:
    for family in here():
        clip = built(family.name)
        outer = clip.tokenizer
        key, inner = next(families.tokenizers(outer))
        before = stock(clip, PROMPTS[1])
        state = dict(vars(clip)), dict(vars(outer)), dict(vars(inner)), type(inner), type(outer)
        patched = clips.apply_prefix(clip, prefix(family))
        with_prefix = stock(patched, PROMPTS[1])
        assert not same(with_prefix, before), key
        now = dict(vars(clip)), dict(vars(outer)), dict(vars(inner)), type(inner), type(outer)
        assert state == now
        assert same(stock(clip, PROMPTS[1]), before)
        assert same(stock(patched.clone(), PROMPTS[1]), with_prefix)
        assert clips.apply_prefix(patched, prefix(family)) is patched
        by_node = nodes_prefix.PrefixConditioning.execute(clip, prefix(family), PROMPTS[1])
        assert same(by_node.args[0], with_prefix)


def check_a_lora_stays() -> None:
    for family in here():
        clip, px = built(family.name), prefix(family)
        weights = dict(clip.patcher.model.named_parameters())
        name = next(k for k, v in weights.items() if v.dim() == 2 and v.numel() < 10**7)
        patch = {name: ("diff", (torch.randn_like(weights[name]),))}

        def with_lora(one: Any, patch: Any = patch) -> Any:
            copied = one.clone()
            assert copied.add_patches(patch, 1.0)
            return copied

        before = stock(clips.apply_prefix(with_lora(clip), px), PROMPTS[1])
        after = stock(with_lora(clips.apply_prefix(clip, px)), PROMPTS[1])
        bare = stock(clips.apply_prefix(clip, px), PROMPTS[1])
        assert same(before, after) and not same(before, bare), family.name


def check_two_prefixes_stack() -> None:
    for family in here():
        clip, one, two = built(family.name), prefix(family), prefix(family, 5, 1, seed=3)
        patched = clips.apply_prefix(clips.apply_prefix(clip, one), two)
        parts = ((one, "front"), (two, "front"), (two, "back"), (one, "back"))
        joined = {key: torch.cat([getattr(p, side)(key) for p, side in parts]) for key in one.keys}
        whole = clips.apply_prefix(clip, Prefix(joined, 3, one.card))
        assert same(stock(patched, PROMPTS[1]), stock(whole, PROMPTS[1])), family.name


def check_lost_rows_are_refused() -> None:
    spoils: tuple[Callable[[list[Any]], list[Any]], ...] = (
        lambda chunk: [one for one in chunk if not isinstance(one[0], dict)],
        lambda chunk: chunk[: places(chunk)[0]] + chunk[places(chunk)[0] + 1 :],
        lambda chunk: chunk[: places(chunk)[-1]] + chunk[places(chunk)[-1] + 1 :],
        lambda chunk: [*chunk[: places(chunk)[0]], (320, 1.0), *chunk[places(chunk)[0] :]],
        lambda chunk: chunk + chunk,
    )
    for family in here():
        clip = built(family.name)
        patched = clips.apply_prefix(clip, prefix(family))
        wanted = stock(patched, PROMPTS[1])
        for number, spoil in enumerate(spoils):
            tokens = patched.tokenize(PROMPTS[1])
            tokens[family.key] = [spoil(tokens[family.key][0])]
            try:
                patched.encode_from_tokens_scheduled(tokens)
            except HostError as error:
                assert "another node pack" in str(error)
            else:
                raise AssertionError(f"{family.name}: spoil {number} was encoded")
        bare = clip.tokenize(PROMPTS[1])
        with raises(HostError, "another node pack"):
            patched.encode_from_tokens_scheduled(bare)
        assert same(stock(patched, PROMPTS[1]), wanted)
        clip.encode_from_tokens_scheduled(bare)  # the plain CLIP takes what it gets


def places(chunk: list[Any]) -> list[int]:
    """Where rows stand."""
    return [at for at, one in enumerate(chunk) if isinstance(one[0], dict)]


def check_other_families_are_refused() -> None:
    for family in here():
        clip, px = built(family.name), prefix(family)
        for name in ("Another", ""):
            other = Prefix(px.vectors, px.behind, PrefixCard(family=name))
            said = f"through {name}" if name else "does not say"
            with raises(FitError, said):
                clips.apply_prefix(clip, other)
        for other in here():
            if other is not family:
                with raises(FitError, other.name):
                    clips.apply_prefix(clip, prefix(other))


def check_unknown_families_are_refused() -> None:
    for module, tokenizer, said in (
        ("anima", "AnimaTokenizer", "reads the prompt a second time"),
        ("hidream_o1", "HiDreamO1Tokenizer", "has no text encoder"),
        ("ovis", "OvisTokenizer", "a family without prefixes"),
        ("longcat_image", "LongCatImageTokenizer", "a family without prefixes"),
    ):
        if not (TREE / f"{module}.py").exists():
            continue
        clip = built(next(here()).name).clone()
        clip.tokenizer = getattr(
            importlib.import_module(f"comfy.text_encoders.{module}"), tokenizer
        )()
        with raises(HostError, said):
            clips.apply_prefix(clip, prefix(next(here())))


def check_a_replaced_method_does_not_lose_the_prefix() -> None:
    for family in here():
        patched = clips.apply_prefix(built(family.name), prefix(family))
        wanted = stock(patched, PROMPTS[1])
        for place in (patched.tokenizer, next(families.tokenizers(patched.tokenizer))[1]):
            place.tokenize_with_weights = lambda text, *_, **__: [[(320, 1.0)]]
            with raises(HostError, "smZNodes"):
                patched.tokenize(PROMPTS[1])
            del place.tokenize_with_weights
        assert same(stock(patched, PROMPTS[1]), wanted)


def check_info_names_the_family() -> None:
    for family in here():
        px = prefix(family)
        said = nodes_prefix.PrefixInfo.execute(px, built(family.name)).args[0]
        assert f"For {family.name} (" in said and f"Fits {family.name}" in said, said


if __name__ == "__main__":
    with torch.inference_mode():
        comfyui_setup.report(comfyui_setup.checks_in(sys.modules[__name__]), WORK / "said.json")
