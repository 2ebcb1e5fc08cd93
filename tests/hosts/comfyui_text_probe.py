"""Checks of the text side inside a real ComfyUI, run by the host's Python.

``venv/bin/python comfyui_text_probe.py HOST MODELS WORK`` writes WORK/said.json, check -> trace.
Each check compares conditionings bit by bit or tokens one by one.
"""

from __future__ import annotations

import copy
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import comfyui_setup
from comfyui_setup import raises

HOST, MODELS, WORK = (Path(argument) for argument in sys.argv[1:4])
comfyui_setup.start(HOST, MODELS)

import comfy.sd
import folder_paths
import nodes
import torch
from apl_comfy import clips, nodes_prefix
from comfyui_families import FAMILIES, Thin, clip_of
from safetensors.torch import save_file

from apl_core.errors import FitError, HostError, PromptError
from apl_core.formats import write_prefix
from apl_core.prefix import WIDTHS, Prefix

EMBEDDINGS = str(WORK / "embeddings")
BOS, EOS = 49406, 49407
PROMPTS = (
    "a",
    "a photo of Ada Lovelace in front of a red house",
    "a (photo:1.3) of a man",
    "((nested) weights, (a (b:1.5) c:0.7)), end",
    "embedding:foo in the middle of embedding:foo a text",
    "ünïcode 写真 émoji 🙂, ½ – “quotes”",  # noqa: RUF001  as people type
    "line\nbreaks, commas,, and   spaces",
    ("word " * 60).strip(),
    "(" + "strong " * 40 + ":1.2) weak",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
)


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    """Random vectors of about the length of real token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, width), generator=generator) * 0.015


def prefix(*keys: str, count: int = 10, behind: int = 0, seed: int = 0) -> Prefix:
    """A random prefix for these encoders."""
    drawn = {key: rows(count, WIDTHS[key], seed + at) for at, key in enumerate(keys)}
    return Prefix(drawn, behind)


@cache
def sd15() -> Any:
    """The CLIP of the random SD 1.5 checkpoint, as its loader node gives it."""
    path = folder_paths.get_full_path_or_raise("checkpoints", "random_sd15.safetensors")
    loaded = comfy.sd.load_checkpoint_guess_config(
        path, output_vae=False, output_model=False, embedding_directory=EMBEDDINGS
    )
    return loaded[1]


@cache
def sdxl() -> Any:
    """The CLIP of the random SDXL text encoders."""
    names = ("random_clip_l.safetensors", "random_clip_g.safetensors")
    paths = [folder_paths.get_full_path_or_raise("text_encoders", name) for name in names]
    return comfy.sd.load_clip(paths, EMBEDDINGS, comfy.sd.CLIPType.STABLE_DIFFUSION)


def embeddings() -> None:
    """Write the embeddings that the prompts name."""
    Path(EMBEDDINGS).mkdir(exist_ok=True)
    foo = {"clip_l": rows(3, 768, 90), "clip_g": rows(3, 1280, 91)}
    save_file(foo, f"{EMBEDDINGS}/foo.safetensors")
    write_prefix(prefix("clip_l"), Path(EMBEDDINGS, "px_sd15.safetensors"))
    write_prefix(prefix("clip_l", "clip_g"), Path(EMBEDDINGS, "px_sdxl.safetensors"))


def stock(clip: Any, text: str) -> Any:
    """What ComfyUI's own CLIPTextEncode gives."""
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def same(one: Any, other: Any) -> bool:
    """Whether two conditionings are equal to the bit."""
    (a, facts_a), (b, facts_b) = one[0], other[0]
    pooled = (facts_a.get("pooled_output"), facts_b.get("pooled_output"))
    if (pooled[0] is None) != (pooled[1] is None):
        return False
    return torch.equal(a, b) and (pooled[0] is None or torch.equal(*pooled))


def token(entry: Any) -> Any:
    """A token that can be compared: an id, or the numbers of a row."""
    return entry[0] if isinstance(entry[0], int) else tuple(entry[0].tolist())


def three_ways(clip: Any, px: Prefix, name: str, prompts: tuple[str, ...]) -> None:
    """Patched CLIP, our own node and an `embedding:` text agree, and differ from no prefix."""
    patched = clips.apply_prefix(clip, px)
    for text in prompts:
        by_clip = stock(patched, text)
        by_node = nodes_prefix.PrefixConditioning.execute(clip, px, text).args[0]
        by_text = stock(clip, f"embedding:{name} {text}")
        assert same(by_clip, by_node), text
        assert same(by_clip, by_text), text
        assert not same(by_clip, stock(clip, text)), text


def check_three_ways_agree_sd15() -> None:
    three_ways(sd15(), prefix("clip_l"), "px_sd15", PROMPTS)


