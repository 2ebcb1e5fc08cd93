"""A training run on a real checkpoint: material in, the core's trainer out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import torch
import torch.distributed as dist
from torch import Tensor

from apl_core.captions import alike
from apl_core.example_kinds import Target
from apl_core.prefix import Prefix
from apl_core.schedule import Prediction
from apl_core.training.callbacks import Callback, Control, phase_report
from apl_core.training.config import PER_NAME, PICTURE_STEPS, TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.learner import learner
from apl_core.training.loop import Model, Trainer
from apl_core.training.material import Material, pictures_to_draw
from apl_core.training.parallel import Group
from apl_core.training.people import ListedPerson, people_in

from ..metadata_jsonl import CaptionedPicture
from ..run_paths import read_origin, save_origin
from .compiling import check_compiler
from .load import load_detected
from .loaded import CheckpointModel, Options
from .presets import TrainingSetup
from .previews import Previews
from .quantize import Quantize
from .self_generated import draw_data, jobs
from .training_data import LatentCache, PlainSource, heldout_names, material_of, read_data

_PATHS = ("checkpoint", "data", "tokenizer")


@dataclass(frozen=True)
class CheckpointOrigin:
    """Where a run's model and data come from, kept beside its settings so that it can resume.

    Without `data` the model draws its own pictures of `names`, lines of a list, into the run's
    folder.
    """

    checkpoint: str
    data: str | None = None
    names: tuple[str, ...] | None = None
    per_name: int = PER_NAME
    size: int | None = None
    vram: int | None = None
    tokenizer: str | None = None
    clip_skip: int | None = None
    prediction: str | None = None
    device: str | None = None
    draw_steps: int = PICTURE_STEPS
    compile: bool = False
    texts_alone: bool = False
    quantize: str | None = None

    @property
    def people(self) -> tuple[ListedPerson, ...]:
        """Who is learned from, if it is a list of names."""
        return people_in("\n".join(self.names)) if self.names else ()

    def save(self, folder: RunFolder) -> None:
        """Write `origin.json` into a run folder."""
        save_origin(folder, asdict(self), _PATHS)

    def setup(self) -> TrainingSetup:
        """Look at the checkpoint and the device; AplError."""
        prediction = cast("Prediction | None", self.prediction)
        return TrainingSetup.of(
            Path(self.checkpoint),
            prediction,
            self.device,
            self.vram,
            self.size,
            self.texts_alone,
            cast("Quantize | None", self.quantize),
        )

    def options(self, setup: TrainingSetup) -> Options:
        """How the checkpoint is to be loaded."""
        return Options(
            None if self.tokenizer is None else Path(self.tokenizer),
            self.clip_skip,
            setup.info.prediction,
            setup.dtype,
            setup.text_dtype,
            str(setup.device),
            setup.size,
            setup.quantize,
            setup.preset.checkpointing,
        )

    def measured_by(self, prefix: Path) -> str:
        """The command that measures a prefix of the run."""
        data = self.data
        made = data is not None and (Path(data) / "manifest.json").is_file()
        whom = f"--data {data}" if made else "--names FILE"  # `apl dataset`'s has groups
        return f"apl evaluate --prefix {prefix} --model {self.checkpoint} {whom} --out DIR"

    @staticmethod
    def of(folder: RunFolder) -> CheckpointOrigin | None:
        """Read `origin.json`; None if the run is on a pocket model, RunError if it is broken."""
        return read_origin(folder, _PATHS, CheckpointOrigin._made)

    @staticmethod
    def _made(data: dict[str, Any]) -> CheckpointOrigin | None:
        if "checkpoint" not in data:
            return None
        hints = get_type_hints(CheckpointOrigin)
        kinds = {
            name: {get_origin(kind) or kind for kind in get_args(hint) or (hint,)}
            for name, hint in hints.items()
        }
        if wrong := [name for name, value in data.items() if type(value) not in kinds[name]]:
            raise ValueError(f"{', '.join(wrong)} is of another kind")
        return CheckpointOrigin(**data)


@dataclass(frozen=True)
class CheckpointRun:
    """A run on a checkpoint: where all comes from, what was found out, and what is to be drawn."""

    origin: CheckpointOrigin
    setup: TrainingSetup
    work: Sequence[CaptionedPicture] = ()

    @property
    def compile(self) -> bool:
        """Whether torch.compile builds the denoiser's kernels."""
        return self.origin.compile

    def load(self, say: Callable[[str], None]) -> CheckpointModel:
        """The run's model on its device, prepared for training."""
        origin, setup = self.origin, self.setup
        options = origin.options(setup)
        if origin.compile:
            check_compiler(setup.device)
        model = load_detected(setup.info, options, say)
        network: Any = model.denoiser.modules[0]
        if setup.preset.checkpointing:
            network.enable_gradient_checkpointing()
        if setup.device.type == "cuda":
            network.to(memory_format=torch.channels_last)
        if origin.compile:
            network.compile()
        return model

    def trainer(
        self,
        model: CheckpointModel,
        config: TrainConfig,
        folder: RunFolder,
        callbacks: Sequence[Callback] = (),
        control: Control | None = None,
        start: Prefix | None = None,
    ) -> Trainer:
        """A trainer on its loaded model, latents encoded and the VAE moved out of the way."""
        group, origin, cuda = Group(), self.origin, self.setup.device.type == "cuda"
        tell = phase_report(callbacks)
        data = Path(origin.data) if origin.data else folder.path / "data"
        sampler = model.sampler(origin.draw_steps, size=self.setup.size, batch=4 if cuda else 1)
        if origin.data is None:
            work = self.work or jobs(origin.people, origin.per_name, config.seed)
            model.encoder.check(row.text for row in work)
            draw_data(sampler, work, data, tell, group)
            _meet(group)
        rows = read_data(data, config)
        model.encoder.check(text for row in rows for text in row.texts)
        cache = LatentCache(data / ".latents", model.latents, self.setup.size)
        cache.prepare([data / row.file_name for row in rows], tell, group)
        _meet(group)
        model.latents.vae.to("cpu")
        if cuda:
            torch.cuda.empty_cache()

        def latents(name: str) -> Tensor:
            return cache.get(data / name)

        people, target = origin.people or listed_in(rows), cast(Target, config.target)
        named = Model(model.encoder, model.denoiser, model.name, model.family)
        previewer = Previews(sampler, [one.name for one in people], heldout_names(data))
        if config.recipe == "paper":
            source = PlainSource(rows, latents, target)
            return Trainer(
                config,
                named,
                source,
                folder,
                previewer=previewer,
                callbacks=callbacks,
                control=control,
                start=start,
                names_trained=len(listed_in(rows)),
            )
        if origin.data is None:
            shown = pictures_to_draw(people, origin.per_name, config.seed)
            material = Material(shown, lambda place: latents(rows[place].file_name))
        else:
            material = material_of(rows, people, latents, target)
        return learner(
            config,
            named,
            material,
            people,
            folder,
            previewer=previewer,
            callbacks=callbacks,
            control=control,
            start=start,
        )

    def measured_by(self, prefix: Path) -> str:
        """The command that measures a prefix of this run."""
        return self.origin.measured_by(prefix)


def listed_in(rows: Sequence[CaptionedPicture]) -> tuple[ListedPerson, ...]:
    """Whom a dataset names, in its order."""
    named = (row.name for row in reversed(rows) if row.kind == "identity" and row.name)
    spelled = {alike(name): name for name in named}
    return tuple(ListedPerson(name) for name in reversed(spelled.values()))


def _meet(group: Group) -> None:
    if group.size > 1:
        dist.barrier()
