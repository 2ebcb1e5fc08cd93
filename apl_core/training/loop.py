"""The training loop: steps, checks, saves; stopped or killed at any moment, it goes on exactly."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import RunError
from ..fit import fingerprint
from ..formats import write_prefix
from ..metadata import PrefixCard
from ..ports import DenoiserPort, TextEncoderPort
from ..prefix import Prefix, Rows
from .config import TrainConfig
from .events import (
    Checked,
    Control,
    Event,
    Finished,
    Judge,
    Listener,
    Phase,
    Previewed,
    Previewer,
    Saved,
    Stepped,
)  # fmt: skip
from .folder import RunFolder, State
from .frozen import frozen
from .initial import initial_rows, norm_ratio
from .lessons import Curriculum, Source, generator
from .parallel import Group
from .step import clip, gradient
from .warmstart import warm_start

log = logging.getLogger("apl")


@dataclass(frozen=True)
class Model:
    """The frozen model that a prefix is learnt for."""

    encoder: TextEncoderPort
    denoiser: DenoiserPort
    name: str


@dataclass
class Progress:
    """What changes from step to step."""

    rows: Rows
    optimizer: torch.optim.Adam
    step: int = 0
    scale: float = 1.0
    best: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    best_score: float = math.inf
    best_step: int = 0
    best_figures: dict[str, float] = field(default_factory=dict[str, float])
    without_gain: int = 0


class Trainer:
    """Learns a prefix for a frozen model into a run folder.

    `judge` measures the prefix every `check_every` steps on prompts kept for choosing; the best
    rows are kept. Without one the last rows are the result.
    """

    def __init__(self, config: TrainConfig, model: Model, source: Source, folder: RunFolder,
                 judge: Judge | None = None, previewer: Previewer | None = None,
                 listeners: Sequence[Listener] = (), control: Control | None = None,
                 start: Prefix | None = None, names_trained: int = 0) -> None:  # fmt: skip
        self.config, self.model, self.source, self.folder = config, model, source, folder
        self.judge, self.previewer, self.listeners = judge, previewer, tuple(listeners)
        self.control = control or Control()
        self.start, self.names_trained = start, names_trained
        self.group = Group()

    def run(self) -> Prefix:
        """Train to the end, or until asked to stop; returns the best prefix so far.

        Raises RunError when the folder is taken or unwritable, or when the loss is not finite.
        """
        encoder, denoiser = self.model.encoder, self.model.denoiser
        modules = [*encoder.modules, *denoiser.modules]
        first = self.group.rank == 0
        with contextlib.ExitStack() as stack:
            if first:
                stack.enter_context(self.folder.locked())
            stack.enter_context(frozen(modules, self.config.recipe == "paper"))
            stack.enter_context(torch.enable_grad())
            curriculum = Curriculum(
                self.config, encoder, denoiser, self.source, self.group, self._phase
            )
            progress = self._resumed() or self._begun(curriculum)
            why = self._steps(progress, curriculum)
            prefix = self._kept(progress)
            if first:
                self._save(progress)
                write_prefix(prefix, self.folder.prefix)
            self._tell(Finished(progress.step, why))
        return prefix

    def _steps(self, progress: Progress, curriculum: Curriculum) -> str:
        config = self.config
        while progress.step < config.steps:
            self.control.read(self.folder.path)
            if self.group.agree(self.control.stop.is_set()):
                return "stopped"
            began = time.perf_counter()
            loss, losses, rate = self._step(progress, curriculum)
            progress.step += 1
            spent = time.perf_counter() - began
            self._tell(Stepped(progress.step, config.steps, loss, losses, rate, spent))
            last = progress.step == config.steps
            if config.check_every and (progress.step % config.check_every == 0 or last):
                self._check(progress)
            asked = self.control.save.is_set()
            if progress.step % config.save_every == 0 or last or asked:
                self._save(progress)
                if asked and self.group.rank == 0:
                    self.control.save.clear()
                    write_prefix(self._kept(progress), self.folder.prefix)
            if self.control.preview.is_set():
                self.control.preview.clear()
                self._preview(progress)
            if config.patience and progress.without_gain >= config.patience:
                return "no gain"
        return "steps"

    def _step(
        self, progress: Progress, curriculum: Curriculum
    ) -> tuple[float, dict[str, float], float]:
        config, rows = self.config, progress.rows
        progress.optimizer.zero_grad()
        lesson = curriculum.lesson(progress.step)
        loss, losses = gradient(
            config,
            self.model.encoder,
            self.model.denoiser,
            lesson,
            rows,
            self.group,
            progress.scale,
        )
        gradients = {k: v.grad for k, v in rows.vectors.items() if v.grad is not None}
        self.group.add_up(list(gradients.values()))
        rate = learning_rate(config, progress.step)
        for group in progress.optimizer.param_groups:
            group["lr"] = rate
        if all(bool(torch.isfinite(g).all()) for g in gradients.values()):
            for each in gradients.values():
                each.div_(progress.scale)
            clip(gradients, config.clip)
            progress.optimizer.step()
        elif config.autocast == "fp16" and progress.scale > 1:
            progress.scale /= 2
        else:
            raise RunError(
                f"learn step {progress.step + 1}", f"the loss is not a finite number ({loss})",
                "lower `rate`, or train with autocast off; the last saved state is unharmed",
            )  # fmt: skip
        return loss, losses, rate

    def _check(self, progress: Progress) -> None:
        ratio = {"norm_ratio": norm_ratio(progress.rows, self.model.encoder)}
        if self.judge is None:
            judged_score, figures = math.nan, ratio
        else:
            with torch.no_grad():
                judgement = self.judge(progress.rows)
            judged_score = self.group.agree(judgement.score)
            figures = {**judgement.figures, **ratio}
        best = judged_score < progress.best_score
        if best:
            progress.best = {k: v.detach().clone() for k, v in progress.rows.vectors.items()}
            progress.best_score, progress.best_step = judged_score, progress.step
            progress.best_figures, progress.without_gain = figures, 0
        elif self.judge is not None:
            progress.without_gain += 1
        self._tell(Checked(progress.step, judged_score, figures, best))
        if self.previewer is not None:
            self._preview(progress)

    def _preview(self, progress: Progress) -> None:
        if self.previewer is None or self.group.rank:
            return
        path = self.folder.previews / f"step-{progress.step:06d}.png"
        with torch.no_grad():
            self.previewer(progress.rows, path)
        self._tell(Previewed(progress.step, path))

    def _kept(self, progress: Progress) -> Prefix:
        vectors = progress.best or dict(progress.rows.vectors)
        step = progress.best_step if progress.best else progress.step
        tables = {key: self.model.encoder.token_embedding(key) for key in vectors}
        card = PrefixCard(
            base_model=self.model.name,
            fingerprints={key: fingerprint(table) for key, table in tables.items()},
            recipe=f"{self.config.recipe}, target {self.config.target}",
            steps=step, seed=self.config.seed, names_trained=self.names_trained,
            figures=dict(progress.best_figures),
        )  # fmt: skip
        return Prefix(vectors, self.config.behind, card)

    def _begun(self, curriculum: Curriculum) -> Progress:
        config, encoder = self.config, self.model.encoder
        if self.start is None:
            rows = initial_rows(config, encoder, generator(config.seed, "initial"))
        else:
            rows = self.start.rows()
        if config.warm_steps:
            rows = warm_start(config, encoder, curriculum, rows, self._phase)
        return self._progress(rows)

    def _progress(self, rows: Rows) -> Progress:
        device = self.model.denoiser.device
        leaves = {k: v.to(device).clone().requires_grad_() for k, v in rows.vectors.items()}
        optimizer = torch.optim.Adam(list(leaves.values()), lr=self.config.rate)
        scale = 1024.0 if self.config.autocast == "fp16" else 1.0
        return Progress(Rows(leaves, self.config.behind), optimizer, scale=scale)

    def _save(self, progress: Progress) -> None:
        if self.group.rank:
            return
        tensors = {f"rows.{k}": v for k, v in progress.rows.vectors.items()}
        tensors |= {f"best.{k}": v for k, v in progress.best.items()}
        for index, state in progress.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
        numbers = {
            "step": progress.step, "scale": progress.scale, "best_score": progress.best_score,
            "best_step": progress.best_step, "best_figures": progress.best_figures,
            "without_gain": progress.without_gain,
        }  # fmt: skip
        self.folder.save_state(State(tensors, numbers))
        self._tell(Saved(progress.step, self.folder.state))

    def _resumed(self) -> Progress | None:
        found = self.folder.load_state()
        if found is None:
            if self.group.rank == 0:
                self.folder.cut_log(0)
            return None
        state, note = found
        if note:
            log.warning("%s: %s", self.folder.path, note)
        groups: dict[str, dict[str, Tensor]] = {"rows": {}, "best": {}, "adam": {}}
        for name, tensor in state.tensors.items():
            kind, rest = name.split(".", 1)
            groups[kind][rest] = tensor
        progress = self._progress(Rows(groups["rows"], self.config.behind))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["adam"].items():
            index, entry = name.split(".", 1)
            moments.setdefault(int(index), {})[entry] = tensor
        fresh = progress.optimizer.state_dict()["param_groups"]
        progress.optimizer.load_state_dict({"state": moments, "param_groups": fresh})
        numbers = state.numbers
        progress.step, progress.scale = numbers["step"], numbers["scale"]
        progress.best, progress.best_score = groups["best"], numbers["best_score"]
        progress.best_step, progress.best_figures = numbers["best_step"], numbers["best_figures"]
        progress.without_gain = numbers["without_gain"]
        if self.group.rank == 0:
            self.folder.cut_log(progress.step)
        return progress

    def _phase(self, name: str, done: int, total: int) -> None:
        self._tell(Phase(name, done, total))

    def _tell(self, event: Event) -> None:
        if self.group.rank:
            return
        if isinstance(event, Stepped):
            self.folder.log({"step": event.step, "loss": event.loss, **event.losses,
                             "rate": event.rate, "seconds": event.seconds})  # fmt: skip
        elif isinstance(event, Checked):
            self.folder.log({"step": event.step, "score": event.score, **event.figures})
        for listener in self.listeners:
            listener(event)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate at a step: linear warm-up, then constant or falling to zero along a cosine."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.rate
    share = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.rate * 0.5 * (1 + math.cos(math.pi * share))
