"""The text engines of Forge or Neo alone, on random CLIP-L weights, against plain transformers.

Run by A1111's Python for Forge, whose packages are enough, and by Neo's own for Neo:
`forge_engine.py FORGE REPOSITORY CHECKPOINT HUB`. Prints a JSON of checks that hold. The webui's
`modules.shared` is replaced by the options that the engines read.
"""

import copy
import importlib
import json
import pkgutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

FORGE, REPOSITORY, CHECKPOINT, HUB = sys.argv[1:]
sys.argv[1:] = ["--always-cpu", "--cpu"]  # Forge, and Neo
shared, modules = ModuleType("modules.shared"), ModuleType("modules")
shared.opts = SimpleNamespace(emphasis="Original")
modules.__path__ = [f"{FORGE}/modules"]
sys.modules |= {"modules": modules, "modules.shared": shared}
PACKAGES = [f"{FORGE}/packages_3rdparty", f"{FORGE}/modules_forge/packages"]
sys.path[:0] = [str(Path(__file__).parent), REPOSITORY, FORGE, *PACKAGES]

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


import backend.text_processing

for found in pkgutil.iter_modules(backend.text_processing.__path__):  # a running one has them all
    importlib.import_module(f"backend.text_processing.{found.name}")
from backend.text_processing import classic_engine, t5_engine

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
other = object.__new__(t5_engine.T5TextProcessingEngine)
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
if host.name == "Neo":
    type(host).remote = lambda _: []  # it looks into the whole webui
    closed = {owner.__name__ for owner, _ in host.closed()}
    named = {
        name
        for module in sys.modules.copy().values()
        if getattr(module, "__name__", "").startswith("backend.text_processing.")
        for name in vars(module)
        if name.endswith("TextProcessingEngine")
    }
    covered = {one.__name__ for one in host.readers()} | {host.engine_class().__name__}
    checks["all are covered or closed"] = named == covered | closed
    checks["there are others"] = len(named) > 8
print(json.dumps(checks))
