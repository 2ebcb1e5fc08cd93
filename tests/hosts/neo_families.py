"""Thin random checkpoints of Forge Neo's model families, and transformers' own models of them.

Real widths, vocabularies and tokenizers, and the host's own classes of checkpoints; one head, and
next to nothing between. A table of embeddings takes a few hundred kilobytes: its rows are
overlapping pieces of one line of numbers.
"""

import dataclasses
import importlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import torch
import transformers
from backend import huggingface
from backend.nn.clip import IntegratedCLIP
from backend.nn.llm import llama
from backend.nn.t5 import IntegratedT5
from backend.operations import using_forge_operations
from thin_weights import draw
from torch import nn

FOLDER = huggingface.folder
ONE_HEAD = {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 8}
QWEN3 = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "head_dim": 128}
T5 = {"num_layers": 1, "num_heads": 1, "d_ff": 8, "d_model": 4096, "d_kv": 4096}
CLIP = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 8,
    "num_attention_heads": 12,
    "num_hidden_layers": 3,
    "eos_token_id": 49407,
    "bos_token_id": 49406,
    "hidden_act": "quick_gelu",
}
COMPONENTS = ("text_encoder", "tokenizer")


@dataclass(frozen=True)
class Thin:
    """How one family is built, and what an independent run of it needs to know.

    `kind` is the checkpoint's class in `backend.diffusion_engine`, `network` the host's language
    model and the class of its settings, `reference` transformers' class.
    """

    name: str
    kind: str
    key: str
    network: str
    layers: int
    reference: str
    tokenizer: str
    vocabulary: int
    config: dict = field(default_factory=dict)
    attribute: str = "text_processing_engine_gemma"


FAMILIES = (
    Thin(
        *("Z-Image", "zimage.ZImage", "qwen3_4b", "Qwen3_4B Qwen3_4BConfig", 4, "Qwen3Model"),
        *("Qwen2Tokenizer Tongyi-MAI/Z-Image-Turbo/tokenizer", 151936, QWEN3),
    ),
    Thin(
        *("Flux.2 Klein 4B", "flux2.Flux2", "qwen3_4b", "Qwen3_4B Qwen3_4BConfig", 28),
        *("Qwen3Model", "Qwen2TokenizerFast black-forest-labs/FLUX.2-klein-4B/tokenizer"),
        *(151936, QWEN3),
    ),
    Thin(
        *("Flux.2 Klein 9B", "flux2.Flux2", "qwen3_8b", "Qwen3_8B Qwen3_8BConfig", 28),
        *("Qwen3Model", "Qwen2TokenizerFast black-forest-labs/FLUX.2-klein-9B/tokenizer"),
        *(151936, QWEN3),
    ),
    Thin(
        *("Qwen-Image", "qwen.QwenImage", "qwen25_7b", "Qwen25_7BVLI Qwen25_7BVLI_Config", 3),
        *("Qwen2Model", "Qwen2Tokenizer Qwen/Qwen-Image/tokenizer", 152064, QWEN3),
        "text_processing_engine_qwen",
    ),
    Thin(
        *("Krea 2", "krea.Krea2", "qwen3vl_4b", "Qwen3VL Qwen3VL_4BConfig", 36, "Qwen3Model"),
        *("Qwen2Tokenizer krea/Krea-2-Raw/tokenizer", 151936, {**QWEN3, "rope_theta": 5e6}),
        "text_processing_engine_qwen",
    ),
    Thin(
        *("Lumina 2", "lumina.Lumina2", "gemma2_2b", "Gemma2_2B Gemma2_2B_Config", 3),
        *("Gemma2Model", "GemmaTokenizerFast neta-art/Neta-Lumina/tokenizer", 256000),
        {"head_dim": 256, "attn_logit_softcapping": None, "query_pre_attn_scalar": 256},
    ),
    Thin(
        *("ERNIE", "ernie.ErnieImage", "ministral3_3b", "Ministral3_3B Ministral3_3BConfig", 3),
        *("MistralModel", "PixtralProcessor baidu/ERNIE-Image/tokenizer", 131072),
        {"head_dim": 128, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "sliding_window": None},
        "text_processing_engine_ministral",
    ),
    Thin(
        *("Chroma", "chroma.Chroma", "t5xxl", "", 1, "T5EncoderModel"),
        *("T5TokenizerFast black-forest-labs/FLUX.1-dev/tokenizer_2", 32128),
        attribute="text_processing_engine_t5",
    ),
    Thin(
        *("Flux.1", "flux.Flux", "t5xxl", "", 1, "T5EncoderModel"),
        *("T5TokenizerFast black-forest-labs/FLUX.1-dev/tokenizer_2", 32128),
        attribute="text_processing_engine_t5",
    ),
    Thin(
        *("Wan", "wan.Wan", "umt5xxl", "", 1, "UMT5EncoderModel"),
        *("T5TokenizerFast Wan-AI/Wan2.1-T2V-14B/tokenizer", 256384),
        attribute="text_processing_engine_t5",
    ),
)