def check_three_ways_agree_sdxl() -> None:
    three_ways(sdxl(), prefix("clip_l", "clip_g"), "px_sdxl", (PROMPTS[2], PROMPTS[4]))


def check_sdxl_encode_node_agrees() -> None:
    extras = importlib.import_module("comfy_extras.nodes_clip_sdxl")
    kind = extras.CLIPTextEncodeSDXL
    node = kind() if kind.FUNCTION == "encode" else kind

    def encode(clip: Any, text_g: str, text_l: str) -> Any:
        size = {"width": 512, "height": 512, "crop_w": 0, "crop_h": 0}
        size.update(target_width=512, target_height=512)
        method = node.encode if kind.FUNCTION == "encode" else kind.execute
        return method(clip=clip, text_g=text_g, text_l=text_l, **size)[0]

    clip, px = sdxl(), prefix("clip_l", "clip_g")
    patched = clips.apply_prefix(clip, px)
    text_g, text_l = "a portrait of Ada Lovelace", "a (house:1.2)"
    written = encode(clip, f"embedding:px_sdxl {text_g}", f"embedding:px_sdxl {text_l}")
    assert same(encode(patched, text_g, text_l), written)
    assert not same(encode(patched, text_g, text_l), encode(clip, text_g, text_l))
    # One text longer than a chunk: the host fills the other encoder up with an empty chunk.
    uneven = encode(patched, "word " * 100, text_l)
    assert uneven[0][0].shape[1] == 2 * 77


def check_clip_skip() -> None:
    clip, px = sd15(), prefix("clip_l")
    skip = nodes.CLIPSetLastLayer()
    before = clips.apply_prefix(skip.set_last_layer(clip, -2)[0], px)
    after = skip.set_last_layer(clips.apply_prefix(clip, px), -2)[0]
    written = stock(skip.set_last_layer(clip, -2)[0], f"embedding:px_sd15 {PROMPTS[1]}")
    assert same(stock(before, PROMPTS[1]), written)
    assert same(stock(after, PROMPTS[1]), written)
    assert not same(written, stock(clips.apply_prefix(clip, px), PROMPTS[1]))


def check_lora_on_the_clip() -> None:
    name = "text_model.encoder.layers.3.mlp.fc1"
    lora = {
        f"lora_te_{name.replace('.', '_')}.lora_up.weight": rows(3072, 4, 5),
        f"lora_te_{name.replace('.', '_')}.lora_down.weight": rows(4, 768, 6) * 100,
    }
    clip, px = sd15(), prefix("clip_l")

    def with_lora(one: Any) -> Any:
        return comfy.sd.load_lora_for_models(None, one, lora, 1.0, 1.0)[1]

    before = stock(clips.apply_prefix(with_lora(clip), px), PROMPTS[1])
    after = stock(with_lora(clips.apply_prefix(clip, px)), PROMPTS[1])
    written = stock(with_lora(clip), f"embedding:px_sd15 {PROMPTS[1]}")
    assert same(before, written)
    assert same(after, written)
    assert not same(written, stock(clips.apply_prefix(clip, px), PROMPTS[1]))


def covered(clip: Any, px: Prefix, text: str) -> None:
    """Every chunk is BOS, front, text, behind, EOS, padding; and the text is complete."""
    plain = clip.tokenize(text, return_word_ids=True)
    patched = clips.apply_prefix(clip, px).tokenize(text, return_word_ids=True)
    assert patched.keys() == plain.keys()
    for short, chunks in patched.items():
        key = f"clip_{short}"
        front = [tuple(row.tolist()) for row in px.front(key)]
        behind = [tuple(row.tolist()) for row in px.back(key)]
        kept: list[Any] = []
        for chunk in chunks:
            assert len(chunk) == 77
            words = [at for at, entry in enumerate(chunk) if entry[2] != 0]
            tokens = [token(entry) for entry in chunk]
            first, last = len(front) + 1, 76 - len(behind)
            assert tokens[0] == BOS
            assert tokens[1:first] == front
            assert words == list(range(first, first + len(words)))
            end = first + len(words)
            assert tokens[end : end + len(behind)] == behind
            assert tokens[end + len(behind)] == EOS
            assert end <= last
            around = [entry for entry in chunk if entry[2] == 0]
            assert all(entry[1] == 1.0 for entry in around)
            kept += [(token(entry), entry[1]) for entry in chunk if entry[2] != 0]
        text_of = [entry for chunk in plain[short] for entry in chunk if entry[2] != 0]
        assert kept == [(token(entry), entry[1]) for entry in text_of]
    assert len({len(chunks) for chunks in patched.values()}) == 1


