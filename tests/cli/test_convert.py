"""`apl convert` between our files, embeddings of other programs and the authors' pickles."""

import copy
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel
from written_files import cut, written

from apl_core.errors import AplError
from apl_core.formats import inspect_file, read_prefix
from apl_core.limits import FILE_BYTES
from apl_trainer.models.textual_inversion import read_pickle
from apl_trainer.pocket.vocabulary import read_vocabulary, write_vocabulary

Apl = Callable[..., tuple[int, str, str]]
ROWS = torch.arange(10 * 768, dtype=torch.float32).reshape(10, 768) / 7000


def authors_file(path: Path, **rows: Tensor) -> Path:
    """As the authors' `EmbeddingManager.save` does it: a ParameterDict inside a dict."""
    held = nn.ParameterDict({name: nn.Parameter(one) for name, one in rows.items()})
    tokens = {name: torch.tensor(345) for name in rows}
    torch.save({"string_to_token": tokens, "string_to_param": held}, path)
    return path


def test_the_authors_file_becomes_a_prefix_and_an_embedding_and_a_prefix(
    tmp_path: Path, apl: Apl
) -> None:
    source = authors_file(tmp_path / "APL-v1.1.pt", alz=ROWS)
    ours, plain, back = (tmp_path / f"{n}.safetensors" for n in ("ours", "plain", "back"))
    code, out, err = apl("convert", source, ours)
    assert (code, err) == (0, "") and "10 vectors for SD 1.x (clip_l 768)" in out
    got = read_prefix(ours)
    assert torch.equal(got.vectors["clip_l"], ROWS) and got.behind == 0
    assert got.card.title == "APL-v1.1" and inspect_file(ours).kind == "APL prefix"
    assert apl("convert", ours, plain, "--to", "embedding")[0] == 0
    assert inspect_file(plain).kind == "textual inversion"
    assert torch.equal(load_file(plain)["emb_params"], ROWS) and len(load_file(plain)) == 1
    assert apl("convert", plain, back)[0] == 0
    assert read_prefix(back).digest == got.digest and read_prefix(back).card.title == "APL-v1.1"


