"""Thin CLIPs of ComfyUI's model families, with random weights, and transformers' own of them.

Real widths, vocabularies and layers; one head, and next to nothing between. A table of embeddings
takes a few hundred kilobytes: its rows are overlapping pieces of one line of numbers.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.sd
import sentencepiece
import torch
import transformers
from thin_weights import draw
from torch import Tensor, nn

TREE = Path(inspect.getfile(comfy.sd)).parent / "text_encoders"
ONE_HEAD = {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 8}


@dataclass(frozen=True)
class Thin:
    """How one family is built, and what an independent run of it needs to know.

    `sizes` shrink encoders by ComfyUI's own options; `reference` is transformers' class of the
    language model or T5 under `key`, `config` what it needs beside the host's own numbers.
    """

    name: str
    module: str
    tokenizer: str
    model: str
    key: str
    reference: str
    sizes: dict[str, dict[str, int]]
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    data: Callable[[], dict[str, Any]] = dict


CLIP_L = {"num_hidden_layers": 3, "intermediate_size": 8}
T5 = {"num_layers": 2, "num_heads": 1, "d_ff": 8, "d_kv": 64}
QWEN3 = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "head_dim": 128}
FAMILIES = (
    Thin(
        "Z-Image",
        "z_image",
        "ZImageTokenizer",
        "te()",
        "qwen3_4b",
        "Qwen3Model",
        {"qwen3_4b": {**ONE_HEAD, "num_hidden_layers": 4}},
        QWEN3,
    ),
    Thin(
        "Qwen-Image",
        "qwen_image",
        "QwenImageTokenizer",
        "te()",
        "qwen25_7b",
        "Qwen2Model",
        {"qwen25_7b": {**ONE_HEAD, "num_hidden_layers": 3}},
        QWEN3,
    ),
    Thin(
        "Krea 2",
        "krea2",
        "Krea2Tokenizer",
        "te()",
        "qwen3vl_4b",
        "Qwen3Model",
        {"qwen3vl_4b": {**ONE_HEAD, "num_hidden_layers": 36}},
        {**QWEN3, "rope_theta": 5e6},
    ),
    Thin(
        "Mage-Flow",
        "mage_flow",
        "MageFlowTokenizer",
        "te()",
        "qwen3vl_4b",
        "Qwen3Model",
        {"qwen3vl_4b": {**ONE_HEAD, "num_hidden_layers": 3}},
        {**QWEN3, "rope_theta": 5e6},
    ),
    Thin(
        "Flux.2 Klein 4B",
        "flux",
        "KleinTokenizer",
        "klein_te()",
        "qwen3_4b",
        "Qwen3Model",
        {"qwen3_4b": {**ONE_HEAD, "num_hidden_layers": 28}},
        QWEN3,
    ),
    Thin(
        "Flux.2 Klein 9B",
        "flux",
        "KleinTokenizer8B",
        "klein_te(qwen3_8b)",
        "qwen3_8b",
        "Qwen3Model",
        {"qwen3_8b": {**ONE_HEAD, "num_hidden_layers": 28}},
        QWEN3,
    ),
    Thin(
        "Flux.1",
        "flux",
        "FluxTokenizer",
        "FluxClipModel",
        "t5xxl",
        "T5EncoderModel",
        {"t5xxl": T5, "clip_l": CLIP_L},
    ),
    Thin(
        "Chroma",
        "pixart_t5",
        "PixArtTokenizer",
        "PixArtT5XXL",
        "t5xxl",
        "T5EncoderModel",
        {"t5xxl": T5},
    ),
    Thin(
        "SD 3.5",
        "sd3_clip",
        "SD3Tokenizer",
        "SD3ClipModel",
        "t5xxl",
        "T5EncoderModel",
        {"t5xxl": T5, "clip_l": CLIP_L, "clip_g": CLIP_L},
    ),
    Thin(
        "Lumina 2",
        "lumina2",
        "LuminaTokenizer",
        "te()",
        "gemma2_2b",
        "Gemma2Model",
        {"gemma2_2b": {**ONE_HEAD, "num_hidden_layers": 3}},
        {"head_dim": 256, "attn_logit_softcapping": None, "query_pre_attn_scalar": 256},
        data=lambda: {"spiece_model": pieces(2, turns=True)},
    ),
    Thin(
        "Flux.2 dev",
        "flux",
        "Flux2Tokenizer",
        "flux2_te()",
        "mistral3_24b",
        "MistralModel",
        {"mistral3_24b": {**ONE_HEAD, "num_hidden_layers": 31}},
        {"head_dim": 128, "rope_theta": 1e9, "rms_norm_eps": 1e-5, "sliding_window": None},
        data=lambda: {"tekken_model": tekken()},
    ),
    Thin(
        "Wan",
        "wan",
        "WanT5Tokenizer",
        "te()",
        "umt5xxl",
        "UMT5EncoderModel",
        {"umt5xxl": T5},
        data=lambda: {"spiece_model": pieces(-1)},
    ),
    Thin(
        "HiDream I1",
        "hidream",
        "HiDreamTokenizer",
        "HiDreamTEModel",
        "llama",
        "LlamaModel",
        {
            "llama": {**ONE_HEAD, "num_hidden_layers": 3},
            "t5xxl": T5,
            "clip_l": CLIP_L,
            "clip_g": CLIP_L,
        },
        {"head_dim": 128, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    ),
    Thin(
        "ERNIE",
        "ernie",
        "ErnieTokenizer",
        "te()",
        "ministral3_3b",
        "MistralModel",
        {"ministral3_3b": {**ONE_HEAD, "num_hidden_layers": 3}},
        {"head_dim": 128, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "sliding_window": None},
        data=lambda: {"tekken_model": tekken()},
    ),
)

WORDS = "a photo of a red house in front of the sea, a painting with two cats and a dog. "
"""What the small tokenizers learn their pieces from."""


def pieces(bos: int, *, turns: bool = False) -> Tensor:
    """A small sentencepiece model as Gemma has one (with turns) or UMT5, which comes in weights."""
    written = io.BytesIO()
    unused = [f"<unused{i}>" for i in range(102)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, WORDS.upper()]),
        model_writer=written,
        model_type="bpe",
        vocab_size=500 if turns else 390,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=not turns,
        user_defined_symbols=[*unused, "<start_of_turn>", "<end_of_turn>"] if turns else [],
        pad_id=0,
        eos_id=1,
        unk_id=3 if turns else 2,
        bos_id=bos,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)


TEKKEN = """<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS]
    [/TOOL_RESULTS] [TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX]
    [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"""
"""Mistral's special tokens, in their order."""


def tekken() -> str:
    """A small tokenizer of Mistral's kind, which comes inside the weights."""
    special = TEKKEN.split()
    tokens = [bytes([one]) for one in range(256)] + [b" a", b"th", b"the", b" p", b"ho", b"pho"]
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(one).decode()}
        for rank, one in enumerate(tokens)
    ]
    marks = [{"rank": rank, "token_str": one} for rank, one in enumerate(special)]
    sizes = {
        "default_num_special_tokens": len(special),
        "default_vocab_size": len(special) + len(tokens),
    }
    return json.dumps({"config": sizes, "vocab": vocabulary, "special_tokens": marks})


