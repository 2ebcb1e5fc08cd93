# pyright: reportMissingImports=false
"""The node that learns a prefix on the loaded model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.latest import io, ui
from PIL import Image

from apl_core.errors import ConfigError
from apl_core.example_kinds import Kind
from apl_core.prefix import Prefix
from apl_core.training.config import CHECKPOINT, SETTINGS, TrainConfig
from apl_core.training.people import ListedPerson, kept_for_validation, people_in

from .files import KIND
from .nodes_prefix import CATEGORY, PrefixType, connected
from .training.run import Job, Watcher, keep, new_folder, pictures_to_make, train
from .training.source import PEOPLE, THINGS, kind_of, nameless, read_lines

LOG = logging.getLogger("apl")
PREVIEW_SIDE = 512


class TrainPrefix(io.ComfyNode):
    """Learns a prefix for the connected model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="APL_TrainPrefix",
            display_name="APL Train Prefix",
            category=CATEGORY,
            description="Learns an anonymization prefix for this model. Makes its own pictures "
            "from the names if none are connected. Interrupting keeps what is learned so far.",
            is_input_list=True,
            is_output_node=True,
            is_experimental=True,
            inputs=[*_wires(), *_texts(), *_numbers()],
            outputs=[
                PrefixType.Output(
                    "trained_prefix",
                    display_name="prefix",
                    tooltip="The prefix; it is in models/apl as well, under the run's name.",
                ),
                io.Custom("LOSS_MAP").Output(
                    "loss_map",
                    display_name="loss_map",
                    tooltip="The loss of every step, for Plot Loss Graph.",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The first names without the prefix, then the same with it.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        names: Sequence[str] | str | None = None,
        target: Sequence[str] | str | None = None,
        run_name: Sequence[str] | str | None = None,
    ) -> bool | str:
        """True, or what is wrong with the names or the run's name; None comes from a link."""
        given = [one if isinstance(one, str) or not one else one[0] for one in (names, target)]
        try:
            if all(isinstance(one, str) for one in given):
                names, target = given
                people_in(names, described=target == "description")  # pyright: ignore[reportArgumentType]
            if run_name:
                new_folder(Path(), run_name if isinstance(run_name, str) else run_name[0])
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, **given: list[Any]) -> io.NodeOutput:
        """Train; everything comes as a list, because pictures and texts may be lists."""
        one = {name: values[0] for name, values in given.items() if values}
        prefix = one.get("prefix")
        people = people_in(one["names"], described=one["target"] == "description")
        things = nameless("things", read_lines(one["things"]), people)
        others = nameless("people", read_lines(one["people"]), people)
        pictures = _pairs(given.get("images") or [], given.get("texts") or [])
        kinds = {kind_of(text, people) for _, text in pictures}
        kinds |= {"identity", *(["things"] if things else []), *(["people"] if others else [])}
        job = Job(
            _config(one, people, None if prefix is None else connected(prefix), kinds),
            people,
            things,
            others,
            (one["width"], one["height"]),
            one["pictures_per_name"],
            one["picture_steps"],
            one["cfg"],
            pictures,
            prefix,
            bool(one["preview_every"]),
        )
        runs = Path(folder_paths.get_output_directory(), KIND)
        folder = new_folder(runs, one["run_name"])
        total = pictures_to_make(job) + job.config.steps
        bar = comfy.utils.ProgressBar(total)

        def told(done: int, whole: int, preview: Image.Image | None) -> None:
            shown = None if preview is None else ("JPEG", preview, PREVIEW_SIDE)
            bar.update_absolute(done, whole, shown)

        trained = train(job, one["model"], one["clip"], one["vae"], folder, Watcher(told, total))
        keep(trained, Path(folder_paths.get_folder_paths(KIND)[0]), folder)
        LOG.info("APL Prefix, %s: %s", folder.path.name, trained.verdict)
        return io.NodeOutput(
            trained.prefix,
            {"loss": trained.losses},
            trained.pictures,
            ui=ui.PreviewImage(trained.pictures, cls=None),
        )


