"""Checks of language models and T5 as text encoders inside a real ComfyUI, run by its Python.

``venv/bin/python comfyui_families_probe.py HOST MODELS WORK`` writes WORK/said.json. Every family
of comfyui_families.py that this host has is compared with transformers' own model, token by token.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import comfyui_setup
import torch
import transformers
from comfyui_expected import (
    EXPECTED,
    LUMINA,
    PROMPTS,
    TREE,
    _model,
    built,
    by_hand,
    close,
    filled,
    found_states,
    pieces_of,
    places,
    prefix,
    stock,
    t5,
    tekken_of,
    weighted,
)
from comfyui_setup import raises
from comfyui_started import WORK
from torch import Tensor

if True:  # behind the references, which make the host's modules importable
    import comfy.hooks
    import comfy.model_management
    import comfy.sd
    import comfyui_families
    from apl_comfy import clips, families, nodes_prefix
    from comfyui_families import here, scales_what_it_looks_up

    import apl_hosting as hosting

from apl_core.errors import FitError, HostError, PromptError
from apl_core.families import TABLE
from apl_core.metadata import PrefixCard
from apl_core.prefix import Prefix, Rows


def check_a_host_that_scales_rows_is_refused() -> None:
    if not scales_what_it_looks_up():
        clip = built("Lumina 2")
        px = Prefix({"gemma2_2b": torch.zeros(4, 2304)}, 1, PrefixCard(family="Lumina 2"))
        with raises(HostError, "update ComfyUI"):
            clips.apply_prefix(clip, px)


def check_apl_train_reads_texts_as_the_host_does() -> None:
    """What a prefix is learned on by the command line is what this host will infer with it."""
    hosting.load(comfyui_setup.REPOSITORY / "trainer", "apl_trainer")
    pipelines = importlib.import_module("apl_trainer.checkpoints.pipelines")
    language = importlib.import_module("apl_trainer.models.language")
    compared = set()
    for family in here():
        kind = next((one for one in pipelines.FAMILIES if one.name == family.name), None)
        if kind is None:
            continue
        clip, model = built(family.name), copy.deepcopy(_model(family))
        host = getattr(clip.cond_stage_model, kind.key).transformer.get_input_embeddings()
        lumina = family.name == "Lumina 2"  # Gemma scales what it looks up
        weights = host.weight.detach().float() * (2304**0.5 if lumina else 1)
        model.set_input_embeddings(torch.nn.Embedding.from_pretrained(weights))
        folder = "t5_tokenizer" if kind.key == "t5xxl" else "qwen25_tokenizer"
        if lumina:
            words = Pieces(pieces_of(family), "<bos>", 2, (0, 1, 2), 0)
        elif family.name == "Flux.2 dev":
            words = Pieces(tekken_of(family), "<s>", 1, tuple(range(20)), 11)
        else:
            words = transformers.AutoTokenizer.from_pretrained(str(TREE / folder))
        written = next(one for one in TABLE if one.name == family.name).written
        layers = tuple(range(2, 36, 3)) if family.name == "Krea 2" else kind.layers
        template = dataclasses.replace(kind.template, layers=layers)
        if kind.cuts:
            cut = len(words(template.before, add_special_tokens=False).input_ids)
            template = dataclasses.replace(template, cut=cut)
        encoder = language.LanguageEncoder(kind.key, model, words, template)
        px = prefix(family)
        rows = Rows({kind.key: px.vectors[kind.key]}, px.behind)
        for text in (PROMPTS[0], PROMPTS[1], PROMPTS[3], PROMPTS[4]):
            for held, given in ((clip, None), (clips.apply_prefix(clip, px), rows)):
                found = encoder.encode([text], given).cross
                wanted = stock(held, written(text))[0][0][:, -found.shape[1] :]
                close(found, wanted, f"{family.name} {text[:9]!r} {given is None}")
        compared.add(family.name)
    newest = {"Lumina 2", "Flux.2 dev"} if scales_what_it_looks_up() else set[str]()
    assert {"Qwen-Image", "Flux.1", *newest} <= compared, compared


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A thin family's own tokens, as a tokenizer of transformers; a mark begins a text."""

    ids: Callable[[str], list[int]]
    mark: str
    first: int
    all_special_ids: tuple[int, ...]
    pad_token_id: int
    unk_token: None = None

    def __call__(self, text: str, **_: Any) -> Any:
        begins = [self.first] * text.startswith(self.mark)
        return SimpleNamespace(input_ids=[*begins, *self.ids(text.removeprefix(self.mark))])


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


def same(one: Any, other: Any) -> bool:
    """Whether two conditionings are equal to the bit, masks and pooled outputs too."""
    (a, facts_a), (b, facts_b) = one[0], other[0]
    if facts_a.keys() != facts_b.keys() or not torch.equal(a, b):
        return False
    tensors = [key for key, value in facts_a.items() if isinstance(value, Tensor)]
    return all(torch.equal(facts_a[key], facts_b[key]) for key in tensors)


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
        marks = next(one for one in TABLE if one.name == family.name).controls.split()
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