LLAMA = """<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>
    <|eom_id|> <|finetune_right_pad_id|>"""


def llama_tokenizer(folder: Path) -> None:
    """A small tokenizer of Llama's kind, in the place of the host's, which a copy may lack."""
    bpe: Any = importlib.import_module("comfy.text_encoders.bpe_tokenizer")
    letters = list(bpe._bytes_to_unicode().values())
    merges = ["Ġ a", "t h", "th e"]
    vocabulary = [*letters, *(merge.replace(" ", "") for merge in merges)]
    marks = [{"id": 128000 + at, "content": one} for at, one in enumerate(LLAMA.split())]
    split = {"type": "Split", "pattern": {"Regex": bpe._LLAMA_PATTERN}}
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>"}}]}
    written = {
        "model": {"vocab": {one: at for at, one in enumerate(vocabulary)}, "merges": merges},
        "added_tokens": marks,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]},
        "post_processor": bos,
    }
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    video: Any = importlib.import_module("comfy.text_encoders.hunyuan_video")
    video.LlamaTokenizerFast = type(
        "Small",
        (),
        {"from_pretrained": staticmethod(lambda _path, **_: bpe.from_tokenizer_json(str(folder)))},
    )


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


def clip_of(thin: Thin) -> Any:
    """A CLIP as ComfyUI's loaders make it, with random weights."""
    module = importlib.import_module(f"comfy.text_encoders.{thin.module}")

    class Target:
        """What the host's own loader hands over."""

        params: dict[str, Any] = {}  # noqa: RUF012
        tokenizer = getattr(module, thin.tokenizer)
        clip = staticmethod(made(module, thin.model))

    sizes = {f"{key}_model_config": size for key, size in thin.sizes.items()}
    options = {**sizes, "dtype": torch.float32}
    found = comfy.sd.CLIP(Target, tokenizer_data=thin.data(), model_options=options)
    generator = torch.Generator().manual_seed(sum(map(ord, thin.name)))
    for key in thin.sizes:
        transformer = getattr(found.cond_stage_model, key).transformer
        if hasattr(transformer, "visual"):
            del transformer.visual  # reads pictures only
        draw(transformer, transformer.get_input_embeddings(), generator)
    return found


def made(module: Any, model: str) -> Any:
    """The class of a family's encoders: by name, or by the host's function that derives it."""
    name, derived, kind = model.rstrip(")").partition("(")
    found = getattr(module, name)
    if not derived:
        return found
    return found(model_type=kind) if kind else found()


def reference(thin: Thin, clip: Any) -> nn.Module:
    """transformers' own model with the same weights, but for the table of embeddings."""
    transformer = getattr(clip.cond_stage_model, thin.key).transformer
    kind = getattr(transformers, thin.reference)
    if thin.reference in ("T5EncoderModel", "UMT5EncoderModel"):
        sizes = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}
        vocabulary = transformer.shared.weight.shape
        own: dict[str, Any] = {"d_model": vocabulary[1], **thin.sizes[thin.key]}
        weights = transformer.encoder.state_dict()
    else:
        sizes = {"attention_dropout": 0.0, "hidden_size": transformer.model.config.hidden_size}
        own = thin.sizes[thin.key]
        weights = transformer.model.state_dict()
        weights.pop("lm_head.weight", None)
    weights.pop("embed_tokens.weight", None)
    config = kind.config_class(vocab_size=8, **{**sizes, **own, **thin.config})
    config._attn_implementation = "eager"
    model = kind(config).float().eval()
    target = model.encoder if hasattr(model, "encoder") else model
    missing, unexpected = target.load_state_dict(weights, strict=False)
    assert set(missing) <= {"embed_tokens.weight", "norm.weight"} and not unexpected, (
        missing,
        unexpected,
    )
    return model


def states(model: Any, embeddings: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """States (1, N, width) before the first layer and behind each, the last one normalized."""
    out = model(inputs_embeds=embeddings, attention_mask=mask, output_hidden_states=True)
    return out.hidden_states
