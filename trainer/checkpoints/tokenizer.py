"""CLIP's tokenizer: the one that is given, a checkpoint's own, or OpenAI's, which comes along."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from apl_core.errors import AplError
from apl_core.metadata import printable

VOCABULARY = Path(__file__).parents[1] / "models/clip_vocabulary/bpe_simple_vocab_16e6.txt.gz"
_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_MERGES = 49_152 - 256 - 2


def find_tokenizer(asked_for: Path | None, beside: Path) -> CLIPTokenizer:
    """CLIP's tokenizer from `asked_for`, from a checkpoint's own folder, or OpenAI's.

    A folder holds vocab.json and merges.txt, itself or in `tokenizer/`; AplError if one is broken.
    """
    places = [asked_for] if asked_for else [beside if beside.is_dir() else beside.parent]
    for folder in [place / part for place in places for part in ("", "tokenizer")]:
        if any(all((folder / name).is_file() for name in names) for names in _FILES):
            return _read(folder)
    if asked_for:
        raise AplError(
            f"read the tokenizer in {printable(str(asked_for))}",
            "vocab.json or merges.txt is missing",
            "give the `tokenizer` folder of any SD diffusers pipeline",
        )
    return openai_tokenizer()


@cache
def openai_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer of 49,408 tokens, which SD 1.x, SD 2.x and SDXL share."""
    with TemporaryDirectory() as folder:
        write_vocabulary(Path(folder))
        return _read(Path(folder))


def write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt from OpenAI's list of merges, numbered as CLIP does.

    256 bytes in the order printable first, the same at the end of a word, the merges, BOS, EOS.
    """
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    merges = [(line.split()[0], line.split()[1]) for line in lines[1 : _MERGES + 1]]
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    BPE(vocabulary, merges).save(str(folder))


def _read(folder: Path) -> CLIPTokenizer:
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a broken vocabulary raises anything
        raise AplError(
            f"read the tokenizer in {printable(str(folder))}",
            printable(str(error), 120),
            "give a folder with the vocab.json and merges.txt of CLIP",
        ) from error
