"""`apl bench peers`: what a program took, what it said when it failed, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from apl_core.errors import AplError
from benchmarks.peers import PROGRAMS, Program, spend, table
from benchmarks.peers_materials import Materials

GIVEN = Materials(*(Path(name) for name in ("model", "plain", "data", "kohya", "words")))


def program(code: str, script: str = "") -> Program:
    def command(given: Materials, out: Path, steps: int, batch: int, size: int) -> Sequence[object]:
        return "-c", code, out, steps, batch, size

    return Program("a trainer", command, script, "venv/bin/python")


def test_the_most_that_a_program_held_is_told(tmp_path: Path) -> None:
    code = "import sys; held = b'x' * (100 * 2**20 * int(sys.argv[2])); print(len(held))"
    few, many = (spend(program(code), tmp_path, GIVEN, (n, 3, 64)) for n in (1, 5))
    assert 0.35 < many.gib - few.gib < 0.45 and few.seconds > 0


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    code = "import sys; print('no such flag:', sys.argv[2:]); sys.exit(3)"
    with pytest.raises(AplError, match=r"ended with 3: no such flag: \['2', '3', '64'\]"):
        spend(program(code), tmp_path, GIVEN, (2, 3, 64))


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    absent = program("", "sd-scripts/train.py")
    assert not absent.ready(tmp_path) and program("").ready(tmp_path)
    for one in ("sd-scripts/train.py", "venv/bin/python"):
        (tmp_path / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / one).touch()
    assert absent.ready(tmp_path)


def test_ratios_are_to_our_step() -> None:
    found = {
        name: {"seconds_per_sample": seconds, "peak_gib": 5.0, "batch": 3.0}
        for name, seconds in (("ours", 2.0), ("kohya", 3.0))
    }
    shown = table(found, 128)
    assert [row[3] for row in shown.rows] == ["1.00", "1.50"]
    assert [row[0] for row in shown.rows] == [PROGRAMS[n].title for n in found]
