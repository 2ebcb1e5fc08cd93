"""Forge's own text engine alone, on random CLIP-L weights, against plain transformers.

Run by A1111's Python, whose packages it can use:
`forge_engine.py FORGE REPOSITORY CHECKPOINT HUB`. Prints a JSON of checks that hold. Forge's
`modules.shared` is replaced by the one option that the engine reads.
"""

import copy
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

FORGE, REPOSITORY, CHECKPOINT, HUB = sys.argv[1:]
sys.argv[1:] = ["--always-cpu"]
shared = ModuleType("modules.shared")
shared.opts = SimpleNamespace(emphasis="Original")
sys.modules |= {"modules": ModuleType("modules"), "modules.shared": shared}
sys.path[:0] = [str(Path(__file__).parent), REPOSITORY, FORGE, f"{FORGE}/packages_3rdparty"]

import torch
from a1111_reference import Reference

import apl_hosting

apl_hosting.load(Path(REPOSITORY) / "a1111_extension", "apl_a1111")
from apl_a1111 import hooks, hosts, insertion

from apl_core.errors import HostError
from apl_core.prefix import Prefix

LONG = " ".join(f"man number {i}" for i in range(40))
EMPHASIS = [[("a ", 1.0), ("photo", 1.3), (" of a ", 1.0), ("man", 0.5)]]
TEXTS = {
    "plain": ["a photo of a man", [[("a photo of a man", 1.0)]]],
    "empty": ["", [[("", 1.0)]]],
    "BREAK": ["a cat BREAK a dog", [[("a cat", 1.0)], [("a dog", 1.0)]]],
    "long": [LONG, [[(LONG, 1.0)]]],
    "emphasis": ["a (photo:1.3) of a (man:0.5)", EMPHASIS],
}


def rows(seed, n, behind):
    torch.manual_seed(seed)
    return Prefix({"clip_l": torch.randn(n, 768) * 0.05}, behind)


# a running Forge has imported its engines
from backend.text_processing import classic_engine
from backend.text_processing.t5_engine import T5TextProcessingEngine

checks = {}
host = hosts.choose_host()
checks["recognized"] = host.engine_class() is classic_engine.ClassicTextProcessingEngine
engine_class = host.engine_class()
engine_class.process_texts = hooks._texts(host, engine_class.process_texts)
engine_class.process_tokens = hooks._tokens(host, engine_class.process_tokens)
reference = Reference(CHECKPOINT, HUB)
encoder = SimpleNamespace(transformer=copy.deepcopy(reference.model))
engine = engine_class(encoder, reference.tokenizer)
with torch.no_grad():
    for prefix in (None, rows(1, 10, 0), rows(2, 8, 3)):
        plain = prefix and {"rows": prefix.vectors["clip_l"], "behind": prefix.behind}
        for name, (text, said) in TEXTS.items():
            run = prefix and insertion.Run("test", prefix.rows())
            with insertion.running(run):
                got = engine([text])
            if run is not None:
                run.verify()
            stands = "off" if prefix is None else f"{prefix.behind} behind"
            checks[f"{stands}, {name}"] = torch.equal(got, reference.encode(plain, [said]))
joint = torch.nn.Module()
joint.clip_l = engine.text_encoder = torch.nn.Module()
joint.clip_l.transformer = encoder.transformer
objects = SimpleNamespace(clip=SimpleNamespace(cond_stage_model=joint))
model = SimpleNamespace(text_processing_engine=engine, forge_objects=objects)
found = hosts.faces(host, model, fingerprints=True)
checks["faces"] = {face.key: face.width for face in found} == {"clip_l": 768}
other = object.__new__(T5TextProcessingEngine)
other.text_encoder = torch.nn.Module()
unread = torch.nn.ModuleList([joint.clip_l, other.text_encoder])
odd = {
    "T5 beside it": {**vars(model), "text_processing_engine_t5": other},
    "T5 alone": {"text_processing_engine_t5": other, "forge_objects": objects},
    "nothing": {},
    "an encoder that it does not run": {
        **vars(model),
        "forge_objects": SimpleNamespace(clip=SimpleNamespace(cond_stage_model=unread)),
    },
}
for name, held in odd.items():
    try:
        hosts.faces(host, SimpleNamespace(**held), fingerprints=False)
        checks[f"{name} refused"] = False
    except HostError:
        checks[f"{name} refused"] = True
print(json.dumps(checks))
