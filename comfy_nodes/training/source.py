"""What a node's texts and connected pictures teach."""

from __future__ import annotations

from collections.abc import Sequence

from apl_core.captions import Names, tells_of_people
from apl_core.example_kinds import PERSON, Kind, Target
from apl_core.training.material import Picture
from apl_core.training.people import ListedPerson


def read_lines(text: str) -> list[str]:
    """The lines that say something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def person_in(text: str, people: Sequence[ListedPerson]) -> ListedPerson | None:
    """Whose name stands in the text as whole words, if anybody's; the first one's of several."""
    found = Names(person.name for person in people).find(text)
    return next((one for one in people if found and one.name == found[0].name), None)


def kind_of(text: str, people: Sequence[ListedPerson]) -> Kind:
    """What a given picture shows, by its text: one of these people, somebody, or things."""
    if person_in(text, people):
        return "identity"
    return "people" if tells_of_people(text) else "things"


def given_picture(text: str, people: Sequence[ListedPerson], target: Target) -> Picture:
    """A connected picture, as its text tells of it: nobody of these people stands in `neutral`."""
    person, kind = person_in(text, people), kind_of(text, people)
    if person is None or target == "empty":
        return Picture(kind, text, person, own=True)
    words = {one.name: one.description if target == "description" else PERSON for one in people}
    return Picture(kind, text, person, Names(words).replaced(text, words), own=True)
