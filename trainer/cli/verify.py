"""`apl verify`: prove on a live server that no request gets past the enforced prefix."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from apl_core.errors import ConfigError, HostError
from apl_core.texts import read_text

from . import arguments
from .common import Verbs, verb


def add(verbs: Verbs) -> None:
    """Add `verify`."""
    added = verb(
        verbs, "verify", run, "try to get a picture past the prefix that a live server enforces",
        "apl verify --host comfyui http://127.0.0.1:8188 --trace trace.jsonl --key-file key.txt",
    )  # fmt: skip
    added.add_argument("url", metavar="URL", help="address of the server, http://HOST:PORT")
    added.add_argument(
        "--host", choices=("comfyui", "a1111", "forge"), required=True, help="what it is"
    )
    added.add_argument("--trace", type=Path, help="the file that the server's APL_TRACE names")
    secret = added.add_mutually_exclusive_group()
    secret.add_argument("--key-file", type=Path, help="file with the secret of APL_TRACE_KEY")
    secret.add_argument(
        "--key", help="the secret itself; others on this machine can see it (APL_TRACE_KEY)"
    )
    added.add_argument("--login", default="", help="user:password of A1111's --api-auth")
    added.add_argument("--checkpoint", default="", help="ComfyUI: the checkpoint to draw with")
    added.add_argument("--graph", type=Path, help="ComfyUI: one more graph, in API format")
    added.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this request alone; repeatable"
    )
    added.add_argument(
        "--side", type=arguments.pixels, default=64, help="pixels of a picture's side"
    )
    added.add_argument("--steps", type=arguments.whole(1, 150), default=2, help="sampling steps")
    added.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def run(given: argparse.Namespace) -> int:
    """Run `verify`; 1 if there is a hole."""
    from ..verify.a1111 import WebuiServer
    from ..verify.comfyui import ComfyServer
    from ..verify.http import Client
    from ..verify.proof import Server, Verdict, holes, table, verify

    _check(given)
    client = Client(given.url, given.login)
    server: Server
    if given.host == "comfyui":
        graph = None if given.graph is None else _graph(given.graph)
        server = ComfyServer(client, given.checkpoint, graph, given.side, given.steps)
    else:
        server = WebuiServer(client, given.side, given.steps)
    verdicts: list[Verdict] = []
    for verdict in verify(server, _reader(given), given.only):
        print(f"{verdict.case}: {verdict.result}", file=sys.stderr)
        verdicts.append(verdict)
    found = holes(verdicts)
    if given.json:
        rows = [vars(one) for one in verdicts]
        print(json.dumps({"verdicts": rows, "holes": found}, indent=1))
    else:
        print(table(verdicts))
        print("\n" + ("\n".join(found) if found else _summary(verdicts)))
    return 1 if found else 0


def _check(given: argparse.Namespace) -> None:
    if given.host != "comfyui":
        arguments.refuse_ignored(
            given, ("checkpoint", "graph"), f"{given.host} draws with the checkpoint that it has "
            "loaded and knows no graphs", "leave it out",
        )  # fmt: skip
    if given.trace is None:
        arguments.refuse_ignored(
            given, ("key", "key_file"), "the key belongs to a trace, and there is none",
            "give --trace FILE as well, the file that the server's APL_TRACE names",
        )  # fmt: skip


def _summary(verdicts: list[Any]) -> str:
    from ..verify.proof import COVERED, REFUSED, UNPROVEN

    counts = {kind: sum(one.result == kind for one in verdicts) for kind in (COVERED, REFUSED)}
    said = f"no hole: {counts[COVERED]} requests covered, {counts[REFUSED]} refused"
    if any(one.result == UNPROVEN for one in verdicts):
        return "no hole seen, and nothing proven: give --trace"
    return said


def _reader(given: argparse.Namespace) -> Any:
    import os

    from apl_core.trace import KEY, TraceReader, key_of

    if given.trace is None:
        return None
    try:
        text = given.key if given.key_file is None else read_text(given.key_file)
    except (OSError, ValueError) as error:
        raise ConfigError("read the key", str(error), "give a text file with the key") from error
    try:
        return TraceReader(given.trace, key_of(text or os.environ.get(KEY, "")))
    except HostError as error:
        raise ConfigError(error.asked, error.found, error.fix) from error


def _graph(path: Path) -> dict[str, Any]:
    try:
        graph = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"read the graph {path}", str(error), "give a readable file") from error
    nodes = graph.values() if isinstance(graph, dict) else [None]
    if not all(isinstance(node, dict) and "class_type" in node for node in nodes):
        raise ConfigError(
            f"read the graph {path}", "it is not in ComfyUI's API format",
            "export it with Workflow > Export (API)",
        )  # fmt: skip
    return graph
