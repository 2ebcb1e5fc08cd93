"""Language models and T5 as Forge Neo's text engines, with a prefix, against plain transformers.

Run by Neo's Python: `neo_families_probe.py NEO REPOSITORY`. Prints a JSON of checks that hold. Of
the webui itself only the text side is there: `modules.shared` is replaced by the options that the
engines read. FAMILIES in the environment names the only ones to look at.
"""

import copy
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

NEO, REPOSITORY = sys.argv[1:]
sys.argv[1:] = ["--cpu"]
shared, modules, paths = (ModuleType(f"modules{one}") for one in (".shared", "", ".paths"))
SUPERIOR = "You are an assistant designed to generate anime images with the highest degree of "
POSITIVE = f"{SUPERIOR}image-text alignment based on danbooru tags. <Prompt Start>"
LOW = "You are an assistant designed to generate low-quality images based on textual prompts. "
shared.opts = SimpleNamespace(
    emphasis="Original",
    neta_template_positive=POSITIVE,
    neta_template_negative=f"{LOW}<Prompt Start>",
    data={},
)
models = ModuleType("modules.sd_models")
models.model_data = loaded = SimpleNamespace(sd_model=None)
shared.cmd_opts, paths.models_path = SimpleNamespace(apl_dir=None), "/nowhere"
modules.__path__ = [f"{NEO}/modules"]
sys.modules |= {"modules": modules, "modules.shared": shared, "modules.paths": paths}
sys.modules["modules.sd_models"] = models
sys.path[:0] = [str(Path(__file__).parent), REPOSITORY, NEO, f"{NEO}/modules_forge/packages"]

import torch
from backend import huggingface
from modules.prompt_parser import SdConditioning, get_learned_conditioning

import apl_hosting

huggingface.process()  # as the host does when it starts
apl_hosting.load(Path(REPOSITORY) / "a1111_extension", "apl_a1111")
import backend.loader  # imports every engine, as a running one has  # noqa: F401
import neo_families
from apl_a1111 import gate, hooks, hosts, request, steps
from apl_a1111.language import table_of
from apl_a1111.refusal import Refused
from neo_families import FAMILIES

from apl_core.enforced import Enforced
from apl_core.families import TABLE
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix

PROMPTS = (
    "a photo of Ada Lovelace in front of a red house",
    "\nünïcode 写真 🙂, ½ – “quotes” {braces}\nline breaks,   spaces\n",  # noqa: RUF001
    "word " * 120,
)
USER = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
SYSTEM = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
)
AROUND = {
    "Z-Image": USER,
    "Flux.2 Klein 4B": (USER[0], f"{USER[1]}<think>\n\n</think>\n\n"),
    "Flux.2 Klein 9B": (USER[0], f"{USER[1]}<think>\n\n</think>\n\n"),
    "Qwen-Image": (SYSTEM + USER[0], USER[1]),
    "Krea 2": (SYSTEM + USER[0], USER[1]),
}
WEIGHTED = [("a ", 1.0), ("red", 1.3), (" house by Ada", 1.0)]
EMPHASIS = "a (red:1.3) house by Ada"


def prefix(thin, seed=0, family=None):
    """Six random rows learned through a family, two of them behind the text."""
    drawn = torch.Generator().manual_seed(seed)
    keys = next(one.encoders for one in TABLE if one.name == thin.name)
    rows = {key: torch.randn(6, WIDTHS[key], generator=drawn) * 0.5 for key in keys}
    return Prefix(rows, 2, PrefixCard(family=family or thin.name))


def given(model, text, px=None, negative=False):
    """What the webui gives for a prompt, with a prefix as a request has it."""
    prompts = SdConditioning([text], is_negative_prompt=negative)
    if px is None:
        made = get_learned_conditioning(model, prompts, 4)
    else:
        asked = request.Request("test", px, steps.StepRange())
        made = hooks._encode(host, asked, get_learned_conditioning, False, model, prompts, 4)
    return made[0][0].cond


