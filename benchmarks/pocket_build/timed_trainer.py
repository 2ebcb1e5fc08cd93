"""One timed training stage: a loop with a time budget that can be killed and taken up again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

_SAVE_EVERY = 30.0
_OPTIMIZERS = ("adam", "muon")


class TimedTrainer:
    """Trains a module for `seconds`, learning rate by the elapsed share of them.

    Weights, their running average, and the optimizers' moments are saved every half minute into
    `folder`; a later Stage of the same name goes on from there. A finished stage does nothing.
    AdamW moves all weights but `matrices`, which Muon moves at the same rate.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        folder: Path,
        seconds: float,
        rate: float,
        decay: float = 0.999,
        matrices: Sequence[nn.Parameter] = (),
    ) -> None:
        self.name, self.module = name, module
        self.seconds, self.rate, self.decay = seconds, rate, decay
        self.steps, self.spent = 0, 0.0
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        apart = {id(matrix) for matrix in matrices}
        rest = [weights for weights in module.parameters() if id(weights) not in apart]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
        ]
        if matrices:
            self.optimizers.append(
                torch.optim.Muon(
                    matrices, lr=rate, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw"
                )
            )
        self.file = folder / f"{name}.safetensors"
        if self.file.exists():
            self._load()

    def run(self, loss_of: Callable[[torch.Generator], Tensor]) -> None:
        """Train until the time is spent; `loss_of` draws a batch and gives its loss.

        The process's own time counts: beside other work a build takes longer and is not worse.
        """
        bar = tqdm(total=round(self.seconds), initial=round(self.spent), desc=self.name, unit="s")
        saved, last = time.monotonic(), time.process_time()
        random = torch.Generator().manual_seed(self.steps)
        self.module.train()
        while self.spent < self.seconds:
            share = self.spent / self.seconds
            warm = min(1.0, (self.steps + 1) / 100)
            rate = self.rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            loss = loss_of(random)
            self.module.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.steps += 1
            self._follow()
            worked = time.process_time()
            self.spent, last = self.spent + worked - last, worked
            bar.n = min(round(self.spent), bar.total)
            bar.set_postfix(step=self.steps, loss=f"{loss.item():.4f}")
            if time.monotonic() - saved > _SAVE_EVERY:
                self._save()
                saved = time.monotonic()
        self._save()
        bar.close()
        self.module.load_state_dict(self.average)
        self.module.eval().requires_grad_(False)

    def _follow(self) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def _save(self) -> None:
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for name, optimizer in zip(_OPTIMIZERS, self.optimizers, strict=False):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v for k, v in state.items()}
        progress = {"steps": str(self.steps), "spent": str(self.spent)}
        part = self.file.with_suffix(".part")
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, part, progress)
        part.replace(self.file)

    def _load(self) -> None:
        with safe_open(self.file, "pt") as saved:
            progress = saved.metadata()
            tensors = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
        self.steps, self.spent = int(progress["steps"]), float(progress["spent"])
        groups: dict[str, dict[str, Tensor]] = {"module": {}, "average": {}}
        moments: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in _OPTIMIZERS}
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            if kind in moments:
                index, entry = name.split(".", 1)
                moments[kind].setdefault(int(index), {})[entry] = value
            else:
                groups[kind][name] = value
        self.module.load_state_dict(groups["module"])
        self.average = groups["average"]
        for name, optimizer in zip(_OPTIMIZERS, self.optimizers, strict=False):
            fresh = optimizer.state_dict()
            optimizer.load_state_dict(
                {"state": moments[name], "param_groups": fresh["param_groups"]}
            )
