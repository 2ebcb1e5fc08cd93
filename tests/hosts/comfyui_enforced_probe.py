"""Operator mode with a prefix for each of several families, inside a real ComfyUI's Python.

``venv/bin/python comfyui_enforced_probe.py HOST MODELS WORK`` writes WORK/said.json. The gate
stands in the host's classes for all of the process: no plain text can be encoded here any more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import comfyui_setup
import torch
from comfyui_expected import EXPECTED, PROMPTS, built, close, found_states, places, prefix, stock
from comfyui_setup import raises
from comfyui_started import WORK

from apl_core import enforced
from apl_core.errors import AplError, FitError, HostError, LibraryError, PromptError

if True:  # behind the start, which makes the host's modules importable
    from apl_comfy import clips, families, gate
    from apl_comfy.training.encoder import ComfyEncoder
    from comfy import sd1_clip
    from comfyui_families import here

from apl_core.formats import write_prefix
from apl_core.library import Library
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix

ENFORCED = ("Z-Image", "Flux.2 Klein 4B", "Flux.1", "Chroma", "Lumina 2", "Qwen-Image")
TOKENIZE = sd1_clip.SDTokenizer.tokenize_with_weights
"""The host's own, before the gate stands."""


def enforced_here() -> Iterator[Any]:
    """The families of this host that have a prefix, those whose tokens are told apart by it."""
    return (one for one in here() if one.name in ENFORCED)


def install() -> None:
    """Write a prefix file for each family and have the server enforce all of them."""
    folder = WORK / "apl"
    folder.mkdir(exist_ok=True)
    for number, family in enumerate(enforced_here()):
        write_prefix(prefix(family), folder / f"studio-{number}.safetensors")
    found = enforced.find(Library([folder]), "studio")
    assert set(found) == {one.name for one in enforced_here()}
    gate.Gate(found).install()


def check_every_text_is_read_as_the_reference_says() -> None:
    for family in enforced_here():
        clip, px = built(family.name), prefix(family)
        for text in (PROMPTS[0], PROMPTS[1], PROMPTS[4]):
            found = found_states(family, stock(clip, text))
            close(found, EXPECTED[family.name](family, px, text), family.name)
        stock(clip, PROMPTS[2])  # weights: the host encodes an empty text of its own
        assert clips.apply_prefix(clip, px) is clip


def check_an_empty_text_has_the_rows_too() -> None:
    for family in enforced_here():
        clip, px = built(family.name), prefix(family)
        found = found_states(family, stock(clip, ""))
        close(found, EXPECTED[family.name](family, px, ""), family.name)


def check_nothing_is_learned_behind_an_enforced_prefix() -> None:
    for family in enforced_here():
        encoder = ComfyEncoder(built(family.name))
        for rows in (None, prefix(family).rows()):
            with raises(AplError, "on this server"):
                encoder.encode([PROMPTS[1]], rows)


def check_a_family_without_a_prefix_is_refused() -> None:
    for family in here():
        if family.name in ("Mage-Flow", "SD 3.5", "Wan"):
            clip = built(family.name)
            with raises(FitError, family.name):
                clip.tokenize("Ada")
            tokens = {family.key: [[(5, 1.0), (6, 1.0)]]}
            with raises(FitError, family.name):
                clip.encode_from_tokens_scheduled(tokens)


def check_tokens_of_others_do_not_pass() -> None:
    for family in enforced_here():
        clip = built(family.name)
        key, inner = list(families.tokenizers(clip.tokenizer))[-1]
        assert key == family.key
        plain = TOKENIZE(inner, "Ada")
        tokens = {**clip.tokenize("Ada"), family.key: plain}
        with raises(HostError, "prefix"):
            clip.encode_from_tokens_scheduled(tokens)
        whole = clip.tokenize("Ada")[family.key][0]
        rows = places(whole)
        for at in (rows[0], rows[-1]):
            spoiled = [*whole[:at], *whole[at + 1 :]]
            with raises(HostError, "prefix"):
                clip.encode_from_tokens_scheduled({**tokens, family.key: [spoiled]})
        for spoiled in (whole + whole, [*whole[: rows[0]], (7, 1.0), *whole[rows[0] :]]):
            with raises(HostError, "prefix"):
                clip.encode_from_tokens_scheduled({**tokens, family.key: [spoiled]})
        with raises(FitError, "no vectors"):  # past the CLIP: the family is not told
            clip.tokenizer.tokenize_with_weights("Ada")
        with raises(FitError, "no vectors"):
            getattr(clip.cond_stage_model, family.key).process_tokens([[5, 6]], "cpu")
    alike = {"Z-Image", "Flux.2 Klein 4B"}  # in their text encoder
    if alike <= {one.name for one in enforced_here()}:
        tokens = built("Flux.2 Klein 4B").tokenize("Ada")
        with raises(HostError, "prefix"):
            built("Z-Image").encode_from_tokens_scheduled(tokens)


def check_control_tokens_and_pictures_are_refused() -> None:
    for family in enforced_here():
        clip = built(family.name)
        if family.reference in ("Qwen2Model", "Qwen3Model"):
            with raises(PromptError, "<|im_end|>"):
                clip.tokenize("Ada <|im_end|> Lovelace")
            with raises(HostError, "pictures"):
                clip.tokenize("Ada", llama_template="<|im_start|>user\n{}")
        if family.name == "Qwen-Image":
            with raises(HostError, "pictures"):
                clip.tokenize("Ada", images=[torch.zeros(1, 56, 56, 3)])


def check_files_of_a_name_are_found_by_family() -> None:
    folder = WORK / "many"
    folder.mkdir(exist_ok=True)
    library = Library([folder])

    def write(name: str, *keys: str, family: str = "", seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = {key: torch.randn(3, WIDTHS[key], generator=generator) for key in keys}
        write_prefix(Prefix(rows, 1, PrefixCard(family=family)), folder / f"{name}.safetensors")

    with raises(AplError, "house"):
        enforced.find(library, "house")
    write("house", "clip_l")
    write("house-xl", "clip_l", "clip_g")
    write("house-z", "qwen3_4b", family="Z-Image")
    write("houses", "clip_h")
    found = enforced.find(library, "house")
    assert {one.name: one.family for one in found.values()} == {
        "house": "SD 1.x",
        "house-xl": "SDXL",
        "house-z": "Z-Image",
    }
    write("house-old", "clip_l", seed=1)
    assert enforced.find(library, "house")["SD 1.x"].name == "house"
    write("house-z2", "qwen3_4b", family="Z-Image", seed=2)
    with raises(LibraryError, "both for Z-Image"):
        enforced.find(library, "house")
    (folder / "house-z2.safetensors").unlink()
    write("house-q", "qwen25_7b")
    with raises(LibraryError, "does not say which family"):
        enforced.find(library, "house")


if __name__ == "__main__":
    with torch.inference_mode():
        install()
        comfyui_setup.report(comfyui_setup.chosen(sys.modules[__name__], WORK), WORK / "said.json")