class Expected:
    """What a family has to give: its text laid out by hand, and run by transformers."""

    def __init__(self, thin, model):
        self.thin, self.engine = thin, getattr(model, thin.attribute)
        encoder = self.engine.text_encoder
        self.table = (encoder.model.embed_tokens if thin.network else encoder.shared).weight
        self.model = neo_families.reference(thin, self.engine)
        self.tokenizer = getattr(self.engine.tokenizer, "tokenizer", self.engine.tokenizer)

    def ids(self, text):
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def rows(self, ids):
        scale = 2304**0.5 if self.thin.name == "Lumina 2" else 1.0
        return self.table[torch.tensor(ids, dtype=torch.long)] * scale

    def pieces(self, px, parts):
        """[(rows (n, width), weight of each or None for rows of the prefix)] of a text."""
        front, behind = (px.front(self.thin.key), px.back(self.thin.key)) if px else ([], [])
        alone = self.thin.name in AROUND or self.thin.name == "Wan"  # each part is a text
        found, texts = [], [[one] for one in parts] if alone else [parts]
        if self.thin.name == "Lumina 2":
            texts = [[("\n" + parts[0][0], parts[0][1]), *parts[1:]]]
        if alone and px is None and len(parts) == 1:  # the host's tokenizer reads it in one
            whole = parts[0][0].join(AROUND.get(self.thin.name, ("", "")))
            whole, end = (whole[:-1], [1]) if self.thin.name == "Wan" else (whole, [])
            return [(self.rows([*self.ids(whole), *end]), 1.0)]
        for text in texts:
            around, weight = AROUND.get(self.thin.name, ("", "")), text[0][1]
            found.append((self.rows(self.ids(around[0])), weight))
            found.append((front, None))
            for said, own in text:
                said = said[:-1] if self.thin.name == "Wan" else said  # so does this host
                found.append((self.rows(self.ids(said)), own))
            found.append((behind, None))
            found.append((self.rows(self.ids(around[1])), weight))
            if self.thin.name == "Wan":
                found.append((self.rows([1]), weight))
        return [one for one in found if len(one[0])]

    def __call__(self, px, parts):
        name = self.thin.name
        pieces = self.pieces(px, parts)
        pieces = [(self.rows(ids), 1.0) for ids in self.before(parts)] + pieces
        pieces += [(self.rows([1]), 1.0)] * (name in ("Chroma", "Flux.1", "Wan"))
        length = sum(len(one) for one, _ in pieces)
        fill = {"Flux.1": 256, "Wan": 512}.get(name, 512 if "Klein" in name else 0) - length
        pad = 151643 if "Klein" in name else 0
        pieces += [(self.rows([pad] * fill), 1.0)] * (fill > 0)
        x = torch.cat([one for one, _ in pieces]).float()
        text = torch.cat([torch.full((len(one),), w is not None) for one, w in pieces])
        weight = torch.cat([torch.full((len(one),), w or 1.0) for one, w in pieces])
        if self.thin.network and name != "ERNIE":
            x = self.weighed(x, text, weight)
        mask = None
        if "Klein" in name:
            mask = (torch.arange(len(x)) < length).long()[None]
        if name == "Wan":
            ends = [i for i, row in enumerate(x) if torch.equal(row, self.rows([1])[0])]
            mask = (torch.arange(len(x)) <= ends[0]).long()[None]
        found = self.taken(neo_families.states(self.model, x[None], mask), pieces)
        if name in ("Chroma", "Flux.1", "Wan"):
            found = self.weighed(found * mask[0, :, None] if name == "Wan" else found, text, weight)
        return found

    def pooled(self, clip, px, text):
        """CLIP's pooled output of a text of one chunk, by transformers' own model."""
        front, behind = px.front("clip_l"), px.back("clip_l")
        ids = clip.tokenizer(text, add_special_tokens=False).input_ids
        model = copy.deepcopy(clip.text_encoder.transformer)
        layer = model.text_model.embeddings.token_embedding
        model.text_model.embeddings.token_embedding = layer.wrapped
        last = len(front) + len(ids) + 1

        def put_in(_module, _inputs, embedded):
            embedded = embedded.clone()
            embedded[0, 1 : 1 + len(front)] = front
            embedded[0, last : last + len(behind)] = behind
            return embedded

        layer.wrapped.register_forward_hook(put_in)
        whole = [49406, *[0] * len(front), *ids, *[0] * len(behind)]
        return model(input_ids=torch.tensor([[*whole, *[49407] * (77 - len(whole))]])).pooler_output

    def before(self, parts):
        if self.thin.name == "ERNIE":
            return [[1]]  # begins each text
        return [[2], self.ids(POSITIVE)] if self.thin.name == "Lumina 2" else []

    @staticmethod
    def weighed(x, text, weight):
        if (weight == 1).all():
            return x
        x = x.clone()
        before = x[text].mean()
        x[text] = x[text] * weight[text][:, None]
        x[text] = x[text] * (before / x[text].mean())
        return x

    def taken(self, found, pieces):
        """The rows of the states that the family's network reads."""
        name = self.thin.name
        if name in ("Z-Image", "Lumina 2", "ERNIE"):
            return found[-2][0]
        if "Klein" in name:
            return torch.cat([found[at][0] for at in (9, 18, 27)], -1)
        if name == "Krea 2":
            picked = torch.cat([found[at][0] for at in range(2, 36, 3)], -1)
            return picked[len(self.ids(SYSTEM + USER[0])) :]
        if name == "Qwen-Image":
            return found[-1][0][len(self.ids(SYSTEM + USER[0])) :]
        return found[-1][0]


def same(got, wanted):
    got = got["crossattn"] if isinstance(got, dict) else got
    got = got[0] if got.dim() == 3 else got
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=2e-3, atol=2e-3)


def equal(one, other):
    if isinstance(one, dict):
        return all(torch.equal(one[key], other[key]) for key in one)
    return torch.equal(one, other)


def refused(words, *arguments):
    try:
        given(*arguments)
    except Refused as error:
        return words in str(error) or str(error)
    return "drawn"


