"""The training loop: steps, checks, saves; stopped or killed at any moment, it goes on exactly."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..errors import ConfigError, FitError, RunError
from ..fit import fingerprint
from ..formats import write_prefix
from ..metadata import PrefixCard
from ..ports import DenoiserPort, TextEncoderPort
from ..prefix import Prefix, describe
from .backtracking import free_error
from .batches import BatchSampler, Source, generator
from .callbacks import (
    Callback,
    Control,
    Event,
    Extended,
    Finished,
    Phase,
    Previewed,
    Previewer,
    Saved,
    Stepped,
    Validated,
    ValidationResult,
    Validator,
)
from .config import TrainConfig
from .folder import RunFolder
from .frozen import frozen
from .initial import initial_rows, norm_ratio
from .micro import MicroBatch
from .parallel import Group
from .progress import Progress
from .scale import embedding_lengths
from .schedules import learning_rate, set_rate
from .step import clip, gradient
from .text_stage import text_stage
from .verdict import ENOUGH, TEXTS_ALONE

log = logging.getLogger("apl")


@dataclass(frozen=True)
class Model:
    """The frozen model that a prefix is learned for.

    Without a denoiser only the text stage can run. `family` goes on the card: the kind of model, as
    the host that will apply the prefix calls it.
    """

    encoder: TextEncoderPort
    denoiser: DenoiserPort | None
    name: str
    family: str = ""

    @property
    def modules(self) -> list[nn.Module]:
        """What has to be frozen while a prefix is learned."""
        return [*self.encoder.modules, *(self.denoiser.modules if self.denoiser else ())]

    @property
    def device(self) -> torch.device:
        """Where the rows are learned: beside the denoiser, or on the CPU without one."""
        return self.denoiser.device if self.denoiser else torch.device("cpu")


class Trainer:
    """Learns a prefix for a frozen model into a run folder.

    `validator` measures the prefix every `validate_every` steps on prompts kept for choosing; the
    best rows are kept. Without one the last rows are the result.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Model,
        source: Source,
        folder: RunFolder,
        validator: Validator | None = None,
        previewer: Previewer | None = None,
        callbacks: Sequence[Callback] = (),
        control: Control | None = None,
        start: Prefix | None = None,
        names_trained: int = 0,
    ) -> None:
        self.config, self.model, self.source, self.folder = config, model, source, folder
        self.validator, self.previewer, self.callbacks = validator, previewer, tuple(callbacks)
        self.control = control or Control()
        self.start, self.names_trained = start, names_trained
        self.group = Group()
        self.micro = MicroBatch(config.micro_batch)
        self._lengths = embedding_lengths(config, model.encoder)
        if model.denoiser is None and (config.steps or not config.text_steps):
            raise ConfigError(
                "learn without a denoiser",
                f"text_steps is {config.text_steps} and steps is {config.steps}",
                "set text_steps to 1 or more and steps to 0, or give the whole model",
            )

    def run(self) -> Prefix:
        """Train to the end, or until asked to stop; returns the best prefix so far.

        Raises RunError when the folder is taken or unwritable, or when the loss is not finite.
        """
        encoder, denoiser = self.model.encoder, self.model.denoiser
        first = self.group.rank == 0
        with contextlib.ExitStack() as stack:
            if first:
                stack.enter_context(self.folder.locked())
            stack.enter_context(frozen(self.model.modules, self.config.recipe == "paper"))
            stack.enter_context(torch.inference_mode(False))  # hosts run their nodes in it
            stack.enter_context(torch.enable_grad())
            batches = BatchSampler(
                self.config, encoder, denoiser, self.source, self.group, self._phase
            )
            progress = self._resumed() or self._begun(batches)
            if self.group.agree(progress.step) != progress.step:
                raise RunError(
                    f"train in {self.folder.path}",
                    "the processes do not see the same state",
                    "give all of them the same folder, on a disk that they share",
                )
            if not self.config.steps and self.config.validate_every:
                self._check(progress)
            why = self._steps(progress, batches)
            prefix = self._kept(progress)
            if first:
                self._save(progress)
                write_prefix(prefix, self.folder.prefix)
            self._tell(Finished(progress.step, why))
        return prefix

    def _steps(self, progress: Progress, batches: BatchSampler) -> str:
        config = self.config
        while progress.step < progress.span(config)[1] or self._extended(progress):
            patience = 0 if progress.extended else config.patience
            if self.validator and 0 < patience <= progress.without_gain:
                return "no gain"
            if self.group.rank == 0:
                with self.folder.told("read requests in"):
                    self.control.read(self.folder.path)
            if self._asked("stop"):
                return "stopped"
            began = time.perf_counter()
            loss, losses, rate = self._step(progress, batches)
            progress.step += 1
            spent = time.perf_counter() - began
            end = progress.span(config)[1]
            self._tell(Stepped(progress.step, end, loss, losses, rate, spent))
            last = progress.step == end
            if config.validate_every and (progress.step % config.validate_every == 0 or last):
                self._check(progress)
            if self._asked("save") or progress.step % config.save_every == 0:
                self._save(progress)
            if self._asked("preview"):
                self._preview(progress)
            if self.group.rank == 0:
                with torch.no_grad():
                    self.control.between(progress.rows)
        return "steps"

    def _extended(self, progress: Progress) -> bool:
        """Begin a second schedule if the first one left more than enough of names.

        A warm restart (arXiv 1608.03983): what a run of half as many steps missed is learned at a
        high rate. Patience does not count in it, for scores are worse while the rate is high.
        """
        config, left = self.config, progress.name_left()
        wanted = not progress.extended and 0 < config.steps < config.max_steps and left > ENOUGH
        wanted = bool(self.group.agree(wanted))
        if wanted:
            progress.extended = True
            self._tell(Extended(progress.step, config.max_steps, left))
        return wanted

    def _asked(self, what: Literal["stop", "save", "preview"]) -> bool:
        flag = getattr(self.control, what)
        asked = bool(self.group.agree(flag.is_set()))
        if asked and what != "stop":
            flag.clear()
        return asked

    def _step(
        self, progress: Progress, batches: BatchSampler
    ) -> tuple[float, dict[str, float], float]:
        config, rows = self.config, progress.rows
        for vectors in rows.vectors.values():
            vectors.grad = torch.zeros_like(vectors)  # also where this process's share is empty
        batch = batches.batch(progress.step)
        loss, losses = gradient(
            config,
            self.model.encoder,
            batches.denoiser,
            batch,
            rows,
            self.group,
            progress.scale,
            progress.unit,
            self.micro,
        )
        gradients = {k: v.grad for k, v in rows.vectors.items() if v.grad is not None}
        self.group.add_up(list(gradients.values()))
        tries = progress.backtracking
        begin, end = progress.span(config)
        rate = learning_rate(config, progress.step - begin, end - begin) * tries.share
        set_rate(progress.optimizer, rate, self._lengths)
        error = free_error(losses, config.weights)
        finite = all(bool(torch.isfinite(g).all()) for g in gradients.values())
        if tries.too_far(error):
            tries.back(rows.vectors, progress.optimizer)
            rate = 0.0
        elif finite and math.isfinite(loss):
            for each in gradients.values():
                each.div_(progress.scale)
            clip(gradients, config.max_grad_norm)
            tries.goes_on(error, rows.vectors)
            progress.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            tries.grow()
        elif config.mixed_precision == "fp16" and progress.scale > 1:
            progress.scale /= 2
        else:
            raise RunError(
                f"learn step {progress.step + 1}",
                f"the loss is not a finite number ({loss})",
                "lower learning_rate, or set mixed_precision = no; the last saved state is whole",
            )
        return loss, losses, rate

    def _check(self, progress: Progress) -> None:
        ratio = {"norm_ratio": norm_ratio(progress.rows, self.model.encoder)}
        if self.validator is None:
            self._tell(Validated(progress.step, math.nan, ratio, False))
        else:
            with torch.no_grad():
                result = self.validator(progress.rows)
            score, figures = self.group.agree(result.score), {**result.figures, **ratio}
            kept = progress.validated(ValidationResult(score, figures, result.each))
            self._tell(Validated(progress.step, score, figures, kept))
        if self.previewer is not None:
            self._preview(progress)

    def _preview(self, progress: Progress) -> None:
        if self.previewer is None or self.group.rank:
            return
        path = self.folder.previews / f"step-{progress.step:06d}.png"
        with torch.no_grad(), self.folder.told("write a preview in"):
            self.previewer(progress.rows, path)
        self._tell(Previewed(progress.step, path))

    def _kept(self, progress: Progress) -> Prefix:
        vectors = progress.best or dict(progress.rows.vectors)
        step = progress.best_step if progress.best else progress.step
        tables = {key: self.model.encoder.token_embedding(key) for key in vectors}
        card = PrefixCard(
            base_model=self.model.name,
            fingerprints={key: fingerprint(table) for key, table in tables.items()},
            recipe=f"{self.config.recipe}, target {self.config.target}"
            + (f", {TEXTS_ALONE}" if self.model.denoiser is None else ""),
            family=self.model.family,
            steps=None if self.model.denoiser is None else step,
            seed=self.config.seed,
            names_trained=self.names_trained,
            figures=dict(progress.best_figures),
        )
        return Prefix(vectors, self.config.num_suffix_vectors, card)

    def _begun(self, batches: BatchSampler) -> Progress:
        config, encoder = self.config, self.model.encoder
        if self.start is None:
            rows = initial_rows(config, encoder, generator(config.seed, "initial"))
        else:
            self._check_start(self.start)
            rows = self.start.rows()
        if config.text_steps:
            rows = text_stage(config, encoder, batches, rows, self._phase, self._ended)
        unit = batches.unit() if config.steps and config.recipe != "paper" else 1.0
        return Progress.begin(rows, config, self.model.device, self.group.agree(unit))

    def _ended(self) -> bool:
        """Whether a text stage that nothing follows may end early: what it has is the result."""
        return not self.config.steps and self._asked("stop")

    def _check_start(self, start: Prefix) -> None:
        config, widths = self.config, dict(self.model.encoder.widths)
        if start.widths != widths:
            raise FitError(
                "go on from a prefix",
                f"it is for {describe(start.widths)}, the model is {describe(widths)}",
                "start from a prefix that was made for this kind of model",
            )
        if (start.n, start.behind) != (config.num_vectors, config.num_suffix_vectors):
            raise ConfigError(
                "go on from a prefix",
                f"it has {start.n} vectors, {start.behind} of them behind the text, "
                f"the settings say {config.num_vectors} and {config.num_suffix_vectors}",
                f"set num_vectors = {start.n} and num_suffix_vectors = {start.behind}",
            )

    def _save(self, progress: Progress) -> None:
        if self.group.rank == 0:
            self.folder.save_state(progress.state())
            self._tell(Saved(progress.step, self.folder.state))

    def _resumed(self) -> Progress | None:
        found = self.folder.load_state()
        progress = None
        if found is not None:
            state, note = found
            if note:
                log.warning("%s: %s", self.folder.path, note)
            widths = self.model.encoder.widths
            progress = Progress.resumed(state, self.config, widths, self.model.device)
        if self.group.rank == 0:
            self.folder.cut_log(progress.step if progress else 0)
        return progress

    def _phase(self, name: str, done: int, total: int) -> None:
        self._tell(Phase(name, done, total))

    def _tell(self, event: Event) -> None:
        if self.group.rank:
            return
        if isinstance(event, Stepped):
            self.folder.log(
                {
                    "step": event.step,
                    "loss": event.loss,
                    **event.losses,
                    "learning_rate": event.learning_rate,
                    "seconds": event.seconds,
                }
            )
        elif isinstance(event, Validated):
            self.folder.log({"step": event.step, "score": event.score, **event.figures})
        for callback in self.callbacks:
            callback(event)