def _config(
    one: dict[str, Any], people: Sequence[ListedPerson], start: Prefix | None, kinds: set[Kind]
) -> TrainConfig:
    """A run's settings with these kinds; a prefix to go on from decides where vectors stand."""
    batch, steps, judged = one["batch"], one["steps"], bool(kept_for_validation(people)[1])
    identity = max(1, round(batch * 14 / 36))
    faces = round(batch * 14 / 36) if "people" in kinds else 0
    whole = identity + faces + (max(1, batch - identity - faces) if "things" in kinds else 0)
    return TrainConfig.from_mapping(
        {
            "seed": one["seed"],
            "num_vectors": one["vectors"] if start is None else start.n,
            "num_suffix_vectors": one["behind"] if start is None else start.behind,
            "target": one["target"],
            "steps": steps,
            "learning_rate": float(one["rate"]),
            "lr_warmup_steps": min(10, steps // 10),
            "batch_identity": identity,
            "batch_people": faces,
            "batch_things": whole - identity - faces,
            "micro_batch": one["micro_batch"],
            "target_cache": max(whole, min(512, whole * steps)),
            "validate_every": one["preview_every"] or (max(1, steps // 10) if judged else 0),
            "save_every": 10,
        }
    )


def _pairs(images: Sequence[Any], texts: Sequence[str]) -> list[tuple[Any, str]]:
    """Each picture with its text; ConfigError if their numbers differ."""
    pictures = [picture[None] for batch in images for picture in batch]
    if len(pictures) != len(texts):
        raise ConfigError(
            "use the connected pictures",
            f"there are {len(pictures)} pictures and {len(texts)} texts",
            "connect one text per picture, for example from Load Image-Text Dataset from Folder",
        )
    return list(zip(pictures, texts, strict=True))


def _wires() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model to learn on: SD 1.x, 2.x or SDXL. Not changed."),
        io.Clip.Input("clip", tooltip="Its CLIP, without a prefix. Not changed."),
        io.Vae.Input("vae", tooltip="Its VAE, for connected pictures and for previews."),
    ]


def _texts() -> list[io.Input]:
    return [
        io.String.Input(
            "names",
            multiline=True,
            tooltip="One name per line, or `Name = description`: those the prefix learns from. "
            "It is meant for everybody, also for people you do not list. Of five or more the first "
            "eighth is kept to choose the best step and to say how much of a name is left. Never "
            "stored in the file.",
        ),
        io.String.Input(
            "things",
            multiline=True,
            default=THINGS,
            tooltip="Prompts that name nobody and must stay as they are, one per line.",
        ),
        io.String.Input(
            "people",
            multiline=True,
            default=PEOPLE,
            tooltip="Prompts that describe people without naming them; they must stay as well.",
        ),
        io.Combo.Input(
            "target",
            options=list(SETTINGS["target"].metadata["choices"]),
            default="person",
            tooltip="What a name turns into: a person, the description beside the name, or what "
            "the empty prompt gives.",
        ),
        io.String.Input(
            "run_name",
            default="my-prefix",
            tooltip="Name of the run folder in output/apl and of the file in models/apl. A number "
            "is added if it is taken.",
        ),
    ]


def _numbers() -> list[io.Input]:
    def whole(name: str, default: int, low: int, high: int, tooltip: str) -> io.Input:
        return io.Int.Input(name, default=default, min=low, max=high, tooltip=tooltip)

    def declared(name: str, setting: str, default: int, tooltip: str = "") -> io.Input:
        about = SETTINGS[setting].metadata
        return whole(name, default, about["min"], about["max"], tooltip or f"{about['help']}.")

    rate = SETTINGS["learning_rate"].metadata
    return [
        declared("vectors", "num_vectors", 10),
        declared("behind", "num_suffix_vectors", 5),
        declared("steps", "steps", 300),
        io.Float.Input(
            "rate",
            default=CHECKPOINT.learning_rate,
            min=rate["min"],
            max=rate["max"],
            step=1e-6,
            tooltip="Learning rate of Adam; falls to zero along a cosine.",
        ),
        whole("batch", 12, 2, 512, "Examples per step: names, things and people together."),
        declared("micro_batch", "micro_batch", 2),
        declared("seed", "seed", 0, "Decides pictures, noise and first vectors."),
        whole("width", 512, 64, 2048, "Width of the pictures to learn from, in steps of 8."),
        whole("height", 512, 64, 2048, "Height of the pictures to learn from, in steps of 8."),
        whole("pictures_per_name", 4, 1, 200, "Pictures the model makes of each name."),
        whole("picture_steps", 20, 1, 200, "Sampling steps of those pictures."),
        io.Float.Input(
            "cfg", default=7.0, min=1.0, max=30.0, step=0.1, tooltip="Their guidance scale."
        ),
        whole(
            "preview_every",
            50,
            0,
            100_000,
            "Steps between previews on the node and checks on the held-out names; 0 for no "
            "previews and ten checks.",
        ),
        PrefixType.Input(
            "prefix", optional=True, tooltip="A prefix to go on from; decides vectors and behind."
        ),
        io.Image.Input(
            "images",
            optional=True,
            tooltip="Pictures to learn from, with one text each. A text with a listed name is a "
            "picture of that person, any other shows people or things, as its words say.",
        ),
        io.String.Input(
            "texts", optional=True, force_input=True, tooltip="The texts of the pictures."
        ),
    ]
