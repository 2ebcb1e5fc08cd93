"""A1111's own SD 2.x and SDXL text wrappers, on small random towers, against a manual layout.

Run by the host's Python: `a1111_engines.py WEBUI REPOSITORY HUB`. Prints checks that hold as JSON.
a1111_training_engines.py learns on the same towers.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

WEBUI, REPOSITORY, HUB = sys.argv[1:]
sys.argv[1:] = ["--skip-torch-cuda-test", "--use-cpu", "all", "--no-half"]
sys.argv += ["--data-dir", tempfile.mkdtemp()]
os.environ["HUGGINGFACE_HUB_CACHE"] = HUB
os.chdir(WEBUI)
sys.path[:0] = [WEBUI, REPOSITORY]

from modules import initialize

initialize.imports()

import ldm.modules.encoders.modules as ldm_encoders
import open_clip
import sgm.modules.encoders.modules as sgm_encoders
import torch
from modules import (
    sd_disable_initialization,
    sd_hijack,
    sd_hijack_clip,
    sd_hijack_open_clip,
    sd_models,
)

import apl_hosting

apl_hosting.load(Path(REPOSITORY) / "a1111_extension", "apl_a1111")
from apl_a1111 import gate, hooks, hosts, insertion
from apl_a1111.refusal import Refused

from apl_core.errors import FitError, HostError
from apl_core.fit import check_fit
from apl_core.prefix import Prefix

BOS, EOS = 49406, 49407
WORDS = "a photo of a man"
LONG = " ".join(f"man {i}" for i in range(40))


def tower(name, width):
    """A random OpenCLIP text tower of the real width, three layers deep."""
    folder = Path(tempfile.mkdtemp())
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": 16, "layers": 3}
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return name


def open_clip_engine(embedder, wrapper, key):
    embedder.model.ln_final.bias.normal_(std=0.2)  # the host divides by the mean of what it gives
    layer = embedder.model.token_embedding
    embedder.model.token_embedding = sd_hijack.EmbeddingsWithFixes(
        layer, sd_hijack.model_hijack, textual_inversion_key=key
    )
    return wrapper(embedder, sd_hijack.model_hijack)


def clip_l_engine():
    with sd_disable_initialization.DisableInitialization():
        embedder = sgm_encoders.FrozenCLIPEmbedder(device="cpu", layer="hidden", layer_idx=11)
    for name, value in embedder.transformer.named_parameters():
        with torch.no_grad():
            value.normal_(std=0.03) if "norm.weight" not in name else value.fill_(1.0)
    embeddings = embedder.transformer.text_model.embeddings
    embeddings.token_embedding = sd_hijack.EmbeddingsWithFixes(
        embeddings.token_embedding, sd_hijack.model_hijack
    )
    return sd_hijack_clip.FrozenCLIPEmbedderForSDXLWithCustomWords(embedder, sd_hijack.model_hijack)


def sd2_engine():
    embedder = ldm_encoders.FrozenOpenCLIPEmbedder(
        tower("tiny-h", 1024), None, device="cpu", layer="penultimate"
    )
    wrapper = sd_hijack_open_clip.FrozenOpenCLIPEmbedderWithCustomWords
    return open_clip_engine(embedder, wrapper, "clip_l")


def clip_g_engine():
    embedder = sgm_encoders.FrozenOpenCLIPEmbedder2(
        tower("tiny-g", 1280),
        None,
        device="cpu",
        layer="penultimate",
        always_return_pooled=True,
        legacy=False,
    )
    wrapper = sd_hijack_open_clip.FrozenOpenCLIPEmbedder2WithCustomWords
    return open_clip_engine(embedder, wrapper, "clip_g")


def manual(engine, prefix, key, words, pad, bare_if_empty=True):
    """The engine's network on chunks that are laid out here: (hidden, pooled of chunk 0)."""
    ids = engine.tokenize([words])[0]
    empty = bare_if_empty and not words
    room = 75 - (0 if empty else prefix.n)
    layer = HOST.table(engine)
    outputs = []
    for start in range(0, max(len(ids), 1), room):
        part = ids[start : start + room]
        rows = prefix.vectors[key]
        cut = prefix.rows_in_front
        text = [layer[token] for token in part]
        front, behind = ([], []) if empty else (list(rows[:cut]), list(rows[cut:]))
        vectors = [layer[BOS], *front, *text, *behind, layer[EOS]]
        tokens = [BOS, *[0] * len(front), *part, *[0] * len(behind), EOS]
        while len(tokens) < 77:
            vectors.append(layer[pad])
            tokens.append(pad)
        outputs.append(network(engine, torch.tensor([tokens]), torch.stack(vectors)[None]))
    return torch.hstack([hidden for hidden, _ in outputs]), outputs[0][1]


def network(engine, tokens, vectors):
    inner = engine.wrapped
    if hasattr(inner, "transformer"):
        owner, name = inner.transformer.text_model.embeddings, "token_embedding"
    else:
        owner, name = inner.model, "token_embedding"
    kept = getattr(owner, name)

    class Given(torch.nn.Module):
        def forward(self, _ids):
            return vectors

    setattr(owner, name, Given())
    try:
        z = engine.encode_with_transformers(tokens)
    finally:
        setattr(owner, name, kept)
    return z, getattr(z, "pooled", None)


def prefix_of(seed, behind, **widths):
    torch.manual_seed(seed)
    return Prefix({key: torch.randn(6, width) * 0.05 for key, width in widths.items()}, behind)


