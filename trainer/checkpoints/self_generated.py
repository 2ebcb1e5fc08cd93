"""Pictures that a checkpoint draws itself, from nothing but names: the data of `--names`.

Nobody's photograph is needed: the target is a prediction of the frozen model. Without a face
filter and without descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from apl_core.atomic import reason
from apl_core.errors import AplError
from apl_core.training.material import pictures_to_draw
from apl_core.training.parallel import Group
from apl_core.training.people import ListedPerson

from ..metadata_jsonl import CaptionedPicture, write_metadata
from ..report.sheet import to_image
from ..sampling import Request, Sampler

NEGATIVE = "blurry, deformed, disfigured, cropped, text, watermark"


def jobs(people: Sequence[ListedPerson], per_name: int, seed: int) -> list[CaptionedPicture]:
    """What is drawn for a list of names: rows of a dataset; ConfigError for too few names."""
    rows: list[CaptionedPicture] = []
    for number, picture in enumerate(pictures_to_draw(people, per_name, seed)):
        name, neutral = "", ""
        if picture.person is not None:
            name, described = picture.person.name, picture.person.description
            neutral = picture.frame.replace("{}", described) if described else ""
        file = f"{picture.kind}-{number:05d}.png"
        rows.append(
            CaptionedPicture(file, picture.text, picture.kind, name, neutral, seed + number)
        )
    return rows


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
