"""Pictures that a checkpoint draws itself, from nothing but names: the data of `--names`.

Nobody's photograph is needed: the target is a prediction of the frozen model. Without a face
filter and without descriptions; prompts below were written for this project.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apl_core.atomic import reason, write_text
from apl_core.captions import Names
from apl_core.errors import AplError, ConfigError
from apl_core.training.parallel import Group

from ..report.sheet import to_image
from ..sampling import Request, Sampler
from .training_data import METADATA

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


@dataclass(frozen=True)
class Job:
    """One picture to draw and the row that it becomes."""

    file: str
    seed: int
    row: dict[str, str]


def jobs(names: Sequence[str], per_name: int, seed: int) -> list[Job]:
    """What is drawn for a list of names, and as many people without a name and things each."""
    if len(names) < LEAST_NAMES:
        raise ConfigError(
            "learn from names",
            f"there {'is' if len(names) == 1 else 'are'} {len(names)}",
            f"give {LEAST_NAMES} or more; the more, the better it holds for others",
        )
    found: list[Job] = []

    def add(row: dict[str, str]) -> None:
        number = len(found)
        found.append(Job(f"{row['kind']}-{number:05d}.png", seed + number, row))

    for name, number in itertools.product(names, range(per_name)):
        template = TEMPLATES[number % len(TEMPLATES)]
        add({"kind": "identity", "name": name, "text": template.format(name)})
    people, things = (_naming_nobody(prompts, names) for prompts in (PEOPLE, THINGS))
    for number in range(len(found)):
        who, how = people[number % len(people)], TEMPLATES[number // len(people) % len(TEMPLATES)]
        add({"kind": "people", "text": how.format(who)})
        add({"kind": "things", "text": f"a photo of {things[number % len(things)]}"})
    return found


def _naming_nobody(prompts: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """Those without a name that is a word of theirs as well; all if none is left."""
    everybody = Names(names)
    return [prompt for prompt in prompts if not everybody.find(prompt)] or prompts


def draw_data(
    sampler: Sampler,
    work: Sequence[Job],
    folder: Path,
    progress: Callable[[str, int, int], None],
    group: Group,
) -> None:
    """Draw the pictures that are not there yet and write `metadata.jsonl`; AplError on a bad disk.

    Killed and called again it goes on; several processes share the work.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = [work[i] for i in group.share(len(work)) if not (folder / work[i].file).is_file()]
        done = 0
        for start in range(0, len(mine), sampler.batch):
            part = mine[start : start + sampler.batch]
            requests = [Request(job.row["text"], job.seed, NEGATIVE) for job in part]
            for job, picture in zip(part, sampler.draw(requests, None), strict=True):
                unfinished = folder / f"{job.file}.part"
                to_image(picture).save(unfinished, "PNG")
                unfinished.replace(folder / job.file)
            done += len(part)
            progress("pictures", done, len(mine))
        lines = [json.dumps({"file_name": j.file, **j.row}, ensure_ascii=False) for j in work]
        if group.rank == 0:
            write_text(folder / METADATA, "\n".join(lines) + "\n")
    except OSError as error:
        raise AplError(f"write pictures into {folder}", *reason(error)) from error
