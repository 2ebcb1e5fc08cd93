"""How much of a name a prefix leaves, and what else it changes, without anybody who knows faces.

On a noised latent x_t, with the frozen denoiser eps, the frozen encoder tau and the prefix P, a
name prompt c with its neutral prompt c2 gives

    d = eps(x_t, t, tau(c)) - eps(x_t, t, tau(c2))      what the name changes
    r = eps(x_t, t, tau(P + c)) - eps(x_t, t, tau(c2))  what is changed with the prefix in place
    name_left = sum <r, d> / sum <d, d>

with sums over the noise levels: 1 is the name as the model draws it, 0 is nobody. A name-free
prompt c, another one of its kind c' and, where there is one, c with a word swapped c* give

    drift = |eps(P + c) - eps(c)| / mean |eps(c') - eps(c)|
    swap  = sum <eps(P + c) - eps(c), s> / sum <s, s>,  s = eps(c*) - eps(c)

the change beside that of another caption, and how far a word has turned into the other one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..example_kinds import KINDS, Kind
from ..objective import Example, encode_unique
from ..ports import Conditioning, DenoiserPort, TextEncoderPort
from ..prefix import Rows
from ..schedule import Schedule
from ..tokens import CHUNK, room
from .callbacks import PhaseReport, ValidationResult
from .micro import MicroBatch
from .parallel import Group
from .scale import next_of_kind
from .step import by_chunks

log = logging.getLogger("apl")

SIGNAL = (0.3, 0.1, 0.03)
"""Noise levels that are measured at: share of the signal's variance that is left (alpha_bar)."""

UNKNOWN = 0.1
"""A name that changes less than this share of what another caption changes is not known."""

LEAST = 0.01
"""A swapped word that changes less than this share of it is none: what is measured is rounding."""


def levels(schedule: Schedule, shares: Sequence[float] = SIGNAL) -> list[int]:
    """The steps of a schedule that are nearest to these shares of signal."""
    kept = schedule.alphas_cumprod
    return [int((kept - share).abs().argmin()) for share in shares]


@dataclass(frozen=True)
class Interval:
    """A mean over names or prompts with half the width of its 95 % interval (nan of one value)."""

    mean: float
    off: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Interval:
        """Of independent values; nan without any. Student's t is taken as 1.96."""
        if not values:
            return Interval(math.nan, math.nan, 0)
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return Interval(mean, math.nan, 1)
        variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
        return Interval(mean, 1.96 * math.sqrt(variance / len(values)), len(values))


@dataclass(frozen=True, eq=False)
class _Level:
    """What no prefix changes at one noise level, on the CPU: all (N, C, H, W) but t."""

    t: int
    x_t: Tensor
    base: Tensor
    direction: Tensor


_Encoded = dict[tuple[str, ...], Conditioning]
"""Texts that were encoded already: the noise levels share them."""


def _floats(values: Tensor) -> list[float]:
    return [float(value) for value in values]