@pytest.mark.parametrize(
    "content",
    [
        {"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS}, "name": "x", "step": 9},
        {"<token>": ROWS},
        {"<token>": ROWS.half().double()},
    ],
)
def test_pickles_of_other_programs_are_read(
    tmp_path: Path, apl: Apl, content: dict[str, object]
) -> None:
    torch.save(content, tmp_path / "a.bin")
    assert apl("convert", tmp_path / "a.bin", tmp_path / "a.safetensors")[0] == 0
    rows = read_prefix(tmp_path / "a.safetensors").vectors["clip_l"]
    assert torch.allclose(rows, ROWS, atol=1e-3)


def test_one_vector_and_sd2_and_a_choice_of_placeholder(tmp_path: Path, apl: Apl) -> None:
    source = authors_file(tmp_path / "a.pt", one=torch.ones(1024), two=torch.zeros(3, 1024))
    out = tmp_path / "a.safetensors"
    assert "'one', 'two'" in apl("convert", source, out)[2]
    assert "'three'" in apl("convert", source, out, "--placeholder", "three")[2]
    assert "--key clip_h" in apl("convert", source, out, "--placeholder", "one")[2]
    assert not out.exists()
    assert apl("convert", source, out, "--placeholder", "one", "--key", "clip_h")[0] == 0
    assert torch.equal(read_prefix(out).vectors["clip_h"], torch.ones(1, 1024))


def test_a_bracket_is_never_made_an_embedding(tmp_path: Path, apl: Apl) -> None:
    file, new = written(tmp_path / "x.safetensors", "clip_l", behind=2), tmp_path / "y.safetensors"
    code, _, err = apl("convert", file, new, "--to", "embedding")
    assert code == 1 and "2 of its 5 vectors stand behind the text" in err and not new.exists()
    code, out, _ = apl("convert", file, new)
    assert code == 0 and "2 of them behind the text" in out
    assert read_prefix(new).digest == read_prefix(file).digest


def test_sdxl_and_names_for_diffusers(tmp_path: Path, apl: Apl) -> None:
    both, one = written(tmp_path / "b.safetensors", "clip_l", "clip_g"), tmp_path / "o.safetensors"
    new = tmp_path / "new.safetensors"
    assert apl("convert", both, new, "--to", "embedding")[0] == 0
    assert set(load_file(new)) == {"clip_l", "clip_g"}
    assert read_prefix(new).digest == read_prefix(both).digest
    written(one, "clip_l")
    named = tmp_path / "named.safetensors"
    assert apl("convert", one, named, "--to", "embedding", "--placeholder", "<apl>")[0] == 0
    assert set(load_file(named)) == {"<apl>"}
    for file, name in ((both, "<apl>"), (one, "clip_g"), (one, "__metadata__"), (one, "a\x07")):
        bad = tmp_path / "bad.safetensors"
        code, _, err = apl("convert", file, bad, "--to", "embedding", "--placeholder", name)
        assert code == 1 and "Fix:" in err and not bad.exists()


@pytest.mark.parametrize("name", [None, "<apl>"])
def test_diffusers_loads_an_embedding_that_was_converted(
    tmp_path: Path, apl: Apl, name: str | None
) -> None:
    ours, file = written(tmp_path / "ours.safetensors", "clip_l"), tmp_path / "e.safetensors"
    named = ["--placeholder", name] if name else []
    assert apl("convert", ours, file, "--to", "embedding", *named)[0] == 0
    write_vocabulary(["a photo of a man"] * 9, 9, tmp_path)

    class Pipeline(TextualInversionLoaderMixin):
        components: ClassVar[dict[str, object]] = {}
        hf_device_map = None
        tokenizer: Any = read_vocabulary(tmp_path)
        text_encoder: Any = CLIPTextModel(
            CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=768, num_hidden_layers=1)
        )

    pipeline = Pipeline()
    pipeline.load_textual_inversion(str(file), local_files_only=True)
    prompt = pipeline.maybe_convert_prompt(f"{name or 'emb_params'} man", Pipeline.tokenizer)
    ids = Pipeline.tokenizer(prompt, add_special_tokens=False).input_ids
    loaded = Pipeline.text_encoder.get_input_embeddings().weight[ids[:5]]
    assert torch.equal(loaded, read_prefix(ours).vectors["clip_l"])


def test_nothing_is_overwritten_and_only_safetensors_is_written(tmp_path: Path, apl: Apl) -> None:
    file = written(tmp_path / "x.safetensors", "clip_l")
    before = file.read_bytes()
    assert "already" in apl("convert", file, file)[2]
    assert "safetensors" in apl("convert", file, tmp_path / "x.pt")[2]
    assert "create the folder" in apl("convert", file, tmp_path / "none" / "x.safetensors")[2]
    assert "folder" in apl("convert", file, file / "x.safetensors", "--to", "embedding")[2]
    assert (
        "leave --key out" in apl("convert", file, tmp_path / "h.safetensors", "--key", "clip_h")[2]
    )
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [file.name]


L, G = torch.ones(4, 768), torch.full((4, 1280), 2.0)
PAIRS: dict[str, dict[str, Tensor]] = {
    "kohya": {"clip_g": G, "clip_l": L},
    "A1111": {"clip_l": L, "clip_g": G},
    "diffusers": {"text_encoders_0": L, "text_encoders_1": G},
    "exchanged": {"text_encoders_0": G, "text_encoders_1": L},
    "folders": {"text_encoder": L, "text_encoder_2": G},
    "tokens": {"<x>": L, "<x>_2": G},
    "half": {"clip_l": L.half(), "clip_g": G.bfloat16()},
    "one vector each": {"clip_l": L[0].clone(), "clip_g": G[:1].clone()},
}


