"""Valid small files of the kinds that `apl bench fuzz` breaks."""

from __future__ import annotations

import json

METRICS = b"".join(
    json.dumps({"step": step, "loss": 0.5, "rate": 0.01, "seconds": 0.1}).encode() + b"\n"
    for step in range(1, 9)
)
ORIGIN = json.dumps({"model": "/a/model", "names": ["Ada Lind", "Bo Berg"]}, indent=1).encode()
NAMES = (
    "# people\nAda Lind\nBo Berg # a comment\nJos\u00e9 \u00d1u\u00f1ez\n\u6731\u5fb7\n".encode()
)
MATERIAL = json.dumps(
    {"checkpoint": "/a/sd.safetensors", "names": ["Ada Lind"], "per_name": 8, "size": 512,
     "device": "cpu", "draw_steps": 20}, indent=1,
).encode()  # fmt: skip
PEOPLE = [
    {"file": "a.png", "kind": "identity", "prompt": "a photo of Ada Lind", "name": "Ada Lind",
     "neutral": "a photo of a person", "seed": 1, "split": "train"},
    {"file": "b.png", "kind": "people", "prompt": "a man", "name": "", "neutral": "a man",
     "seed": None, "split": "train"},
]  # fmt: skip
DATA = b"".join(json.dumps(row).encode() + b"\n" for row in PEOPLE)
TABLE = (
    b"name,split,description,gender,age,hair_length,hair_colour,glasses,beard,pictures,known,by\n"
    b"Ada Lind,train,an old woman,woman,old,,,no,no,2,0.90,voted\n"
    b"Bo Berg,train,a man,,,,,,,1,,hand\n"
)
PARTS = b"".join(
    json.dumps(
        {"task": "identity/ada", "index": index, "file": f"images/{index}.png", "sha256": "0" * 64,
         "template": "a photo of {}", "seed": index, "votes": {"age": [0.5, 0.5]},
         "embedding": "", "spare": False}
    ).encode() + b"\n"
    for index in range(4)
)  # fmt: skip
STATUS = json.dumps(
    {"state": "working", "doing": "learning", "done": 3, "total": 8, "step": 3, "steps": 8,
     "previews": 1, "process": 4194304, "error": "", "said": "done", "base.scene": 0.5},
    indent=1,
).encode()  # fmt: skip