class PromptValidator:
    """Measures a prefix on fixed examples that nothing is learned from; a `Validator`.

    Examples of kind `identity` bring a name prompt and its neutral prompt; those of the other kinds
    are name-free and may bring a contrast. Give two or more of a kind: each is compared with the
    next one's caption. Names whose change is small beside another caption's are not known to the
    model: `unknown` holds their prompts, and they do not count, unless it knows none of them. The
    score is the share of names that is left, where it is above 0, plus the mean drift of each
    name-free kind: lower is better.
    """

    def __init__(
        self,
        encoder: TextEncoderPort,
        denoiser: DenoiserPort,
        examples: Sequence[Example],
        micro_batch: int = 0,
        seed: int = 0,
        progress: PhaseReport = lambda name, done, total: None,
    ) -> None:
        self.encoder, self.denoiser, self.examples = encoder, denoiser, tuple(examples)
        self.unknown: tuple[str, ...] = ()
        self._group, self._micro = Group(), MicroBatch(micro_batch)
        self._seed, self._progress = seed, progress
        self._levels: list[_Level] = []
        self._lengths = self._others = torch.zeros(0)

    def __call__(self, rows: Rows | None) -> ValidationResult:
        """Figures `name_left`, `drift_things`, `drift_people`, `swap`; each with `_off` (95 %).

        Without rows names are left whole and nothing drifts: 1, 0, 0 and 0.
        """
        if not self._levels:
            self._prepare()
        along, change = torch.zeros(len(self.examples)), torch.zeros(len(self.examples))
        prompts, encoded = [e.prompt for e in self.examples], _Encoded()
        for level in self._levels:
            apart = self._predict(prompts, level, rows, encoded) - level.base
            along += (apart * level.direction).flatten(1).sum(1)
            change += apart.square().flatten(1).sum(1)
        share = along / self._lengths.clamp_min(torch.finfo(along.dtype).tiny)
        drift = (change / self._others).sqrt()
        found: dict[str, Interval] = {}
        each: list[float] = []
        every = self._places("identity")
        known = [i for i in every if self.examples[i].prompt not in self.unknown]
        if named := known or every:
            found["name_left"] = Interval.of(_floats(share[named]))
            each += _floats(share[named].clamp_min(0) / len(named))
        for kind in KINDS[1:]:
            if places := self._places(kind):
                found[f"drift_{kind}"] = Interval.of(_floats(drift[places]))
                each += _floats(drift[places] / len(places))
        if swapped := [i for i in self._free() if self._lengths[i] > self._others[i] * LEAST**2]:
            found["swap"] = Interval.of(_floats(share[swapped]))
        figures = {name: interval.mean for name, interval in found.items()}
        figures |= {f"{n}_off": found[n].off for n in found if found[n].count > 1}
        figures["names_known"] = len(known) / max(len(every), 1)
        return ValidationResult(math.fsum(each), figures, tuple(each))

    def _prepare(self) -> None:
        latents = torch.stack([e.latent for e in self.examples]).float()
        random = torch.Generator().manual_seed(self._seed)
        prompts, neutral = [e.prompt for e in self.examples], [e.neutral for e in self.examples]
        swapped = [e.contrast_prompt or e.prompt for e in self.examples]
        directed = [
            p if e.kind == "identity" else s
            for e, p, s in zip(self.examples, prompts, swapped, strict=True)
        ]
        others = self._other_prompts()
        changes, encoded = torch.zeros(len(self.examples)), _Encoded()
        steps = levels(self.denoiser.schedule)
        for done, t in enumerate(steps, 1):
            noise = torch.randn(latents.shape, generator=random)
            at = torch.full((len(latents),), t)
            x_t = self.denoiser.schedule.q_sample(latents, noise, at)
            blank = torch.zeros_like(x_t)
            level = _Level(t, x_t, blank, blank)
            base = self._predict(neutral, level, None, encoded)
            direction = self._predict(directed, level, None, encoded) - base
            changes += (
                (self._predict(others, level, None, encoded) - base).square().flatten(1).sum(1)
            )
            self._levels.append(_Level(t, x_t, base, direction))
            self._progress("validation targets", done, len(steps))
        self._lengths = sum(
            (level.direction.square().flatten(1).sum(1) for level in self._levels),
            torch.zeros(len(self.examples)),
        )
        self._others = torch.ones_like(changes)
        for kind in KINDS:
            if places := self._places(kind):
                self._others[places] = changes[places].mean().clamp_min(1e-12)
        self.unknown = tuple(
            self.examples[i].prompt
            for i in self._places("identity")
            if float(self._lengths[i] / self._others[i]) < UNKNOWN**2
        )
        if self.unknown:
            log.warning(
                "%d of %d name prompts kept for validation change next to nothing: the model does "
                "not know these names, and they do not count",
                len(self.unknown),
                len(self._places("identity")),
            )

    def _other_prompts(self) -> list[str]:
        """The next caption of each example's kind; for names those of name-free prompts."""
        found = [self.examples[i].prompt for i in next_of_kind(self.examples)]
        if free := self._places("people") or self._places("things"):
            for number, place in enumerate(self._places("identity")):
                found[place] = self.examples[free[number % len(free)]].prompt
        return found

    def _places(self, kind: Kind) -> list[int]:
        return [i for i, e in enumerate(self.examples) if e.kind == kind]

    def _free(self) -> list[int]:
        return [i for i, e in enumerate(self.examples) if e.kind != "identity"]

    def _predict(
        self, texts: Sequence[str], level: _Level, rows: Rows | None, encoded: _Encoded
    ) -> Tensor:
        """Noise predictions (N, C, H, W) on the CPU, shared out among the processes of a run."""
        device, mine = self.denoiser.device, self._group.share(len(texts))
        found = torch.zeros_like(level.x_t)

        def run(part: list[int]) -> None:
            at = torch.full((len(part),), level.t, device=device)
            some = tuple(texts[i] for i in part)
            if some not in encoded:
                encoded[some] = encode_unique(self.encoder, some, rows)
            x_t = level.x_t[part].to(device)
            found[part] = self.denoiser.predict_noise(x_t, at, encoded[some]).float().cpu()

        space = CHUNK if rows is None else room(rows.n)
        with torch.no_grad():
            for some in by_chunks(self.encoder, [texts[i] for i in mine], space):
                self._micro.each([mine[i] for i in some], run)
        return self._group.gather(found[mine], len(texts))