@pytest.mark.parametrize("ending", ["pt", "bin", "safetensors"])
@pytest.mark.parametrize("spelling", PAIRS)
def test_both_halves_of_an_sdxl_embedding_are_read_however_they_are_called(
    tmp_path: Path, apl: Apl, spelling: str, ending: str
) -> None:
    held, file, new = PAIRS[spelling], tmp_path / f"x.{ending}", tmp_path / "new.safetensors"
    if ending == "safetensors":
        save_file(held, file)
    else:
        torch.save(held, file)
    for half in held:
        code, _, err = apl("convert", file, new, "--placeholder", half)
        assert code == 1 and "belong together" in err and "leave --placeholder out" in err
        assert not new.exists()
    code, out, _ = apl("convert", file, new)
    prefix = read_prefix(new)
    n = 1 if spelling.startswith("one") else 4
    assert code == 0 and f"{n} vectors for SDXL (clip_l 768 + clip_g 1280)" in out
    assert torch.equal(prefix.vectors["clip_l"], L[:n])
    assert torch.equal(prefix.vectors["clip_g"], G[:n])


NESTED: dict[str, object] = {
    "inside": {"string_to_param": {"clip_l": L, "clip_g": G}, "name": "x"},
    "a list": [{"clip_l": L, "clip_g": G}],
    "a list of tokens": [{"clip_l": L[:1], "clip_g": G[:1]}, {"clip_l": L[1:], "clip_g": G[1:]}],
    "parameters": {"clip_l": nn.Parameter(L), "clip_g": nn.Parameter(G), "step": 3},
}


@pytest.mark.parametrize("layout", NESTED)
def test_both_halves_are_read_wherever_they_lie_in_a_pt(
    tmp_path: Path, apl: Apl, layout: str
) -> None:
    torch.save(NESTED[layout], tmp_path / "x.pt")
    assert apl("convert", tmp_path / "x.pt", tmp_path / "x.safetensors")[0] == 0
    prefix = read_prefix(tmp_path / "x.safetensors")
    assert torch.equal(prefix.vectors["clip_l"], L) and torch.equal(prefix.vectors["clip_g"], G)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_several_tokens_are_joined_by_their_numbers_or_chosen(
    tmp_path: Path, apl: Apl, ending: str
) -> None:
    save = save_file if ending == "safetensors" else torch.save
    new = tmp_path / "new.safetensors"
    for names in (("<s0>", "<s1>"), ("<s1>", "<s2>"), ("x", "x_1"), ("<x>", "<x>_1")):
        file = tmp_path / f"joined.{ending}"
        save({names[1]: ROWS[4:6].clone(), names[0]: ROWS[0].clone()}, file)
        assert apl("convert", file, new)[0] == 0
        assert torch.equal(read_prefix(new).vectors["clip_l"], ROWS[[0, 4, 5]])
        new.unlink()
    for names in (("<cat>", "<dog>"), ("<s0>", "<s2>"), ("<s7>", "<s8>"), ("<a0>", "<b1>")):
        file = tmp_path / f"different.{ending}"
        save({names[0]: ROWS[:1].clone(), names[1]: ROWS[4:6].clone()}, file)
        code, _, err = apl("convert", file, new)
        assert code == 1 and f"'{names[0]}', '{names[1]}'" in err and "--placeholder NAME" in err
        assert "none is called" in apl("convert", file, new, "--placeholder", "<x>")[2]
        assert not new.exists()
        for to in ("prefix", "embedding"):
            assert apl("convert", file, new, "--placeholder", names[1], "--to", to)[0] == 0
            assert torch.equal(read_prefix(new).vectors["clip_l"], ROWS[4:6])
            new.unlink()


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo ran > ran",)


def repacked(path: Path) -> None:
    source = authors_file(path.with_name("source.pt"), alz=ROWS)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))