def check_every_chunk_is_covered_and_no_text_lost() -> None:
    words = "Ada Lovelace, painter (of the:1.2) sea embedding:foo and antidisestablishmentarianism "
    for clip, keys in ((sd15(), ("clip_l",)), (sdxl(), ("clip_l", "clip_g"))):
        for count, behind in ((10, 0), (10, 5), (6, 6), (1, 0), (74, 30)):
            px = prefix(*keys, count=count, behind=behind)
            for length in (1, 2, 9, 30):
                covered(clip, px, words * length)
            for text in PROMPTS:
                covered(clip, px, text)
    for length in (1, 5, 64, 65, 66, 74, 75, 76, 130, 131, 195, 196, 400):
        covered(sd15(), prefix("clip_l", behind=4), " ".join(["cat"] * length))


def check_chunks_are_encoded_as_embedding_texts() -> None:
    # 65 one-token words fill a chunk beside ten vectors, for the host's own splitting as for ours.
    clip, px = sd15(), prefix("clip_l")
    parts = [" ".join([word] * 65) for word in ("cat", "dog", "sun")]
    patched = clips.apply_prefix(clip, px).tokenize(" ".join(parts))["l"]
    written = [clip.tokenize(f"embedding:px_sd15 {part}")["l"][0] for part in parts]
    assert [[token(one) for one in chunk] for chunk in patched] == [
        [token(one) for one in chunk] for chunk in written
    ]


def check_an_empty_text_stays_as_it_is() -> None:
    for clip, px in ((sd15(), prefix("clip_l", behind=3)), (sdxl(), prefix("clip_l", "clip_g"))):
        patched = clips.apply_prefix(clip, px)
        for text in ("", " ", "\n", "()"):
            assert patched.tokenize(text) == clip.tokenize(text), repr(text)
        assert same(stock(patched, ""), stock(clip, ""))


def check_two_prefixes_stack() -> None:
    clip = sd15()
    one, two = prefix("clip_l", count=6, behind=2), prefix("clip_l", count=5, behind=1, seed=7)
    patched = clips.apply_prefix(clips.apply_prefix(clip, one), two)
    joined = Prefix(
        {
            "clip_l": torch.cat(
                [one.front("clip_l"), two.front("clip_l"), two.back("clip_l"), one.back("clip_l")]
            )
        },
        behind=3,
    )
    whole = clips.apply_prefix(clip, joined)
    for text in PROMPTS:
        assert same(stock(patched, text), stock(whole, text)), text
    assert clips.apply_prefix(patched, one) is patched
    with raises(PromptError, "81 vectors"):
        clips.apply_prefix(patched, prefix("clip_l", count=70))


def check_the_given_clip_is_not_changed() -> None:
    clip = sd15()
    tokenizer, inner = clip.tokenizer, clip.tokenizer.clip_l
    before = stock(clip, PROMPTS[1])
    state = (dict(vars(clip)), dict(vars(tokenizer)), dict(vars(inner)), type(inner))
    patched = clips.apply_prefix(clip, prefix("clip_l"))
    stock(patched, PROMPTS[1])
    assert state == (dict(vars(clip)), dict(vars(tokenizer)), dict(vars(inner)), type(inner))
    assert same(stock(clip, PROMPTS[1]), before)
    assert patched.cond_stage_model is clip.cond_stage_model


def check_a_replaced_method_does_not_lose_the_prefix() -> None:
    patched = clips.apply_prefix(sd15(), prefix("clip_l"))
    wanted = stock(patched, PROMPTS[1])
    for place in (patched.tokenizer, patched.tokenizer.clip_l):
        place.tokenize_with_weights = lambda text, *_, **__: [[(BOS, 1.0)]]
        with raises(HostError, "smZNodes"):
            patched.tokenize(PROMPTS[1])
        del place.tokenize_with_weights
        vars(place)["tokenize_with_weights"] = lambda text, *_, **__: [[(BOS, 1.0)]]
        assert same(stock(patched, PROMPTS[1]), wanted)
        del vars(place)["tokenize_with_weights"]
    taken = sd15().clone()
    taken.tokenizer = copy.copy(taken.tokenizer)
    taken.tokenizer.clip_l = copy.copy(taken.tokenizer.clip_l)
    taken.tokenizer.clip_l.tokenize_with_weights = lambda text, *_, **__: [[(BOS, 1.0)]]
    with raises(HostError, "replaces the tokenizer"):
        clips.apply_prefix(taken, prefix("clip_l"))