def check_family(family, engines, prefixes, pads):
    for prefix in prefixes:
        stands = f"{family}, {prefix.behind} behind"
        for name, words in (("short", WORDS), ("long", LONG), ("empty", "")):
            run = insertion.Run("test", prefix.rows())
            with insertion.running(run):
                got = [engine([words]) for engine in engines]
            run.verify()
            for engine, answer in zip(engines, got, strict=True):
                key = HOST.key(engine)
                hidden, pooled = answer if isinstance(answer, tuple) else (answer, None)
                want, want_pooled = manual(engine, prefix, key, words, pads[key])
                CHECKS[f"{stands}, {key}, {name}"] = torch.equal(hidden, want)
                if pooled is not None:
                    CHECKS[f"{stands}, {key}, {name}, pooled"] = torch.equal(pooled, want_pooled)
                bare = engine([words])
                bare = bare[0] if isinstance(bare, tuple) else bare
                same = hidden.shape == bare.shape and torch.equal(hidden, bare)
                CHECKS[f"{stands}, {key}, {name}, changes"] = same == (not words)


CHECKS = {}
HOST = hosts.choose_host()


def main():
    hooks.install(HOST)
    with torch.no_grad():
        check()
    hooks.remove(HOST)
    CHECKS["hooks are gone"] = not hasattr(HOST.engine_class().process_texts, "__wrapped__")
    with torch.no_grad():
        check_gate()
    print(json.dumps(CHECKS))


def check():
    torch.manual_seed(0)
    prefixes = [prefix_of(1, 0, clip_h=1024), prefix_of(2, 2, clip_h=1024)]
    check_family("SD2", [sd2_engine()], prefixes, {"clip_h": 0})
    big, small = clip_g_engine(), clip_l_engine()
    both = {"clip_l": 768, "clip_g": 1280}
    check_family(
        "SDXL",
        [small, big],
        [prefix_of(3, 0, **both), prefix_of(4, 2, **both)],
        {"clip_l": EOS, "clip_g": 0},
    )
    sdxl = SimpleNamespace(
        conditioner=SimpleNamespace(embedders=[small, big, torch.nn.Linear(1, 1)])
    )
    found = hosts.faces(HOST, sdxl, fingerprints=True)
    CHECKS["SDXL, faces"] = {face.key: face.width for face in found} == both
    CHECKS["SDXL, fits"] = check_fit(prefix_of(3, 0, **both), found).same_encoder is None
    refiner = SimpleNamespace(conditioner=SimpleNamespace(embedders=[big]))
    try:
        check_fit(prefix_of(3, 0, **both), hosts.faces(HOST, refiner, fingerprints=False))
        CHECKS["SDXL, refiner refused"] = False
    except FitError:
        CHECKS["SDXL, refiner refused"] = True
    run = insertion.Run("test", prefix_of(3, 0, **both).rows())
    with insertion.running(run):
        small([WORDS])
    try:
        run.verify()
        CHECKS["SDXL, one encoder alone is not enough"] = False
    except HostError:
        CHECKS["SDXL, one encoder alone is not enough"] = True


def check_gate():
    """Operator mode on the same engines: every text carries the rows, or there is no answer."""
    torch.manual_seed(1)
    old, big, small = sd2_engine(), clip_g_engine(), clip_l_engine()
    both = {"clip_l": 768, "clip_g": 1280}
    families = {
        "SD2": (SimpleNamespace(cond_stage_model=old), [old], {"clip_h": 1024}, {"clip_h": 0}),
        "SDXL": (conditioned(small, big), [small, big], both, {"clip_l": EOS, "clip_g": 0}),
    }
    prefixes = {family: prefix_of(5, 2, **found[2]) for family, found in families.items()}
    closed = gate.Gate(HOST, "house", prefixes["SD2"])
    gate._close(closed)
    for family, (model, engines, _, pads) in families.items():
        load(model)
        closed.prefix = prefixes[family]
        for name, words in (("short", WORDS), ("long", LONG), ("empty", ""), ("spaces", "  ")):
            for engine in engines:
                key, answer = HOST.key(engine), engine([words])
                hidden, pooled = answer if isinstance(answer, tuple) else (answer, None)
                prefix = closed.prefix
                want, first = manual(engine, prefix, key, words.strip(), pads[key], False)
                CHECKS[f"gate, {family}, {key}, {name}"] = torch.equal(hidden, want)
                if pooled is not None:
                    CHECKS[f"gate, {family}, {key}, {name}, pooled"] = torch.equal(pooled, first)
        texts = type(engines[0]).process_texts
        HOST.engine_class().process_texts = texts.__wrapped__
        for engine in engines:
            CHECKS[f"gate, {family}, {HOST.key(engine)}, bare"] = refuses(lambda: engine([WORDS]))  # noqa: B023
        HOST.engine_class().process_texts = texts
        closed.prefix = prefixes["SD2" if family == "SDXL" else "SDXL"]
        for engine in engines:
            name = f"gate, {family}, {HOST.key(engine)}, another family"
            CHECKS[name] = refuses(lambda: engine([WORDS]), "it is for")  # noqa: B023
    closed.prefix = prefixes["SDXL"]
    load(conditioned(big))
    CHECKS["gate, refiner"] = refuses(lambda: big([WORDS]), "the loaded checkpoint is")
    CHECKS["gate, not the loaded checkpoint's"] = refuses(lambda: small([WORDS]))
    load(None)
    CHECKS["gate, nothing loaded"] = refuses(lambda: big([WORDS]))


def conditioned(*engines):
    return SimpleNamespace(conditioner=SimpleNamespace(embedders=[*engines, torch.nn.Linear(1, 1)]))


def load(model):
    if model is not None:
        model.sd_checkpoint_info = SimpleNamespace(name_for_extra="random")
    sd_models.model_data.sd_model = model


def refuses(encode, said="without the prefix"):
    try:
        encode()
    except Refused as refused:
        return said in str(refused) or print(refused)
    return False


if __name__ == "__main__":
    main()