def tokenizer(said):
    """A tokenizer of the host's own files, by transformers' class."""
    kind, folder = said.split()
    return getattr(transformers, kind).from_pretrained(f"{FOLDER}/{folder}")


def checkpoint(thin):
    """A loaded checkpoint of a family, as the host's loader makes it but for network and VAE."""
    drawn = torch.Generator().manual_seed(sum(map(ord, thin.name)))
    parts = {"vae": SimpleNamespace(), "transformer": None}
    found = {"text_encoder": encoder(thin, drawn), "tokenizer": tokenizer(thin.tokenizer)}
    if thin.name == "Flux.1":
        parts |= {f"{name}_2": one for name, one in found.items()}
        with using_forge_operations(device=torch.device("meta"), dtype=torch.float32):
            config = transformers.CLIPTextConfig(**CLIP)
            clip = IntegratedCLIP(transformers.CLIPTextModel, config, add_text_projection=True)
        found = {
            "text_encoder": draw(clip, clip.transformer.get_input_embeddings(), drawn),
            "tokenizer": tokenizer("CLIPTokenizer black-forest-labs/FLUX.1-dev/tokenizer"),
        }
    module = importlib.import_module(f"backend.diffusion_engine.{thin.kind.split('.')[0]}")
    kind = getattr(module, thin.kind.split(".")[1])
    config = SimpleNamespace(latent_format=None, inpaint_model=lambda: False, huggingface_repo="")
    stand_in = SimpleNamespace(from_model=lambda **_: None)
    with (
        mock.patch.object(module, "VAE", lambda **_: None),
        mock.patch.object(module, "UnetPatcher", stand_in),
        mock.patch.object(kind, "_get_predictor", lambda _: None),
    ):
        made = kind(config, {**parts, **found})
    made.sd_checkpoint_info = SimpleNamespace(name_for_extra=thin.name, title=thin.name)
    return made


def encoder(thin, drawn):
    """The host's language model or T5, thin, with random weights."""
    with using_forge_operations(
        device=torch.device("meta"), dtype=torch.float32, manual_cast_enabled=True
    ):
        if not thin.network:
            kind = "umt5" if thin.key == "umt5xxl" else "t5"
            sizes = {"vocab_size": thin.vocabulary, "is_gated_act": True, "model_type": kind}
            made = IntegratedT5({**T5, **sizes, "dense_act_fn": "gelu_pytorch_tanh"})
            return draw(made, made.transformer.shared, drawn)
        network, config = (getattr(llama, one) for one in thin.network.split())
        made = object.__new__(network)  # its constructor takes the real size and no other
        nn.Module.__init__(made)
        sizes = dataclasses.replace(config(), num_hidden_layers=thin.layers, **ONE_HEAD)
        made.model = llama.Llama2_(sizes)
    return draw(made, made.model.embed_tokens, drawn)


def reference(thin, engine):
    """transformers' own model with the same weights, but for the table of embeddings."""
    kind = getattr(transformers, thin.reference)
    if thin.network:
        own = {**ONE_HEAD, "num_hidden_layers": thin.layers, "attention_dropout": 0.0}
        own["hidden_size"] = engine.text_encoder.model.config.hidden_size
        weights = engine.text_encoder.model.state_dict()
    else:
        own = {**T5, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}
        weights = engine.text_encoder.encoder.state_dict()
    weights.pop("embed_tokens.weight", None)
    config = kind.config_class(vocab_size=8, **own, **thin.config)
    config._attn_implementation = "eager"
    model = kind(config).float().eval()
    target = model.encoder if hasattr(model, "encoder") else model
    missing, unexpected = target.load_state_dict(weights, strict=False)
    assert set(missing) <= {"embed_tokens.weight"} and not unexpected, (missing, unexpected)
    return model


def states(model, embeddings, mask=None):
    """States (1, N, width) before the first layer and behind each, the last one normalized."""
    given = embeddings
    if isinstance(model, transformers.Gemma2Model):  # it scales what it is given, table or not
        given = embeddings / embeddings.shape[-1] ** 0.5
    said = model(inputs_embeds=given, attention_mask=mask, output_hidden_states=True)
    return said.hidden_states
