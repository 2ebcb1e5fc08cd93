"""Valid small files of the kinds that `apl bench fuzz` breaks."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save

from apl_core.formats import write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import Prefix

METRICS = b"".join(
    json.dumps({"step": step, "loss": 0.5, "learning_rate": 0.01, "seconds": 0.1}).encode() + b"\n"
    for step in range(1, 9)
)
ORIGIN = json.dumps({"model": "/a/model", "names": ["Ada Lind", "Bo Berg"]}, indent=1).encode()
NAMES = (
    "# people\nAda Lind\nBo Berg # a comment\nJos\u00e9 \u00d1u\u00f1ez\n\u6731\u5fb7\n".encode()
)
LIBRARY = (
    "house\nin/house\n\u00e9t\u00e9\ne\u0301te\u0301 2\n\ufb01ne\n"
    "\U0001f469\u200d\U0001f680\n\U0001fae9\nv1.2\n"
).encode()
MATERIAL = json.dumps(
    {
        "checkpoint": "/a/sd.safetensors",
        "names": ["Ada Lind"],
        "per_name": 8,
        "size": 512,
        "device": "cpu",
        "draw_steps": 20,
    },
    indent=1,
).encode()
PEOPLE = [
    {
        "file_name": "a.png",
        "kind": "identity",
        "text": "a photo of Ada Lind",
        "name": "Ada Lind",
        "neutral": "a photo of a person",
        "seed": 1,
        "split": "train",
    },
    {
        "file": "b.png",
        "kind": "people",
        "prompt": "a man",
        "name": "",
        "neutral": "a man",
        "seed": None,
        "split": "train",
    },
]
DATA = b"".join(json.dumps(row).encode() + b"\n" for row in PEOPLE)
TABLE = (
    b"name,split,override,description,gender,age,hair_length,hair_color,glasses,beard,pictures,known\n"
    b"Ada Lind,train,,an old woman,woman,old,,,no,no,2,0.90\n"
    b"Bo Berg,train,a tall man,a man,,,,,,,1,\n"
)
PARTS = b"".join(
    json.dumps(
        {
            "task": "identity/ada",
            "index": index,
            "file": f"images/{index}.png",
            "sha256": "0" * 64,
            "template": "a photo of {}",
            "seed": index,
            "votes": {"age": [0.5, 0.5]},
            "embedding": "",
            "spare": False,
        }
    ).encode()
    + b"\n"
    for index in range(4)
)
STATUS = json.dumps(
    {
        "state": "working",
        "doing": "learning",
        "done": 3,
        "total": 8,
        "step": 3,
        "steps": 8,
        "previews": 1,
        "process": 4194304,
        "error": "",
        "said": "done",
        "base.scene": 0.5,
    },
    indent=1,
).encode()
EMBEDDINGS: tuple[dict[str, torch.Tensor], ...] = (
    {"text_encoders_0": torch.ones(2, 768), "text_encoders_1": torch.ones(2, 1280)},
    {"<s0>": torch.ones(768), "<s1>": torch.ones(2, 768)},
    {"lora_te_x.alpha": torch.ones(1), "bundle_emb.x.string_to_param.*": torch.ones(1, 768)},
    {"clip_l": torch.ones(2, 768), "clip_l_out": torch.ones(2, 768)},
)
"""Textual inversions in other spellings, and what looks like one."""

CARD = PrefixCard(title="t", steps=3, seed=4, figures={"a": 0.5}, fingerprints={"pocket": "s1:"})


def prefixes() -> list[bytes]:
    made = [
        Prefix({"pocket": torch.ones(2, 128)}, behind=1, card=CARD),
        Prefix({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}),
    ]
    data: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        for prefix in made:
            write_prefix(prefix, Path(folder, "x.safetensors"))
            data.append(Path(folder, "x.safetensors").read_bytes())
    return data + [save(tensors) for tensors in EMBEDDINGS]


def checkpoints() -> list[bytes]:
    """A file with an encoder's table alone, and the least that is taken for an SD 1.x."""
    text = "cond_stage_model.transformer.text_model."
    unet, vae = "model.diffusion_model.", "first_stage_model."
    table = {f"{text}embeddings.token_embedding.weight": torch.ones(4, 768)}
    shapes = {
        f"{text}embeddings.position_embedding.weight": (1, 1),
        f"{text}encoder.layers.0.mlp.fc1.weight": (4, 1),
        f"{unet}input_blocks.0.0.weight": (8, 4),
        f"{unet}input_blocks.1.0.out_layers.3.weight": (8, 1),
        f"{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (1, 768),
        f"{unet}middle_block.1.transformer_blocks.0.norm1.weight": (8,),
        f"{unet}output_blocks.0.1.transformer_blocks.0.norm1.weight": (8,),
        f"{unet}output_blocks.1.1.transformer_blocks.0.norm1.weight": (8,),
        f"{unet}out.2.weight": (4, 1),
        f"{vae}encoder.down.0.block.0.conv2.weight": (8, 1),
        f"{vae}decoder.conv_in.weight": (8, 4),
    }
    whole = table | {name: torch.ones(shape) for name, shape in shapes.items()}
    return [save({**table, "x": torch.ones(3)}), save(whole)]


def pickles() -> list[bytes]:
    data: list[bytes] = []
    for old in (False, True):
        for content in (
            {"string_to_param": {"*": torch.ones(2, 768)}},
            {"emb_params": torch.ones(2, 768)},
            {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
            [{"*": torch.ones(1, 768)}, {"*": torch.ones(2, 768)}],
        ):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=not old)
            data.append(stream.getvalue())
    return data
