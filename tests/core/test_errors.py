"""Errors say what was asked, what was found, what to do."""

import pickle

import pytest

from apl_core import errors
from apl_core.errors import AplError, ConfigError, PrefixFileError


def test_one_readable_paragraph() -> None:
    error = AplError(asked="read a.txt", found="it is empty", fix="write something into it.")
    assert str(error) == "read a.txt: it is empty. Fix: write something into it."
    assert str(AplError("x:", "why?", "y;")) == "x: why? Fix: y."


@pytest.mark.parametrize(
    "kind", ["PrefixFileError", "FitError", "PromptError", "LibraryError", "RunError", "HostError"]
)
def test_children_survive_pickle(kind: str) -> None:
    error: AplError = getattr(errors, kind)("a", "b", "c")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and isinstance(again, AplError)
    assert (again.asked, again.found, again.fix) == ("a", "b", "c")


def test_all_config_problems_at_once() -> None:
    problems = [ConfigError(f"set {name}", "it is unknown", "remove it") for name in "ab"]
    error = ConfigError.of("read run.toml", problems)
    assert error.problems == tuple(problems)
    assert str(error) == (
        "read run.toml: 2 problems\n  - set a: it is unknown. Fix: remove it."
        "\n  - set b: it is unknown. Fix: remove it."
    )
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and len(again.problems) == 2


def test_one_config_problem_stands_for_itself() -> None:
    problem = ConfigError("set a", "it is unknown", "remove it")
    assert ConfigError.of("read run.toml", [problem]) is problem
    assert problem.problems == (problem,)
    assert pickle.loads(pickle.dumps(problem)).problems[0].asked == "set a"
    with pytest.raises(ValueError):
        ConfigError.of("read run.toml", [])
    assert not isinstance(problem, PrefixFileError)
