"""Pictures that a checkpoint draws itself, from nothing but names: the data of `--names`.

Nobody's photograph is needed: the target is a prediction of the frozen model. Without a face
filter and without descriptions; prompts below were written for this project.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from apl_core.atomic import reason
from apl_core.captions import Names
from apl_core.errors import AplError, ConfigError
from apl_core.example_kinds import Kind
from apl_core.training.parallel import Group
from apl_core.training.people import ListedPerson

from ..metadata_jsonl import CaptionedPicture, write_metadata
from ..report.sheet import to_image
from ..sampling import Request, Sampler

NEGATIVE = "blurry, deformed, disfigured, cropped, text, watermark"
TEMPLATES = (
    "a photo of {}",
    "a portrait of {}",
    "a close-up photo of the face of {}",
    "{} smiling at the camera",
    "{} in a street",
    "{} giving a speech",
    "{} sitting in a cafe",
    "a black and white photo of {}",
)
PEOPLE = (
    "a man with short dark hair",
    "a woman with long blonde hair",
    "an old man with a grey beard",
    "an old woman with glasses",
    "a young man with curly hair",
    "a young woman with red hair",
    "a bald man in a suit",
    "a woman with a headscarf",
    "a teenager with freckles",
    "a man with a moustache",
)
THINGS = (
    "a red bicycle leaning on a wall",
    "a bowl of oranges on a table",
    "a lighthouse by the sea",
    "a cat asleep on a sofa",
    "a mountain lake at dawn",
    "a wooden chair in an empty room",
    "a tram in a snowy street",
    "a field of sunflowers",
    "a steaming cup of tea",
    "an old stone bridge",
    "a sailing boat in the fog",
    "a shelf full of books",
    "a dog running on a beach",
    "a plate of pasta",
    "a forest path in autumn",
    "a city at night",
)
LEAST_NAMES = 4


def jobs(people: Sequence[ListedPerson], per_name: int, seed: int) -> list[CaptionedPicture]:
    """What is drawn for a list of names, and as many people without a name and things each."""
    names = [person.name for person in people]
    if len(names) < LEAST_NAMES:
        raise ConfigError(
            "learn from names",
            f"there {'is' if len(names) == 1 else 'are'} {len(names)}",
            f"give {LEAST_NAMES} or more; the more, the better it holds for others",
        )
    found: list[CaptionedPicture] = []

    def add(kind: Kind, text: str, name: str = "", neutral: str = "") -> None:
        number = len(found)
        file = f"{kind}-{number:05d}.png"
        found.append(CaptionedPicture(file, text, kind, name, neutral, seed + number))

    for person, number in itertools.product(people, range(per_name)):
        template, described = TEMPLATES[number % len(TEMPLATES)], person.description
        neutral = template.format(described) if described else ""
        add("identity", template.format(person.name), person.name, neutral)
    nobody, things = (_naming_nobody(prompts, names) for prompts in (PEOPLE, THINGS))
    for number in range(len(found)):
        who, how = nobody[number % len(nobody)], TEMPLATES[number // len(nobody) % len(TEMPLATES)]
        add("people", how.format(who))
        add("things", f"a photo of {things[number % len(things)]}")
    return found


def _naming_nobody(prompts: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """Those without a name that is a word of theirs as well; all if none is left."""
    everybody = Names(names)
    return [prompt for prompt in prompts if not everybody.find(prompt)] or prompts


def draw_data(
    sampler: Sampler,
    work: Sequence[CaptionedPicture],
    folder: Path,
    progress: Callable[[str, int, int], None],
    group: Group,
) -> None:
    """Draw the pictures that are not there yet and write `metadata.jsonl`; AplError on a bad disk.

    Killed and called again it goes on; several processes share the work.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = [
            work[i] for i in group.share(len(work)) if not (folder / work[i].file_name).is_file()
        ]
        done = 0
        for start in range(0, len(mine), sampler.batch):
            part = mine[start : start + sampler.batch]
            requests = [Request(row.text, row.seed or 0, NEGATIVE) for row in part]
            for row, picture in zip(part, sampler.draw(requests, None), strict=True):
                unfinished = folder / f"{row.file_name}.part"
                to_image(picture).save(unfinished, "PNG")
                unfinished.replace(folder / row.file_name)
            done += len(part)
            progress("pictures", done, len(mine))
        if group.rank == 0:
            write_metadata(folder, work)
    except OSError as error:
        raise AplError(f"write pictures into {folder}", *reason(error)) from error