HOOKED = ("Z-Image", "Qwen-Image", "Flux.1", "Lumina 2")
"""Two templates, one of them cut; CLIP with T5; weights in the text."""


def lora_of(family: Any) -> dict[str, Tensor]:
    """A LoRA on two weights of a family's text encoder, as the host reads it from a file."""
    weights = dict(built(family.name).cond_stage_model.named_parameters())
    small = [k for k, v in weights.items() if v.dim() == 2 and v.numel() < 10**7]
    generator = torch.Generator().manual_seed(5)
    found: dict[str, Tensor] = {}
    for name in [one for one in small if one.startswith(f"{family.key}.")][:2]:
        rows, columns = weights[name].shape
        key = f"text_encoders.{name.removesuffix('.weight')}"
        found[f"{key}.lora_up.weight"] = torch.randn(rows, 1, generator=generator) * 0.3
        found[f"{key}.lora_down.weight"] = torch.randn(1, columns, generator=generator) * 0.3
    return found


def with_lora(clip: Any, lora: dict[str, Tensor], strength: float) -> Any:
    """The CLIP behind the host's LoRA loader."""
    return comfy.sd.load_lora_for_models(None, clip, lora, 0, strength)[1]


def check_lora_hooks_follow_their_schedule() -> None:
    """Create Hook LoRA, two keyframes, and Set CLIP Hooks, on either side of Apply Prefix."""
    nodes_hooks = importlib.import_module("comfy_extras.nodes_hooks")
    frame = nodes_hooks.CreateHookKeyframe().create_hook_keyframe
    (first,) = frame(strength_mult=1.0, start_percent=0.0)
    (both,) = frame(strength_mult=0.5, start_percent=0.4, prev_hook_kf=first)
    for family in (one for one in here() if one.name in HOOKED):
        clip, px, lora = built(family.name), prefix(family), lora_of(family)
        patched = clips.apply_prefix(clip, px)
        bare, covered = stock(clip, PROMPTS[1]), stock(patched, PROMPTS[1])
        wanted = [stock(with_lora(patched, lora, one), PROMPTS[1])[0][0] for one in (1.0, 0.5)]
        group = comfy.hooks.create_hook_lora(lora=lora, strength_model=1.0, strength_clip=1.0)
        group.set_keyframes_on_hooks(hook_kf=both)

        def hooked(one: Any, scheduled: bool, group: Any = group) -> Any:
            return nodes_hooks.SetClipHooks().apply_hooks(one, scheduled, True, group)[0]

        for one in (hooked(patched, True), clips.apply_prefix(hooked(clip, True), px)):
            found = stock(one, PROMPTS[1])
            times = [(at["clip_start_percent"], at["clip_end_percent"]) for _, at in found]
            assert times == [(0.0, 0.4), (0.4, 1.0)], (family.name, times)
            for (states, facts), as_lora in zip(found, wanted, strict=True):
                close(states, as_lora, family.name)
                assert "hooks" in facts and not torch.equal(states, covered[0][0])
        for one in (hooked(patched, False), clips.apply_prefix(hooked(clip, False), px)):
            close(stock(one, PROMPTS[1])[0][0], wanted[0], family.name)
        assert same(stock(patched, PROMPTS[1]), covered)
        assert same(stock(clip, PROMPTS[1]), bare)


@contextmanager
def no_video_memory() -> Iterator[None]:
    """The host as it is with --novram, on a processor: it leaves all weights where they are."""
    management: Any = comfy.model_management
    kept = management.vram_state, management.is_device_cpu
    management.vram_state, management.is_device_cpu = management.VRAMState.NO_VRAM, lambda _: False
    management.unload_all_models()
    try:
        yield
    finally:
        management.vram_state, management.is_device_cpu = kept
        management.unload_all_models()


def check_offloaded_weights_keep_the_prefix() -> None:
    for family in (one for one in here() if one.name in HOOKED):
        clip, px, lora = built(family.name), prefix(family), lora_of(family)
        patched = clips.apply_prefix(clip, px)
        changed = with_lora(patched, lora, 0.7)
        bare, covered = stock(clip, PROMPTS[1]), stock(patched, PROMPTS[1])
        wanted = stock(changed, PROMPTS[1])[0][0]
        with no_video_memory():
            for one, found in ((patched, covered), (clip, bare), (patched, covered)):
                assert same(stock(one, PROMPTS[1]), found), family.name
                assert clip.patcher.model.model_lowvram
            close(stock(changed, PROMPTS[1])[0][0], wanted, family.name)
            lost = clip.tokenize(PROMPTS[1])
            with raises(HostError, "another node pack"):
                patched.encode_from_tokens_scheduled(lost)
        assert same(stock(patched, PROMPTS[1]), covered) and same(stock(clip, PROMPTS[1]), bare)


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
        comfyui_setup.report(comfyui_setup.chosen(sys.modules[__name__], WORK), WORK / "said.json")
