"""`apl ui`: the trainer's page."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import arguments
from .common import Verbs, verb


def add(verbs: Verbs) -> None:
    """Add `ui`."""
    ui = verb(
        verbs,
        "ui",
        run,
        "serve the trainer's page on this machine",
        "apl ui --models models/checkpoints --apl-dir ComfyUI/models/apl",
    )
    ui.add_argument("--runs", type=arguments.out_folder, default="runs", help="folder of the runs")
    ui.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of models that the page may offer; may be given more than once",
    )
    ui.add_argument(
        "--apl-dir",
        type=arguments.out_folder,
        default=None,
        metavar="DIR",
        help="where a host looks for prefixes: the page's button puts them there",
    )
    ui.add_argument(
        "--imports",
        type=arguments.out_folder,
        default=None,
        metavar="DIR",
        help="where folders are made of a model's files (transformer, text encoder and VAE apart); "
        "RUNS/models if not given",
    )
    ui.add_argument("--host", default="127.0.0.1", help="address to serve on")
    ui.add_argument("--port", type=arguments.whole(1, 65535), default=7862, help="port to serve on")


def run(given: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from apl_core.errors import ConfigError

    from ..ui.model_index import ModelIndex
    from ..ui.serve import serve

    for folder in given.models:
        if not folder.is_dir():
            raise ConfigError(
                f"offer the models in {folder}", "there is no such folder", "give a folder"
            )
    apl_dir = None if given.apl_dir is None else given.apl_dir.resolve()
    imports = None if given.imports is None else given.imports.resolve()
    index = ModelIndex(given.runs.resolve(), tuple(given.models), apl_dir, imports=imports)
    serve(index, given.host, given.port, print)
    return 0
