"""`apl bench settings`: the table of settings in docs/training.md, from their declaration."""

from __future__ import annotations

import json
from pathlib import Path

from apl_core.training.config import PAPER, SETTINGS, TrainConfig, allowed

from .house import write_between


def settings_table() -> str:
    """One line a setting, by group, with its default and what the paper's recipe has."""
    lines = ["| setting | default | `paper` | takes | |", "|---|---|---|---|---|"]
    for group in dict.fromkeys(f.metadata["group"] for f in SETTINGS.values()):
        lines.append(f"| **{group}** | | | | |")
        for name, declared in SETTINGS.items():
            if declared.metadata["group"] == group:
                values = (json.dumps(getattr(recipe, name)) for recipe in (TrainConfig(), PAPER))
                cells = (f"`{name}`", *values, allowed(declared), declared.metadata["help"])
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def run(root: Path) -> None:
    """Write the table into docs/training.md."""
    write_between(root / "docs" / "training.md", "settings", settings_table())
