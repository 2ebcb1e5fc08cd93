"""Tokenizers out of text encoders' files give the ids of sentencepiece and of Tekken's ranks."""

from __future__ import annotations

import base64
import io
import json
import random
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
import sentencepiece
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers.convert_slow_tokenizer import bytes_to_unicode

from apl_core.errors import AplError
from apl_trainer.checkpoints import tokenizer_inside as reading
from apl_trainer.checkpoints.import_texts import imported_text
from apl_trainer.checkpoints.tokenizer_inside import tokenizer_inside

CORPUS = Path(__file__).parents[2] / "docs"
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"]


def texts() -> list[str]:
    """Prose, its pieces joined at random, and what tokenizers stumble over."""
    words = (CORPUS / "training.md").read_text(encoding="utf-8").split(" ")
    rng = random.Random(3)
    found = [" ".join(rng.sample(words, rng.randint(1, 30))) for _ in range(200)]
    odd = [
        "",
        " ",
        "  two  blanks ",
        "a\n\nb\n",
        "Zoë Müller, 1987: 12345",
        "日本の人 🙂",
        "\ttab",
        "I'Ve",
    ]
    return [*found, *odd]


def data(value: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(value), dtype=torch.uint8)


@pytest.fixture(scope="module")
def gemma() -> bytes:
    """sentencepiece's model of a small vocabulary with the settings of Gemma's."""
    made = io.BytesIO()
    lines = (CORPUS / "training.md").read_text(encoding="utf-8").splitlines()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(lines),
        model_writer=made,
        vocab_size=900,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n\n", "▁▁"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return made.getvalue()


def tekken() -> bytes:
    """A vocabulary as Mistral writes it: bytes, and what they merge into, by rank."""
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    learned = Tokenizer(BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.train_from_iterator(texts(), trainer)
    merges = json.loads(learned.to_str())["model"]["merges"]
    as_byte = {letter: byte for byte, letter in bytes_to_unicode().items()}
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(as_byte[c] for c in "".join(pair)) for pair in merges]
    tokens = list(dict.fromkeys(tokens))
    vocabulary = [
        {"rank": i, "token_bytes": base64.b64encode(token).decode()}
        for i, token in enumerate(tokens)
    ]
    config = {"default_num_special_tokens": 10, "default_vocab_size": 10 + len(tokens) - 5}
    special = [{"rank": i, "token_str": mark} for i, mark in enumerate(SPECIAL)]
    return json.dumps({"config": config, "vocab": vocabulary, "special_tokens": special}).encode()


def ranked(text: str, ranks: Mapping[bytes, int]) -> list[int]:
    """Byte-pair encoding as tiktoken defines it, written plainly."""
    found: list[int] = []
    for word in regex.findall(reading._WORDS, text):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            joined = [(ranks.get(a + b, 10**9), i) for i, (a, b) in enumerate(pairwise(parts))]
            if not joined or min(joined)[0] == 10**9:
                break
            i = min(joined)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        found += [ranks[part] for part in parts]
    return found


def test_gemmas_pieces_are_sentencepieces(gemma: bytes, tmp_path: Path) -> None:
    made = tokenizer_inside(tmp_path / "x", {"spiece_model": data(gemma)})
    own: Any = sentencepiece.SentencePieceProcessor(model_proto=gemma)  # pyright: ignore[reportCallIssue]
    made.save_pretrained(tmp_path)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in texts():
        assert read(text, add_special_tokens=False).input_ids == own.encode(text), text
    assert read("a <end_of_turn>").input_ids[0] == 2 == read.bos_token_id
    turns = read.convert_tokens_to_ids(["<pad>", "<bos>", "<end_of_turn>"])
    assert read.pad_token_id == 0 and turns[2] in read.all_special_ids


def test_tekkens_ranks_are_merged_lowest_first(tmp_path: Path) -> None:
    given = tekken()
    made = tokenizer_inside(tmp_path / "x", {"tekken_model": data(given)})
    made.save_pretrained(tmp_path)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    said = json.loads(given)
    ranks = {base64.b64decode(one["token_bytes"]): one["rank"] + 10 for one in said["vocab"][:-5]}
    for text in texts():
        assert read(text, add_special_tokens=False).input_ids == ranked(text, ranks), text
    asked = read("[INST]who[/INST]").input_ids
    assert asked == [1, 3, *ranked("who", ranks), 4] and read.pad_token_id == 5
    assert {1, 3, 4} <= set(read.all_special_ids)


@pytest.mark.parametrize(("kind", "width", "head"), [("Gemma2", 2304, 256), ("Mistral", 5120, 128)])
def test_a_text_encoders_file_is_read_with_its_tokenizer(
    kind: str, width: int, head: int, gemma: bytes, tmp_path: Path
) -> None:
    made: Any = getattr(transformers, f"{kind}Config")(
        vocab_size=900,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=head,
        **({"rope_theta": 1e9, "rms_norm_eps": 1e-5} if kind == "Mistral" else {}),
    )
    model: Any = getattr(transformers, f"{kind}Model")(made)
    for parameter in model.parameters():
        parameter.data = parameter.bfloat16().float()
    weights = {f"model.{name}": value.bfloat16() for name, value in model.state_dict().items()}
    if kind == "Mistral":  # as the file for Flux.2: no norm behind the layers that are read
        del weights["model.norm.weight"]
    inside = {"spiece_model": data(gemma)} if kind == "Gemma2" else {"tekken_model": data(tekken())}
    save_file({**weights, **inside}, tmp_path / "x.safetensors")
    text = imported_text(tmp_path / "x.safetensors")
    text.model.save_pretrained(tmp_path / "text")
    read = transformers.AutoModel.from_pretrained(tmp_path / "text", dtype=torch.float32)
    ids = torch.tensor([text.tokenizer("a photo of Ann").input_ids])
    with torch.no_grad():
        mine, theirs = (one.eval()(ids, output_hidden_states=True) for one in (read, model))
    for own, wanted in zip(mine.hidden_states, theirs.hidden_states, strict=True):
        assert torch.equal(own, wanted)


def test_what_is_broken_or_missing_is_said(
    gemma: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tokenizer_inside(tmp_path / "x", {}) is None
    for name in ("spiece_model", "tekken_model"):
        with pytest.raises(AplError, match="download the file again"):
            tokenizer_inside(tmp_path / "x", {name: data(b"\x00not one")})
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setattr(
        "transformers.convert_slow_tokenizer.is_sentencepiece_available", lambda: True
    )
    with pytest.raises(AplError, match="pip install protobuf"):
        tokenizer_inside(tmp_path / "x", {"spiece_model": data(gemma)})
