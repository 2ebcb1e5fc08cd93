"""CLIP's byte-pair vocabulary, found on this machine: no file of it is ever downloaded."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from apl_core.errors import AplError
from apl_core.metadata import printable

START, END = "<|startoftext|>", "<|endoftext|>"
_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
_PACKED = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49_152 - 256 - 2


def find_tokenizer(asked_for: Path | None, beside: Path) -> CLIPTokenizer:
    """CLIP's tokenizer from `asked_for`, from a checkpoint's own folder, or from open_clip.

    A folder holds vocab.json and merges.txt, itself or in `tokenizer/`. AplError says what is
    missing and where it comes from.
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
    packed = open_clip_file()
    if packed is None:
        raise AplError(
            "find CLIP's vocabulary",
            "a single checkpoint file brings none, and open_clip, which does, is not installed",
            "python -m pip install open_clip_torch, or give --tokenizer DIR with vocab.json and "
            "merges.txt (the `tokenizer` folder of any SD diffusers pipeline)",
        )
    with TemporaryDirectory() as folder:
        unpack(packed, Path(folder))
        return _read(Path(folder))


def open_clip_file() -> Path | None:
    """The vocabulary file that open_clip brings, looked up without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name(_PACKED)
    return path if path.is_file() else None


def unpack(packed: Path, folder: Path) -> None:
    """Write vocab.json and merges.txt from the packed list of merges, as CLIP numbers its tokens.

    256 bytes in the order printable first, the same at the end of a word, the merges, BOS, EOS.
    """
    lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : _MERGES + 1] if line.strip()]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    assert set(letters) == set(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges] + [START, END]
    numbers = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    written = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(written) + "\n", encoding="utf-8")


def _read(folder: Path) -> CLIPTokenizer:
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a broken vocabulary raises anything
        raise AplError(
            f"read the tokenizer in {printable(str(folder))}",
            printable(str(error), 120),
            "give a folder with the vocab.json and merges.txt of CLIP",
        ) from error
