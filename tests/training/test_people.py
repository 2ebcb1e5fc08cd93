"""Lists of names as every learner reads them."""

from __future__ import annotations

import logging

import pytest

from apl_core.errors import ConfigError
from apl_core.training.people import ListedPerson, kept_for_validation, people_in

TEXT = "\ufeff# people\r\nAda Lovelace = a woman with dark hair  # a comment\n\nBo\n"


def test_a_line_is_a_name_or_a_name_with_a_description() -> None:
    people = people_in(TEXT.removeprefix("\ufeff"))
    assert people == (ListedPerson("Ada Lovelace", "a woman with dark hair"), ListedPerson("Bo"))
    assert people_in("\n".join(person.line for person in people)) == people


def test_a_description_is_asked_for_where_it_is_the_target() -> None:
    with pytest.raises(ConfigError, match="'Bo' has no description"):
        people_in("Ada = a woman\nBo", described=True)
    with pytest.raises(ConfigError, match="no name"):
        people_in("= a woman")


def test_every_fault_comes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        people_in("Ada\nada\n???\nB\x00o", "read my names")
    assert len(caught.value.problems) == 3 and "read my names, line 3" in str(caught.value)


def test_a_name_inside_another_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        people_in("Ada\nAda Lovelace\nAdam")
    assert len(caplog.messages) == 1 and "Ada Lovelace" in caplog.messages[0]


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (4, 0), (5, 1), (8, 1), (16, 2), (100, 12)])
def test_an_eighth_is_kept_of_five_or_more(count: int, kept: int) -> None:
    people = [ListedPerson(f"name {i}") for i in range(count)]
    learned, validation = kept_for_validation(people)
    assert len(validation) == kept and [*validation, *learned] == people
