"""What was ordered on the page: kept in the run's folder, where the worker finds it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from apl_core.atomic import reason, write_text
from apl_core.errors import RunError
from apl_core.metadata import printable

from ..run_paths import recalled, remembered
from ..settings import parse_json

Kind = Literal["pocket", "checkpoint"]
FILE = "order.json"
SETTINGS = "wanted.toml"
"""Settings as they were typed on the page, over those of the preset."""


@dataclass(frozen=True)
class RunRequest:
    """A model, the names to learn from (None: the model's own), and a preset's key.

    `look`: on a checkpoint, somebody wants to see the pictures before they are learned from.
    `pieces`: the model is a transformer's file, to be made whole with these (text encoders, VAE and
    tokenizer), in a folder inside of `into`.
    """

    kind: Kind
    model: str
    names: tuple[str, ...] | None
    preset: str
    look: bool = False
    pieces: tuple[str, ...] | None = None
    into: str = ""

    def save(self, folder: Path, settings: str) -> None:
        """Write the order and the typed settings into a folder, made if needed; RunError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / SETTINGS, settings)
            data = remembered(asdict(self), ("model",), folder)
            write_text(folder / FILE, json.dumps(data, ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise RunError(f"begin a run in {folder}", *reason(error)) from error

    @staticmethod
    def of(folder: Path) -> RunRequest:
        """Read an order; RunError if there is none or it is broken.

        A run that the command line began has `origin.json` instead, with model and names in it.
        """
        try:
            path = folder / FILE
            data = parse_json((path if path.is_file() else folder / "origin.json").read_bytes())
            said = recalled(data, ("model", "checkpoint"), folder)
            names = None if said["names"] is None else tuple(str(n) for n in said["names"])
            model = str(said["model"] if "model" in said else said["checkpoint"])
            pocket = (Path(model) / "world.json").is_file()
            preset = str(said.get("preset", "standard"))
            look = said.get("look") is True and not pocket
            pieces = None if said.get("pieces") is None else tuple(map(str, said["pieces"]))
            kind = "pocket" if pocket else "checkpoint"
            into = str(said.get("into", ""))
            return RunRequest(kind, model, names, preset, look, pieces, into)
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = printable(str(error), 80)
            raise RunError(
                f"go on with {folder}",
                f"neither {FILE} nor origin.json can be read ({said})",
                f"go on with it on the command line: apl resume {folder}",
            ) from error
