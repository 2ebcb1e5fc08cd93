"""A small byte-pair vocabulary of the world, in the two files that CLIP's tokenizer reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

_SUFFIX = "</w>"


def write_vocabulary(texts: Iterable[str], merges: int, folder: Path) -> None:
    """Learn `merges` byte-pair merges from texts; write vocab.json and merges.txt as CLIP does.

    The vocabulary is laid out like CLIP's: 256 bytes, 256 word-final bytes, the merges, BOS, EOS.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_SUFFIX, continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix=_SUFFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pairs = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]][:merges]
    tokens = alphabet + [a + _SUFFIX for a in alphabet] + ["".join(pair) for pair in pairs]
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_vocabulary(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer over the vocabulary in `folder`."""
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
