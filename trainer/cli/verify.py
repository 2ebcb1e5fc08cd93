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
        verbs,
        "verify",
        run,
        "try to get a picture past the prefix that a live server enforces",
        "apl verify --host comfyui http://127.0.0.1:8188 --trace trace.jsonl --key-file key.txt",
    )
    added.add_argument("url", metavar="URL", help="address of the server, http://HOST:PORT")
    added.add_argument(
        "--host",
        choices=("comfyui", "a1111", "forge", "reforge", "neo"),
        required=True,
        help="what it is",
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
        "--model-graph",
        type=Path,
        help="ComfyUI: draw with the loaders of this text-to-image graph, in API format, and not "
        "with a checkpoint",
    )
    added.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this request alone; repeatable"
    )
    added.add_argument(
        "--reference",
        metavar="URL",
        help="a second server with the same weights and without APL_ENFORCE, to compare pictures",
    )
    added.add_argument("--reference-login", default="", help="user:password of the reference")
    number = arguments.whole(0, 1_000_000)
    added.add_argument(
        "--generate", type=number, default=0, metavar="N", help="send N made-up requests as well"
    )
    added.add_argument(
        "--generate-seed", type=number, default=0, metavar="S", help="which made-up requests"
    )
    added.add_argument(
        "--timeout",
        type=arguments.decimal(1, 86400),
        default=300.0,
        help="seconds that one answer may take",
    )
    added.add_argument(
        "--keep",
        type=arguments.out_folder,
        metavar="FOLDER",
        help="write down what leaks, to repeat it",
    )
    added.add_argument("--side", type=_side, default=64, help="pixels of a picture's side")
    added.add_argument("--steps", type=arguments.whole(1, 150), default=2, help="sampling steps")
    added.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def _side(text: str) -> int:
    """Pixels of a side; half the usual least is enough for small models and busy machines."""
    return 32 if text == "32" else arguments.pixels(text)


def run(given: argparse.Namespace) -> int:
    """Run `verify`; 1 if there is a leak."""
    from tqdm import tqdm

    from ..verify.comfyui_parts import Parts
    from ..verify.proof import Proof, Verdict, counts, failures, table
    from ..verify.reference import Reference

    _check(given)
    graph = None if given.graph is None else _graph(given.graph)
    parts = None if given.model_graph is None else Parts.of(_graph(given.model_graph))
    server = _server(given, given.url, given.login, graph, parts)
    other = given.reference and _server(given, given.reference, given.reference_login, graph, parts)
    reference = Reference(other) if other else None
    proof = Proof(
        server, _reader(given), given.only, reference, given.generate, given.generate_seed
    )
    verdicts: list[Verdict] = []
    with tqdm(total=len(proof), unit="request", file=sys.stderr) as bar:
        for verdict in proof.run():
            bar.write(
                f"{verdict.case}: {verdict.result} {verdict.detail}".rstrip(), file=sys.stderr
            )
            bar.update()
            verdicts.append(verdict)
            if given.keep is not None and verdict.body:
                _keep(given.keep, verdict)
    found = failures(verdicts, proof.ended)
    if given.json:
        rows = [vars(one) for one in verdicts]
        said = {"verdicts": rows, "counts": counts(verdicts), "failures": found}
        print(json.dumps(said, indent=1))
    else:
        print(table(verdicts))
        print("\n" + "\n".join([*found, *_summary(verdicts, reference is not None)]))
    return 1 if found else 0


def _check(given: argparse.Namespace) -> None:
    if given.host != "comfyui":
        arguments.refuse_ignored(
            given,
            ("checkpoint", "graph", "model_graph"),
            f"{given.host} draws with the checkpoint that it has loaded and knows no graphs",
            "leave it out",
        )
    if given.model_graph is not None:
        arguments.refuse_ignored(
            given, ("checkpoint",), "the model is that of --model-graph", "give one of the two"
        )
    if given.reference is None:
        arguments.refuse_ignored(
            given,
            ("reference_login",),
            "the login belongs to a reference, and there is none",
            "give --reference URL as well",
        )
    if given.trace is None:
        arguments.refuse_ignored(
            given,
            ("key", "key_file"),
            "the key belongs to a trace, and there is none",
            "give --trace FILE as well, the file that the server's APL_TRACE names",
        )


def _server(given: argparse.Namespace, url: str, login: str, graph: Any, parts: Any) -> Any:
    from ..verify.a1111 import WebuiServer
    from ..verify.comfyui import ComfyServer
    from ..verify.http import Client

    client = Client(url, login, given.timeout)
    if given.host == "comfyui":
        return ComfyServer(client, given.checkpoint, graph, parts, given.side, given.steps)
    return WebuiServer(client, given.side, given.steps)


def _summary(verdicts: list[Any], compared: bool) -> list[str]:
    """The last lines: how many of each result, and what was not looked at."""
    from ..verify.proof import BLOCKED, LEAK, UNPROVEN, counts

    found = counts(verdicts)
    lines = [f"{sum(found.values())} requests: " + ", ".join(f"{n} {k}" for k, n in found.items())]
    if not any(kind in found for kind in (LEAK, BLOCKED)):
        lines.append("no leak seen" if UNPROVEN in found else "no leak")
    if any(one.bare is not None for one in verdicts):
        drawn = sum(bool(one.bare) for one in verdicts)
        lines.append(f"the reference drew {drawn} of them")
    if not compared:
        lines.append("pictures were not compared with bare ones: give --reference")
    if UNPROVEN in found:
        lines.append("without --trace and --reference nothing is proven")
    return lines


def _keep(folder: Path, verdict: Any) -> None:
    name = "".join(c if c.isalnum() else "_" for c in verdict.case)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(verdict.body, indent=1), encoding="utf-8")


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
            f"read the graph {path}",
            "it is not in ComfyUI's API format",
            "export it with Workflow > Export (API)",
        )
    return graph