def gated(thin, model, expected, px):
    """What holds where an operator enforces a prefix: with no request, in every text."""
    found, name = {}, thin.name
    engine, loaded.sd_model = getattr(model, thin.attribute), model
    one = Enforced("studio", name, px, px.digest)
    closed = gate.Gate(host, {name: one, "SD 2.x": one})
    for owner, method, original in bare:
        setattr(owner, method, GATED[owner][method](closed, original))
    closed.watch(engine)
    for text in ("", "a photo of Ada"):
        got = given(model, text, negative=name != "Lumina 2")  # it has two templates
        found[f"{name}: enforced, {text!r}"] = same(got, expected(px, [(text, 1.0)]))
    found[f"{name}: counted"] = closed.chunks == 2 * len(px.keys)
    ids = [list(map(int, one)) for one in engine.tokenize(["a photo of Ada"])]
    tries = {
        "bare tokens": lambda: engine.process_tokens(ids, [[1.0] * len(ids[0])]),
        "bare lookup": lambda: table_of(engine)(torch.tensor(ids)),
    }
    for what, attempt in tries.items():
        found[f"{name}: enforced, {what}"] = words_of(attempt).count("another extension") == 1
    closed.prefixes = {"SD 1.x": one, "SD 2.x": one}
    said = words_of(lambda: given(model, "a"))
    found[f"{name}: nothing enforced for it"] = f"the loaded checkpoint is {name}" in said
    for owner, method, original in bare:
        setattr(owner, method, WRAPPED[owner][method](host, original))
    table_of(engine)._forward_hooks.clear()
    return found


def words_of(attempt):
    try:
        attempt()
    except Refused as error:
        return str(error)
    return "nothing was refused"


checks = {}
host = hosts.choose_host()
WRAPPED = {
    host.engine_class(): {"process_texts": hooks._texts, "process_tokens": hooks._tokens},
    host.embedding_class(): {"forward": lambda _, original: original},
    **dict.fromkeys(host.readers(), hooks._READING),
}
GATED = {
    host.engine_class(): {"process_texts": gate._covered, "process_tokens": gate._weighted},
    host.embedding_class(): {"forward": gate._checked},
    **{one: {key: gate._READING[key] for key in hooks._READING} for one in host.readers()},
}
bare = [(one, name, getattr(one, name)) for one, names in WRAPPED.items() for name in names]
wanted = os.environ.get("FAMILIES", "").split(",")
with torch.inference_mode():
    for thin in FAMILIES:
        if wanted != [""] and thin.name not in wanted:
            continue
        name, model = thin.name, neo_families.checkpoint(thin)
        for owner, method, original in bare:
            setattr(owner, method, original)
        texts = (PROMPTS[0], "", " ", EMPHASIS)
        plain = {text: given(model, text) for text in texts}
        for owner, method, original in bare:
            setattr(owner, method, WRAPPED[owner][method](host, original))
        checks[f"{name}: recognized"] = hosts.family(host, model) == name
        checks[f"{name}: off"] = equal(given(model, EMPHASIS), plain[EMPHASIS])
        expected, px = Expected(thin, model), prefix(thin)
        agreed = expected(None, [(PROMPTS[0], 1.0)])
        checks[f"{name}: transformers agrees"] = same(plain[PROMPTS[0]], agreed)
        for at, text in enumerate(PROMPTS):
            got = given(model, text, px)
            checks[f"{name}: on, {at}"] = same(got, expected(px, [(text, 1.0)]))
        parts = [(EMPHASIS, 1.0)] if name == "ERNIE" else WEIGHTED
        checks[f"{name}: emphasis"] = same(given(model, EMPHASIS, px), expected(px, parts))
        if name == "Flux.1":
            clip, text = model.text_processing_engine_l, PROMPTS[0]
            got = given(model, text, px)["vector"]
            checks[f"{name}: pooled"] = torch.allclose(got, expected.pooled(clip, px, text)[0])
        for text in ("", " "):
            checks[f"{name}: blank {text!r}"] = equal(given(model, text, px), plain[text])
        marks = next(one for one in TABLE if one.name == name).controls.split()
        for mark in ("</s>", "<|im_start|>", "<end_of_turn>"):
            if mark in marks:
                asked = model, f"a man {mark} b", px
                checks[f"{name}: spelled {mark}"] = refused("spells out", *asked) is True
        other = prefix(thin, family="Krea 2" if name == "Z-Image" else "Z-Image")
        checks[f"{name}: other family"] = refused("learned through", model, "a", other) is True
        for method in ("tokenize", "tokenize_line", "process_tokens"):
            owner = type(getattr(model, thin.attribute))
            kept = getattr(owner, method)
            setattr(owner, method, kept.__wrapped__)
            asked = model, "a photo of Ada", px
            checks[f"{name}: {method} replaced"] = refused("another extension", *asked) is True
            setattr(owner, method, kept)
        checks.update(gated(thin, model, expected, px))
        checks[f"{name}: off again"] = equal(given(model, EMPHASIS), plain[EMPHASIS])
print(json.dumps(checks))
