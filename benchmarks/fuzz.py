"""`apl bench fuzz`: broken files of every kind that this project reads, against limits.

Every file has to end in a value or in one of our errors, within 50 ms of processor time and 64 MiB.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from apl_core.atomic import write_text
from apl_core.errors import AplError
from apl_core.formats import inspect_file, read_prefix
from apl_core.library import Library
from apl_core.metadata import from_metadata, to_metadata
from apl_core.names import MAX_DEPTH
from apl_core.prefix import WIDTHS, Rows
from apl_core.tokens import MAX_ROWS
from apl_core.training.callbacks import ValidationResult
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.progress import Progress
from apl_trainer import metadata_jsonl
from apl_trainer.checkpoints.detect import detect
from apl_trainer.checkpoints.embedding_tables import read_tables
from apl_trainer.checkpoints.train import CheckpointOrigin
from apl_trainer.checkpoints.training_data import read_data
from apl_trainer.data import descriptions_csv
from apl_trainer.data.generate import GeneratedIndex, sha256_of
from apl_trainer.models.textual_inversion import read_pickle
from apl_trainer.names import read_names
from apl_trainer.pocket.train import PocketOrigin
from apl_trainer.settings import read_toml
from apl_trainer.ui import markup, run_status
from apl_trainer.ui.run_request import RunRequest

from .broken import (
    FILE_WAYS,
    JSON_WAYS,
    PREFIX_WAYS,
    STATE_WAYS,
    TEXT_WAYS,
    Way,
    broken_file,
    broken_metadata,
    cut_or_grow,
    flip,
    noise,
)
from .samples import (
    CARD,
    DATA,
    LIBRARY,
    MATERIAL,
    METRICS,
    NAMES,
    ORIGIN,
    PARTS,
    STATUS,
    TABLE,
    checkpoints,
    pickles,
    prefixes,
)

SECONDS = 0.05
"""Processor time that one file may take."""

BYTES = 64 * 2**20
"""Memory that one file may take beyond what the process has."""

_CONFIG = TrainConfig(num_vectors=2, num_suffix_vectors=1, batch_things=0)
_WIDTH = {"pocket": WIDTHS["pocket"]}


@dataclass(frozen=True)
class FileKind:
    """One kind of file: where it lies in a folder, valid ones, ways to break them, its reader."""

    name: str
    file: str
    samples: Sequence[bytes]
    ways: Sequence[Way]
    read: Callable[[Path], object]
    share: int

    def bytes(self, number: int) -> bytes:
        """Broken file `number`."""
        return broken_file(number, self.samples, self.ways)


@dataclass(frozen=True)
class Tried:
    """What one file did: usable or refused, its costs, and what should not have been."""

    usable: bool
    seconds: float
    peak: int | None
    failure: str = ""


def try_file(kind: FileKind, number: int, folder: Path) -> Tried:
    """Read broken file `number` of a kind; all but a value or our error is a failure."""
    path = folder / kind.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(kind.bytes(number))
    usable, failure = False, ""
    before = _resident(reset=True)
    began = time.thread_time()
    try:
        kind.read(path)
        usable = True
    except AplError as error:
        if not (error.asked and error.found and error.fix and _printable(str(error))):
            failure = f"an error without its three parts, or unprintable: {error!r}"
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    seconds = time.thread_time() - began
    after = _resident()
    peak = None if before is None or after is None else max(0, after[0] - before[1])
    return Tried(usable, seconds, peak, failure)


def within(kind: FileKind, number: int, folder: Path, tried: Tried) -> Tried:
    """`tried`, or a failure where the file breaks a limit three times in a row."""
    for _ in range(2):
        if tried.failure or (tried.seconds <= SECONDS and (tried.peak or 0) <= BYTES):
            return tried
        again = try_file(kind, number, folder)
        peak = None if tried.peak is None else min(tried.peak, again.peak or 0)
        tried = replace(again, seconds=min(tried.seconds, again.seconds), peak=peak)
    if (tried.peak or 0) > BYTES:
        return replace(tried, failure=f"{(tried.peak or 0) / 2**20:.0f} MiB of memory")
    if tried.seconds > SECONDS:
        return replace(tried, failure=f"{1000 * tried.seconds:.0f} ms of processor time")
    return tried


def run(out: Path, files: int, seed: int, say: Callable[[str], None]) -> dict[str, float]:
    """Figures of `files` broken files shared out among all kinds, written to `figures.json`.

    Files that made a failure are kept in `out/failures`. `seed` chooses other files. Peak memory is
    measured where the system tells it (Linux).
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apl-fuzz-") as place:
        folder = Path(place)
        every = kinds(folder)
        whole = sum(kind.share for kind in every)
        figures: dict[str, float] = {}
        for kind in every:
            count = max(1, files * kind.share // whole)
            figures |= _kind_figures(kind, range(seed, seed + count), folder, out / "failures")
            said = ", ".join(
                f"{key.split('.')[1]} {value:.4g}"
                for key, value in figures.items()
                if key.startswith(f"{kind.name}.")
            )
            say(f"{kind.name}: {said}")
    for key in ("files", "usable", "refused", "failures"):
        figures[f"all.{key}"] = sum(v for k, v in figures.items() if k.endswith(f".{key}"))
    for key in ("worst_ms", "worst_mib"):
        known = [v for k, v in figures.items() if k.endswith(f".{key}")]
        figures |= {f"all.{key}": max(known)} if known else {}
    write_text(out / "figures.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def kinds(folder: Path) -> list[FileKind]:
    """All kinds of files; `folder` is where their readers look for them."""
    run_folder = RunFolder(folder)
    return [
        FileKind("prefix", "x.safetensors", prefixes(), PREFIX_WAYS, read_any_prefix, 40),
        FileKind("metadata", "metadata.json", (_metadata(),), (_broken_flat,), _read_metadata, 12),
        FileKind("state", run_folder.state.name, (_state(),), STATE_WAYS, _read_state, 7),
        FileKind("metrics", run_folder.metrics.name, (METRICS,), JSON_WAYS, _read_metrics, 4),
        FileKind("origin", "origin.json", (ORIGIN, MATERIAL), JSON_WAYS, _read_origin, 4),
        FileKind("settings", "c.toml", (_CONFIG.to_toml().encode(),), TEXT_WAYS, _read_settings, 6),
        FileKind("library", "files.txt", (LIBRARY,), TEXT_WAYS, _read_library, 3),
        FileKind("names", "names.txt", (NAMES,), TEXT_WAYS, read_names, 4),
        FileKind("manifest", metadata_jsonl.FILE, (DATA,), JSON_WAYS, _read_manifest, 6),
        FileKind("table", descriptions_csv.FILE, (TABLE,), TEXT_WAYS, _read_table, 3),
        FileKind("parts", "parts/pictures-0.jsonl", (PARTS,), JSON_WAYS, _read_parts, 2),
        FileKind("status", run_status.STATUS, (STATUS,), JSON_WAYS, _read_status, 3),
        FileKind("checkpoint", "sd.safetensors", checkpoints(), FILE_WAYS, _read_checkpoint, 6),
        FileKind("pickle", "x.pt", pickles(), (flip, cut_or_grow, noise), _read_pickle, 3),
    ]


def read_any_prefix(path: Path) -> None:
    """Read and inspect a prefix file; AssertionError if what comes is not a sound prefix."""
    try:
        prefix = read_prefix(path)
        assert 1 <= prefix.n <= MAX_ROWS and 0 <= prefix.behind <= prefix.n
        for key, rows in prefix.vectors.items():
            assert rows.shape == (prefix.n, WIDTHS[key]) and rows.dtype == torch.float32
            assert bool(torch.isfinite(rows).all())
    finally:
        assert _printable(inspect_file(path).text())


def _kind_figures(kind: FileKind, numbers: range, folder: Path, failures: Path) -> dict[str, float]:
    for number in range(20):  # what is imported or cached on first use is nobody's cost
        try_file(kind, number, folder)
    gc.collect()
    tried: list[Tried] = []
    for number in numbers:
        one = within(kind, number, folder, try_file(kind, number, folder))
        if one.failure:
            failures.mkdir(parents=True, exist_ok=True)
            (failures / f"{kind.name}-{number}.bin").write_bytes(kind.bytes(number))
            write_text(failures / f"{kind.name}-{number}.txt", one.failure[:2000] + "\n")
        tried.append(one)
    peaks = [one.peak for one in tried if one.peak is not None]
    figures: dict[str, float] = {
        "files": len(tried),
        "usable": sum(one.usable for one in tried),
        "refused": sum(not one.usable and not one.failure for one in tried),
        "failures": sum(bool(one.failure) for one in tried),
        "worst_ms": 1000 * max(one.seconds for one in tried),
    }
    if peaks:
        figures["worst_mib"] = max(peaks) / 2**20
    return {f"{kind.name}.{key}": float(value) for key, value in figures.items()}


def _resident(reset: bool = False) -> tuple[int, int] | None:
    """(peak since the last reset, now) of this process's memory in bytes; None if unknown."""
    try:
        if reset:
            _give_back()
            with open("/proc/self/clear_refs", "w") as stream:
                stream.write("5")
        with open("/proc/self/status") as stream:
            said = dict(line.split(":", 1) for line in stream if line.startswith("Vm"))
        return tuple(1024 * int(said[key].split()[0]) for key in ("VmHWM", "VmRSS"))  # pyright: ignore
    except (OSError, KeyError, ValueError):
        return None


def _give_back() -> None:
    """Let the C library return what it has freed: memory that it keeps would cost nothing twice."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not every system has it
        ctypes.CDLL(None).malloc_trim(0)


def _printable(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c)[0] != "C" for c in text)


def _metadata() -> bytes:
    flat = to_metadata(CARD, keys=("pocket",), behind=1, tensors_sha256="0" * 64)
    return json.dumps(flat).encode()


def _broken_flat(rng: Any, valid: bytes) -> bytes:
    return json.dumps(broken_metadata(rng.randrange(2**60), json.loads(valid))).encode()


def _read_metadata(path: Path) -> None:
    from_metadata(json.loads(path.read_text(encoding="utf-8")))


def _state() -> bytes:
    """A state of a run of two vectors after one step of Adam."""
    rows = Rows({"pocket": torch.ones(2, 128)}, 1)
    progress = Progress.begin(rows, _CONFIG, torch.device("cpu"))
    for leaf in progress.rows.vectors.values():
        leaf.grad = torch.ones_like(leaf)
    progress.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    progress.step = 1
    progress.validated(ValidationResult(0.5, {"identity": 0.5}, (0.25, 0.25)))
    with tempfile.TemporaryDirectory() as folder:
        saved = RunFolder(Path(folder))
        saved.save_state(progress.state())
        return saved.state.read_bytes()


def _read_state(path: Path) -> None:
    found = RunFolder(path.parent).load_state()
    if found is not None:
        Progress.resumed(found[0], _CONFIG, _WIDTH, torch.device("cpu"))


def _read_metrics(path: Path) -> None:
    folder = RunFolder(path.parent)
    run = run_status.RunStatus(path.parent, "working", "learning", steps=8)
    run_status.seconds_left(run, run_status.rows(path.parent))
    markup.charts(run)
    folder.cut_log(2)
    folder.rows()


def _read_origin(path: Path) -> None:
    folder = RunFolder(path.parent)
    RunRequest.of(folder.path)
    if CheckpointOrigin.of(folder) is None:
        PocketOrigin.of(folder)


def _read_manifest(path: Path) -> None:
    (path.parent / "a.png").touch()
    (path.parent / "b.png").touch()
    _all_of(
        lambda: read_data(path.parent, _CONFIG), lambda: metadata_jsonl.read_metadata(path.parent)
    )


def _read_table(path: Path) -> None:
    known = descriptions_csv.DescriptionRow("Ada Lind", "train", "a person", {}, 2, 0.9)
    descriptions_csv.update(path.parent, [known])


_OLD_TABLE = b"name,description\nAda Lind,an old woman\n"
"""As it was written beside `voted.json`."""


def _read_parts(path: Path) -> None:
    generated = GeneratedIndex(path.parent.parent)
    for row in generated.rows.values():
        sha256_of(generated.folder / row.file)
    (path.parent / "voted.json").write_bytes(path.read_bytes())
    (path.parent.parent / descriptions_csv.FILE).write_bytes(_OLD_TABLE)
    _read_table(path.parent.parent / descriptions_csv.FILE)


def _read_status(path: Path) -> None:
    (path.parent / "figures.json").write_bytes(path.read_bytes())
    (path.parent / "prefix.safetensors").touch()
    run = run_status.read_run(path.parent)
    markup.status(run)
    markup.results(replace(run, state="done"), None)


def _read_checkpoint(path: Path) -> None:
    _all_of(lambda: detect(path), lambda: read_tables(path))


def _all_of(*reads: Callable[[], object]) -> None:
    """Call every reader, also after one of our errors, which is raised at the end."""
    refused: list[AplError] = []
    for read in reads:
        try:
            read()
        except AplError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _read_library(path: Path) -> None:
    """Files of these names: every one is in the list or left out, and found by its own name."""
    folder = path.parent / "library"
    shutil.rmtree(folder, ignore_errors=True)
    asked = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:12]
    made: set[str] = set()
    for name in asked:
        file = folder / f"{name}.safetensors"
        with contextlib.suppress(OSError, ValueError):  # no name for a file on this system
            if file.parent.resolve().is_relative_to(folder.resolve()):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
                if file.is_file() and len(file.relative_to(folder).parts) <= MAX_DEPTH + 1:
                    made.add(str(file.resolve()))
    library = Library([folder])
    listed = {name: str(library.resolve(name)) for name in library.names()}
    assert len(listed) + len([f for f, _ in library.left_out() if f[-1] != "/"]) == len(made)
    assert len(set(listed.values())) == len(listed) and set(listed.values()) <= made
    _all_of(*(lambda name=name: _check_found(library, name, listed) for name in asked))


def _check_found(library: Library, name: str, listed: dict[str, str]) -> None:
    found = str(library.resolve(name))
    assert found in listed.values() and listed.get(name, found) == found


def _read_settings(path: Path) -> None:
    TrainConfig.from_mapping(read_toml(path))


def _read_pickle(path: Path) -> None:
    read_pickle(path)
