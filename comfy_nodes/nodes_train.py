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
from server import PromptServer

from apl_core.errors import ConfigError
from apl_core.prefix import Prefix
from apl_core.training.config import PER_NAME, PICTURE_STEPS, PRESETS, SETTINGS, TrainConfig, preset
from apl_core.training.material import refuse_names
from apl_core.training.people import people_in

from .files import KIND
from .nodes_prefix import CATEGORY, PrefixType, connected, found_by
from .training.run import Job, Watcher, drawn, keep, new_folder, train
from .training.source import read_lines

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
            **found_by("train", "learn a prefix", "textual inversion"),
            description="Learns an anonymization prefix for this model, of any family that APL "
            "Apply Prefix takes. Makes its own pictures from the names if none are connected. "
            "Without a MODEL it learns on the text encoder alone. Interrupting keeps what is "
            "learned so far.",
            is_input_list=True,
            is_output_node=True,
            is_experimental=True,
            hidden=[io.Hidden.unique_id],
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
                    tooltip="The first names without the prefix, then the same with it; nothing "
                    "where it was learned on texts alone.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        names: Sequence[str] | str | None = None,
        target: Sequence[str] | str | None = None,
        run_name: Sequence[str] | str | None = None,
    ) -> bool:
        """True; ConfigError for the names or the run's name, which the page shows at once.

        None comes from a link.
        """
        given = [one if isinstance(one, str) or not one else one[0] for one in (names, target)]
        if all(isinstance(one, str) for one in given):
            names, target = given
            people_in(names, described=target == "description")  # pyright: ignore[reportArgumentType]
        if run_name:
            new_folder(Path(), run_name if isinstance(run_name, str) else run_name[0])
        return True

    @classmethod
    def execute(cls, **given: list[Any]) -> io.NodeOutput:
        """Train; everything comes as a list, because pictures and texts may be lists."""
        one = {name: values[0] for name, values in given.items() if values}
        prefix, model = one.get("prefix"), one.get("model")
        people = people_in(one["names"], described=one["target"] == "description")
        things, others = read_lines(one["things"]), read_lines(one["people"])
        for what, lines in (("things", things), ("people", others)):
            refuse_names(what, lines, people)
        pictures = _pairs(given.get("images") or [], given.get("texts") or [])
        job = Job(
            _config(one, None if prefix is None else connected(prefix), whole=model is not None),
            people,
            things,
            others,
            (one["width"], one["height"]),
            one["pictures_per_name"],
            one["picture_steps"],
            one["cfg"],
            pictures,
            prefix,
            one["preview_every"],
        )
        runs = Path(folder_paths.get_output_directory(), KIND)
        folder = new_folder(runs, one["run_name"])
        made = 0 if model is None else len(drawn(job))
        total = made + job.config.text_steps + job.config.steps
        bar = comfy.utils.ProgressBar(total)

        def told(done: int, whole: int, preview: Image.Image | None) -> None:
            shown = None if preview is None else ("JPEG", preview, PREVIEW_SIDE)
            bar.update_absolute(done, whole, shown)

        node = cls.hidden.unique_id

        def say(line: str) -> None:
            PromptServer.instance.send_progress_text(line, node)

        watcher = Watcher(told, total, say)
        trained = train(job, model, one["clip"], one.get("vae"), folder, watcher)
        say(trained.verdict)
        keep(trained, Path(folder_paths.get_folder_paths(KIND)[0]), folder)
        LOG.info("APL Prefix, %s: %s", folder.path.name, trained.verdict)
        shown = {} if model is None else ui.PreviewImage(trained.pictures, cls=None).as_dict()
        return io.NodeOutput(
            trained.prefix,
            {"loss": trained.losses},
            trained.pictures,
            ui=shown | {"text": [trained.verdict]},
        )


