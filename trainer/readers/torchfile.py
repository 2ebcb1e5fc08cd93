"""Tensors out of torch's `.pth` files without unpickling them: nothing in the file can run.

The pickle inside is read as a list of instructions, of which only those are followed that build a
table of tensors; whatever else stands there ends the reading. Both of torch's layouts are known:
the zip of torch 1.6 and newer, and the one before it, in which storages follow the pickles.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from apl_core.errors import AplError
from apl_core.metadata import printable

MAX_BYTES = 2 * 1024**3

_DTYPES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch DoubleStorage": torch.float64,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_TABLE, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_PUSHED = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG",
    "INT",
    "BINFLOAT",
    "FLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "UNICODE",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()

Storage = tuple[torch.dtype, str, int]


class _Refused(ValueError):
    """The file holds something else than a table of tensors."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.pth` state dict by name, on the CPU; AplError if it is anything else."""
    asked = f"read the weights in {printable(str(path))}"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _Refused(f"it is larger than {MAX_BYTES:,} bytes")
        with path.open("rb") as stream:
            table = _zipped(stream) if zipfile.is_zipfile(stream) else _plain(stream)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        struct.error,
        zipfile.BadZipFile,
        RuntimeError,
        OverflowError,
    ) as error:
        found = f"it is no plain state dict of torch ({printable(str(error), 120)})"
        raise AplError(asked, found, "fetch it again with `apl fetch`") from error
    whole: Any = table
    if not isinstance(whole, dict) or not all(isinstance(v, Tensor) for v in table.values()):
        whole = {}
    if not whole:
        found = "it holds no table of tensors"
        raise AplError(asked, found, "give the file that `apl fetch` names")
    return {str(name): tensor for name, tensor in table.items()}


def _zipped(stream: BinaryIO) -> dict[str, Any]:
    with zipfile.ZipFile(stream) as parts:
        infos = parts.infolist()
        if any(i.compress_type != zipfile.ZIP_STORED or i.file_size > MAX_BYTES for i in infos):
            raise _Refused("its parts are packed")
        named = [i.filename for i in infos if i.filename.endswith("data.pkl")]
        if len(named) != 1:
            raise _Refused("there is no table in it")
        folder = named[0].removesuffix("data.pkl")

        def tensor(storage: Storage, *view: Any) -> Tensor:
            dtype, key, _ = storage
            return _view(_flat(kept(key), dtype), *view)

        loaded: dict[str, bytearray] = {}

        def kept(key: str) -> bytearray:
            if key not in loaded:
                loaded[key] = bytearray(parts.read(f"{folder}data/{key}"))
            return loaded[key]

        return _Machine(tensor).run(io.BytesIO(parts.read(named[0])))


def _plain(stream: BinaryIO) -> dict[str, Any]:
    stream.seek(0)
    magic, protocol, _ = (_Machine(_none).run(stream) for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise _Refused("it does not begin as torch's files do")
    promised: list[tuple[Storage, tuple[Any, ...]]] = []

    def tensor(storage: Storage, *view: Any) -> int:
        promised.append((storage, view))
        return len(promised) - 1

    table: dict[str, int] = _Machine(tensor).run(stream)
    keys: list[str] = _Machine(_none).run(stream)
    dtypes = {storage[1]: storage[0] for storage, _ in promised}
    flat: dict[str, Tensor] = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        size = count * torch.empty(0, dtype=dtypes[key]).element_size()
        data = bytearray(stream.read(size)) if 0 < size <= MAX_BYTES else bytearray()
        if len(data) != size:
            raise _Refused("it is cut off")
        flat[key] = _flat(data, dtypes[key])
    tensors = [_view(flat[storage[1]], *view) for storage, view in promised]
    return {name: tensors[place] for name, place in table.items()}


def _none(storage: Storage, *view: Any) -> None:
    raise _Refused("there is a tensor where none belongs")


def _flat(data: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _view(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """A piece of a storage as a tensor of its own, inside the storage's bounds."""
    if offset < 0 or min((0, *size, *stride)) < 0 or len(size) != len(stride):
        raise _Refused("a tensor has an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(flat) or (math.prod(size) and last >= len(flat)):
        raise _Refused("a tensor reaches beyond its storage")
    return flat.as_strided(size, stride, offset).clone()


class _Machine:
    """Follows the instructions of one pickle that build tables, lists, numbers and tensors."""

    def __init__(self, tensor: Callable[..., Any]) -> None:
        self.tensor = tensor
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        """What the pickle that begins here builds; the stream stands behind it afterwards."""
        for code, given, _ in pickletools.genops(stream):
            if code.name == "STOP":
                return self.stack.pop()
            self._follow(code.name, given)
        raise _Refused("it is cut off")

    def _follow(self, name: str, given: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _PUSHED:
            stack.append(given)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(given)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(given)])
        else:
            self._build(name, given)

    def _build(self, name: str, given: Any) -> None:
        stack = self.stack
        if name == "GLOBAL":
            stack.append(_Known(given))
        elif name == "STACK_GLOBAL":
            inner, module = stack.pop(), stack.pop()
            stack.append(_Known(f"{module} {inner}"))
        elif name == "BINPERSID":
            _, kind, key, _, count, *_ = stack.pop()
            stack.append((_DTYPES[kind.name], str(key), int(count)))
        elif name == "REDUCE":
            arguments, made = stack.pop(), stack.pop()
            stack.append(self._made(made, arguments))
        elif name == "BUILD":  # an OrderedDict's own attributes: versions of its modules
            stack.pop()
        elif name in ("SETITEM", "SETITEMS"):
            flat = self._marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            table: dict[Any, Any] = stack[-1]
            table.update(zip(flat[::2], flat[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        else:
            raise _Refused(f"the instruction {name} has no place in a table of tensors")

    def _made(self, made: Any, arguments: Any) -> Any:
        if isinstance(made, _Known) and made.name == _TABLE and arguments == ():
            return {}
        if isinstance(made, _Known) and made.name == _TENSOR:
            return self.tensor(*arguments[:4])
        raise _Refused("something would have to be called that is no tensor")

    def _marked(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items


class _Known:
    """One of the few names that may stand in such a file."""

    def __init__(self, name: str) -> None:
        if name not in (*_DTYPES, _TABLE, _TENSOR):
            raise _Refused(f"it names {printable(name, 60)}")
        self.name = name
