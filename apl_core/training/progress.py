"""What changes from step to step, and how it is remembered for resuming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import RunError
from ..metadata import printable
from ..prefix import Rows
from .backtracking import Backtracking
from .callbacks import ValidationResult
from .config import TrainConfig
from .folder import State
from .schedules import new_optimizer

_MOMENTS = {"adam": {"step", "exp_avg", "exp_avg_sq"}, "muon": {"momentum"}}


@dataclass
class Progress:
    """Rows and optimizer after `step` steps, and the best rows that a validator has seen."""

    rows: Rows
    optimizer: torch.optim.Optimizer
    backtracking: Backtracking
    step: int = 0
    scale: float = 1.0
    best: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    best_step: int = 0
    best_figures: dict[str, float] = field(default_factory=dict[str, float])
    lowest: ValidationResult = field(default_factory=lambda: ValidationResult(math.inf, {}))
    without_gain: int = 0
    unit: float = 1.0
    extended: bool = False

    @staticmethod
    def begin(rows: Rows, config: TrainConfig, device: torch.device, unit: float = 1.0) -> Progress:
        """Own copies of the rows as leaves on a device, and a fresh optimizer.

        `unit` is what errors are counted in (`scale.caption_change`).
        """
        leaves = {k: v.to(device, copy=True).requires_grad_() for k, v in rows.vectors.items()}
        optimizer = new_optimizer(config, leaves)
        scale = 1024.0 if config.mixed_precision == "fp16" else 1.0
        rows = Rows(leaves, config.num_suffix_vectors)
        return Progress(rows, optimizer, Backtracking(config.backtrack), scale=scale, unit=unit)

    def span(self, config: TrainConfig) -> tuple[int, int]:
        """First step, and the end, of the schedule that the run is in: its first or its second."""
        return (config.steps, config.max_steps) if self.extended else (0, config.steps)

    def name_left(self) -> float:
        """What the best rows leave of names; nan where that was not measured on a known one."""
        figures = self.best_figures
        return figures.get("name_left", math.nan) if figures.get("names_known", 1) else math.nan

    def validated(self, result: ValidationResult) -> bool:
        """Keep the rows as the best so far, unless the lowest score seen beats theirs.

        Where luck explains the difference the later step is taken: its rate has fallen further.
        Figures that are not numbers are left out. True if the rows are kept.
        """
        lower = result.score < self.lowest.score
        kept = lower or (math.isfinite(result.score) and not self.lowest.beats(result))
        self.without_gain = 0 if lower else self.without_gain + 1
        if lower:
            self.lowest = result
        if kept:
            self.best = {k: v.detach().clone() for k, v in self.rows.vectors.items()}
            self.best_step = self.step
            figures = result.figures.items()
            self.best_figures = {k: v for k, v in figures if math.isfinite(v)}
        return kept

    def state(self) -> State:
        """Everything that `resumed` needs to go on bit for bit."""
        tensors = {f"rows.{k}": v for k, v in self.rows.vectors.items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        if trail := self.backtracking.trail:
            tensors |= {f"before.{k}": torch.stack([rows[k] for rows in trail]) for k in trail[0]}
        for key, leaf in self.rows.vectors.items():
            moments: dict[str, Tensor] = self.optimizer.state.get(leaf, {})
            tensors |= {f"moments.{key}.{entry}": v for entry, v in moments.items()}
        numbers = {
            "step": self.step,
            "scale": self.scale,
            "unit": self.unit,
            "best_step": self.best_step,
            "best_figures": self.best_figures,
            "lowest": [self.lowest.score, *self.lowest.each] if self.best else None,
            "without_gain": self.without_gain,
            "extended": self.extended,
            "share": self.backtracking.share,
            "lowest_free": self.backtracking.lowest,
            "returned": self.backtracking.returned,
        }
        return State(tensors, numbers)

    @staticmethod
    def resumed(
        state: State, config: TrainConfig, widths: Mapping[str, int], device: torch.device
    ) -> Progress:
        """Progress out of a saved state; RunError if it is broken or of other settings."""
        try:
            return Progress._resumed(state, config, widths, device)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            found = f"its state is broken ({type(error).__name__}: {printable(str(error), 120)})"
            raise RunError("resume the run", found, "start a run in another folder") from error

    @staticmethod
    def _resumed(
        state: State, config: TrainConfig, widths: Mapping[str, int], device: torch.device
    ) -> Progress:
        groups: dict[str, dict[str, Tensor]] = {
            part: {} for part in ("rows", "best", "before", "moments")
        }
        for name, tensor in state.tensors.items():
            kind, rest = name.split(".", 1)
            groups[kind][rest] = tensor
        found = {key: tuple(rows.shape) for key, rows in groups["rows"].items()}
        wanted = {key: (config.num_vectors, width) for key, width in widths.items()}
        if found != wanted:
            raise RunError(
                "resume the run",
                f"its state holds {found}, settings and model ask for {wanted}",
                "put settings and model back as they were, or start a run in another folder",
            )
        rows = Rows({k: groups["rows"][k] for k in widths})
        progress = Progress.begin(rows, config, device, float(state.numbers["unit"]))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["moments"].items():
            key, entry = name.split(".", 1)
            if tensor.dim() and tuple(tensor.shape) != wanted[key]:
                raise ValueError(f"{name} is {tuple(tensor.shape)}")
            moments.setdefault(list(widths).index(key), {})[entry] = tensor
        for entries in moments.values():
            if set(entries) != _MOMENTS[config.optimizer]:
                raise RunError(
                    "resume the run",
                    f"its state remembers {', '.join(sorted(entries))}, which is "
                    f"not what the optimizer {config.optimizer} needs",
                    "put settings back as they were, or start a run in another folder",
                )
        fresh = progress.optimizer.state_dict()["param_groups"]
        progress.optimizer.load_state_dict({"state": moments, "param_groups": fresh})
        numbers = state.numbers
        progress.step, progress.scale = numbers["step"], float(numbers["scale"])
        progress.best = {k: v.to(device) for k, v in groups["best"].items()}
        trail = _trail({k: v.to(device) for k, v in groups["before"].items()})
        for some in (progress.best, *trail):
            if some and {k: tuple(v.shape) for k, v in some.items()} != wanted:
                raise ValueError("its best rows, or those before its steps, have another shape")
        if progress.best:
            score, *each = (float(number) for number in numbers["lowest"])
            progress.lowest = ValidationResult(score, {}, tuple(each))
        progress.best_step = int(numbers["best_step"])
        progress.best_figures = {k: float(v) for k, v in numbers["best_figures"].items()}
        progress.without_gain = int(numbers["without_gain"])
        progress.extended = bool(numbers.get("extended", False))
        if "share" in numbers:  # states of earlier versions had none of it
            progress.backtracking = Backtracking(
                config.backtrack,
                float(numbers["share"]),
                numbers["lowest_free"],
                trail,
                bool(numbers.get("returned", False)),
            )
        return progress


def _trail(before: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Rows before each of the last steps; earlier versions saved those of one."""
    stacked = {k: v if v.dim() == 3 else v[None] for k, v in before.items()}
    steps = zip(*stacked.values(), strict=True)
    return [dict(zip(stacked, rows, strict=True)) for rows in steps]