def _config(one: dict[str, Any], start: Prefix | None, whole: bool = True) -> TrainConfig:
    """A run's settings; a prefix to go on from decides where vectors stand.

    The recipe's three kinds share the batch as it has them. 0 leaves a number to recipe and preset.
    Without the `whole` model only texts can be learned from.
    """
    usual = preset(one.get("preset") or "standard")
    rate = float(one["rate"])
    batch = one["batch"]
    shares = {kind: max(1, round(batch * n / usual.batch)) for kind, n in usual.counts.items()}
    steps = one["steps"] if whole else 0
    shares["identity"] += max(1 - shares["identity"], batch - sum(shares.values()))
    return TrainConfig.from_mapping(
        {
            "seed": one["seed"],
            "num_vectors": one["vectors"] if start is None else start.n,
            "num_suffix_vectors": one["behind"] if start is None else start.behind,
            "target": one["target"],
            **({"steps": steps} if steps or not whole else {}),
            "text_steps": one.get("text_steps") or 0,
            "learning_rate": rate or usual.learning_rate,
            **{f"batch_{kind}": count for kind, count in shares.items()},
            "micro_batch": one["micro_batch"],
            "save_every": 10,  # an interrupt comes in the middle of a step
        },
        usual,
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
        io.Model.Input(
            "model",
            optional=True,
            tooltip="The model to learn on, of any family that APL Apply Prefix takes. Not "
            "changed. Leave it out to learn on the text encoder alone (text_steps).",
        ),
        io.Clip.Input("clip", tooltip="Its CLIP, without a prefix. Not changed."),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Its VAE, for connected pictures and for previews. Needed with a model.",
        ),
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
            default="",
            tooltip="Prompts of your own that name nobody and must stay as they are, one per line. "
            "They go in beside those that the learner makes itself.",
        ),
        io.String.Input(
            "people",
            multiline=True,
            default="",
            tooltip="Prompts of your own that describe people without naming them; they must stay "
            "as well. They go in beside those that the learner makes itself.",
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

    recipe, rate = TrainConfig(), SETTINGS["learning_rate"].metadata
    steps = SETTINGS["steps"].metadata
    return [
        declared("vectors", "num_vectors", recipe.num_vectors),
        declared("behind", "num_suffix_vectors", recipe.num_suffix_vectors),
        whole("steps", 0, 0, steps["max"], f"{steps['help']}; 0: as many as the preset has."),
        io.Float.Input(
            "rate",
            default=0.0,
            min=0.0,
            max=rate["max"],
            step=0.01,
            tooltip="Step size in lengths of a token embedding; it falls to zero along a cosine. "
            "0: the recipe's, which fits every model.",
        ),
        whole("batch", recipe.batch, 3, 512, "Examples per step: names, things and people."),
        declared("micro_batch", "micro_batch", 2),
        declared("seed", "seed", 0, "Decides pictures, noise and first vectors."),
        whole("width", 512, 64, 2048, "Width of the pictures to learn from, in steps of 8."),
        whole("height", 512, 64, 2048, "Height of the pictures to learn from, in steps of 8."),
        whole("pictures_per_name", PER_NAME, 1, 200, "Pictures the model makes of each name."),
        whole("picture_steps", PICTURE_STEPS, 1, 200, "Sampling steps of those pictures."),
        io.Float.Input(
            "cfg",
            default=0.0,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="Their guidance scale; 0: what is usual for the family (7 for SD 1.x, 2.x and "
            "SDXL). 1 is for distilled models (Turbo, Lightning, schnell, Klein): set "
            "picture_steps to their few steps as well, for learning then happens at the noise "
            "levels of these steps.",
        ),
        whole(
            "preview_every",
            50,
            0,
            100_000,
            "Steps between previews on the node, beside those at every check of the preset; 0: no "
            "previews.",
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
        io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default="standard",
            optional=True,
            tooltip=". ".join(one.title for one in PRESETS.values()),
        ),
        io.Int.Input(
            "text_steps",
            default=0,
            min=0,
            max=10_000,
            optional=True,
            tooltip="Steps on the text encoder alone, before any other. Without a model these are "
            "all there are (try 200): nothing then measures what is left of a face.",
        ),
    ]