def folded(path: Path) -> None:
    """A small file whose directory names one stored part again and again."""
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("x/data/0", bytes(FILE_BYTES // 8))
        for number in range(1, 9):
            again = copy.copy(new.filelist[0])
            again.filename = f"x/data/{number}"
            new.filelist.append(again)


def tensor_file(rows: object) -> Callable[[Path], object]:
    return lambda path: torch.save({"string_to_param": {"*": rows}}, path)


PICKLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "code in a torch file": (tensor_file(_Evil()), "torch refuses"),
    "code in a plain pickle": (lambda p: p.write_bytes(pickle.dumps(_Evil())), "not a torch file"),
    "truncated": (lambda p: cut(authors_file(p, alz=ROWS)), "not a torch file|refuses"),
    "old torch": (
        lambda p: torch.save({"a": ROWS}, p, _use_new_zipfile_serialization=False),
        "torch 1.6",
    ),
    "packed": (repacked, "packed"),
    "folded": (folded, "larger than the file"),
    "oversized": (tensor_file(torch.zeros(FILE_BYTES // 4)), "larger than"),
    "a checkpoint": (lambda p: torch.save({"state_dict": {"a": ROWS}}, p), "no vectors"),
    "a list": (lambda p: torch.save([ROWS], p), "no vectors"),
    "width": (tensor_file(torch.zeros(2, 700)), "2x700"),
    "cube": (tensor_file(torch.zeros(2, 2, 768)), "2x2x768"),
    "half of SDXL": (tensor_file(torch.zeros(2, 1280)), "one half of an SDXL.*choose another file"),
    "scalar": (tensor_file(torch.zeros(())), "a scalar"),
    "none": (tensor_file(torch.zeros(0, 768)), "0 vectors"),
    "too many": (tensor_file(torch.zeros(75, 768)), "75 vectors: a chunk has 75 places"),
    "too many, of no size": (tensor_file(torch.zeros(1, 768).expand(10**9, 768)), "1000000000 vec"),
    "of no size": (tensor_file(torch.zeros(1).expand(10**6, 10**6)), "1000000x1000000"),
    "an output part": (
        lambda p: torch.save({"clip_l": ROWS, "clip_l_out": ROWS}, p),
        "clip_l_out.*behind the",
    ),
    "for Flux.1": (
        lambda p: torch.save({"clip_l": ROWS, "t5xxl": torch.ones(10, 4096)}, p),
        "it is for Flux.1 .*serve several families",
    ),
    "no such pair": (
        lambda p: torch.save({"a": ROWS, "b": torch.ones(10, 1024)}, p),
        "no model has together",
    ),
    "unequal halves": (
        lambda p: torch.save({"clip_l": ROWS, "clip_g": torch.ones(2, 1280)}, p),
        "different num",
    ),
    "a LoRA": (
        lambda p: torch.save({"lora_te_x.lora_down.weight": ROWS}, p),
        "this is a LoRA, not",
    ),
    "NaN": (tensor_file(torch.full((2, 768), torch.inf)), "not finite"),
    "whole numbers": (tensor_file(torch.ones(2, 768, dtype=torch.int64)), "int64"),
    "sparse": (tensor_file(torch.ones(2, 768).to_sparse()), "sparse"),
    "without data": (tensor_file(torch.ones(2, 768, device="meta")), "plain floats"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_bad_pickles_run_nothing_and_write_nothing(
    tmp_path: Path, apl: Apl, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = PICKLES[kind]
    make(tmp_path / "x.pt")
    code, out, err = apl("convert", "x.pt", "new.safetensors")
    assert code == 1 and out == "" and re.search(words, err) and "Fix:" in err
    assert not Path("new.safetensors").exists() and not Path("ran").exists()


def test_a_torch_that_cannot_open_pickles_safely_opens_none(
    tmp_path: Path, apl: Apl, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = authors_file(tmp_path / "x.pt", alz=ROWS)
    for version in ("2.9.1+cu128", "2.1.2", "1.13.1"):
        monkeypatch.setattr(torch, "__version__", version)
        code, _, err = apl("convert", source, tmp_path / "new.safetensors")
        assert code == 1 and version in err and 'pip install -U "torch>=2.10"' in err
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git")
    assert apl("convert", source, tmp_path / "new.safetensors")[0] == 0


@given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_pickles_end_in_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("pt")
    whole = authors_file(folder / "whole.pt", alz=ROWS)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(folder / "x.pt", "w") as new:
        for info in old.infolist():
            data = bytearray(old.read(info))
            if info.filename.endswith("data.pkl"):
                for place, value in changes:
                    data[place % len(data)] = value
            new.writestr(info.filename, bytes(data))
    try:
        assert read_pickle(folder / "x.pt", "clip_l").widths == {"clip_l": 768}
    except AplError as error:
        assert error.fix
