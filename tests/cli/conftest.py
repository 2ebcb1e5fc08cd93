"""The command itself, run in this process."""

from collections.abc import Callable

import pytest

from apl_trainer.cli import main

Apl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def apl(capsys: pytest.CaptureFixture[str]) -> Apl:
    """`apl("inspect", file)` -> (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(one) for one in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