def check_a_pack_that_patches_the_encoder_still_sees_the_prefix() -> None:
    # prompt-control joins token lists (BREAK) and patches encode_token_weights on a clone.
    clip, px = sd15(), prefix("clip_l", behind=2)
    patched = clips.apply_prefix(clip, px).clone()
    seen: list[Any] = []
    inner = patched.patcher.get_model_object("clip_l.encode_token_weights")

    def encode(tokens: Any) -> Any:
        seen.extend(tokens)
        return inner(tokens)

    patched.patcher.add_object_patch("clip_l.encode_token_weights", encode)
    tokens = patched.tokenize("Ada Lovelace")
    tokens["l"] += patched.tokenize("a house")["l"]
    patched.encode_from_tokens_scheduled(tokens)
    assert len(seen) == 2
    for chunk in seen:
        assert token(chunk[1]) == tuple(px.front("clip_l")[0].tolist())
    clip.encode_from_tokens(clip.tokenize("a"))  # loads the plain CLIP, which undoes the patch


def check_an_encoder_refuses_text_that_lost_its_prefix() -> None:
    for clip, keys in ((sd15(), ("clip_l",)), (sdxl(), ("clip_l", "clip_g"))):
        plain = stock(clip, PROMPTS[2])
        patched = clips.apply_prefix(clip, prefix(*keys, behind=4))
        wanted = stock(patched, PROMPTS[2])
        for key in patched.tokenize(""):
            for spoil in (
                lambda chunk: chunk[:1] + chunk[11:] + chunk[-1:] * 10,  # no rows in front
                lambda chunk: [*chunk[:1], *[(320, 1.0)] * 6, *chunk[7:]],  # all of them masked
                lambda chunk: [one for one in chunk if isinstance(one[0], int)],  # none at all
            ):
                tokens = patched.tokenize("word " * 100)
                tokens[key][1] = spoil(tokens[key][1])
                with raises(HostError, "another node pack"):
                    patched.encode_from_tokens_scheduled(tokens)
        assert same(stock(patched, PROMPTS[2]), wanted)
        assert same(stock(clip, PROMPTS[2]), plain)
        tokens = clip.tokenize(PROMPTS[1])  # the plain CLIP takes what it gets
        assert same(clip.encode_from_tokens_scheduled(tokens), stock(clip, PROMPTS[1]))


def refused(kind: type[Exception], said: str, clip: Any, px: Prefix) -> None:
    """Applying fails with this error and these words."""
    with raises(kind, said):
        clips.apply_prefix(clip, px)


def check_other_families_are_refused() -> None:
    refused(FitError, "the loaded checkpoint is SDXL", sdxl(), prefix("clip_l"))
    refused(FitError, "the loaded checkpoint is SD 1.x", sd15(), prefix("clip_l", "clip_g"))
    refused(FitError, "the loaded checkpoint is SD 1.x", sd15(), prefix("clip_h"))
    refused(HostError, "no CLIP is connected", None, prefix("clip_l"))


def check_an_encoder_without_vectors_is_refused() -> None:
    flux = clip_of(next(one for one in FAMILIES if one.name == "Flux.1"))
    refused(FitError, "t5xxl 4096", flux, prefix("clip_l"))


def check_sd2_tokenizer() -> None:
    sizes = {"clip_h": {"num_hidden_layers": 3, "intermediate_size": 8}}
    thin = Thin("SD 2.x", "sd2_clip", "SD2Tokenizer", "SD2ClipModel", "clip_h", "", sizes)
    clip = clip_of(thin)
    covered(clip, prefix("clip_h", behind=4), "a photo of " * 60)


def check_a_spelled_out_end_token_is_refused() -> None:
    patched = clips.apply_prefix(sd15(), prefix("clip_l", behind=2))
    with raises(PromptError, "<|endoftext|>"):  # the encoder would stop before what is behind
        patched.tokenize("a photo <|endoftext|> of Ada")


def check_step_range() -> None:
    clip, px = sd15(), prefix("clip_l")
    parts = nodes_prefix.PrefixConditioning.execute(clip, px, "a cat", 0.2, 0.7).args[0]
    spans = [(facts["start_percent"], facts["end_percent"]) for _, facts in parts]
    assert spans == [(0.0, 0.2), (0.2, 0.7), (0.7, 1.0)]
    assert torch.equal(parts[0][0], stock(clip, "a cat")[0][0])
    assert torch.equal(parts[1][0], stock(clips.apply_prefix(clip, px), "a cat")[0][0])


def check_info_says_fit_and_misfit() -> None:
    px = prefix("clip_l", behind=4)
    fits = nodes_prefix.PrefixInfo.execute(px, sd15()).args[0]
    assert "6 in front of the text, 4 behind it" in fits
    assert "Length of vectors, clip_l" in fits
    assert "the loaded checkpoint is SDXL" in nodes_prefix.PrefixInfo.execute(px, sdxl()).args[0]


if __name__ == "__main__":
    embeddings()
    with torch.inference_mode():
        comfyui_setup.report(comfyui_setup.checks_in(sys.modules[__name__]), WORK / "said.json")
