"""`name_left`, `drift` and `swap`: against the formulas, and where they are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_model import LATENT, NAMES, PEOPLE, THINGS, tiny_model

from apl_core.objective import Example
from apl_core.ports import Conditioning
from apl_core.prefix import Rows
from apl_core.schedule import Schedule
from apl_core.training.validation import SIGNAL, Interval, PromptValidator, levels
from apl_core.training.verdict import ENOUGH, verdict

MODEL = tiny_model()
NEUTRAL = "a photo of an old person"


def examples() -> list[Example]:
    """Four names, three people of whom one has a swapped word, three things."""
    random = torch.Generator().manual_seed(3)
    latents = iter(torch.randn((10, *LATENT), generator=random))
    found = [Example("identity", next(latents), f"a photo of {n}", NEUTRAL) for n in NAMES]
    people = [Example("people", next(latents), text, text) for text in PEOPLE]
    people[0] = replace(people[0], contrast_prompt=PEOPLE[0].replace("man", "woman"))
    return [*found, *people, *(Example("things", next(latents), text, text) for text in THINGS)]


def rows(scale: float = 1.0) -> Rows:
    random = torch.Generator().manual_seed(7)
    return Rows({"pocket": scale * torch.randn((5, 128), generator=random)}, 2)


class Rewriting:
    """The real encoder, but with rows it reads other prompts instead: what a prefix would do."""

    def __init__(self, instead: dict[str, str]) -> None:
        self.inner, self.instead = MODEL.encoder, instead
        self.widths, self.modules = self.inner.widths, self.inner.modules
        self.pieces = self.inner.pieces

    def token_embedding(self, key: str) -> torch.Tensor:
        return self.inner.token_embedding(key)

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        if rows is not None:
            texts = [self.instead.get(text, text) for text in texts]
        return self.inner.encode(texts, None)


def test_without_a_prefix_names_are_left_whole_and_nothing_drifts() -> None:
    figures = PromptValidator(MODEL.encoder, MODEL.denoiser, examples())(None).figures
    assert figures["name_left"] == pytest.approx(1, abs=1e-6)
    assert figures["drift_things"] == figures["drift_people"] == figures["swap"] == 0


def test_a_prefix_that_says_a_person_for_every_name_leaves_nothing() -> None:
    encoder = Rewriting({f"a photo of {name}": NEUTRAL for name in NAMES})
    result = PromptValidator(encoder, MODEL.denoiser, examples())(rows())
    assert abs(result.figures["name_left"]) < 1e-6 and abs(result.score) < 1e-6


def test_a_caption_read_as_the_next_one_has_drifted_whole_and_a_swapped_word_is_swapped() -> None:
    cycle = dict(zip(THINGS, [*THINGS[1:], THINGS[0]], strict=True))
    encoder = Rewriting({**cycle, PEOPLE[0]: PEOPLE[0].replace("man", "woman")})
    figures = PromptValidator(encoder, MODEL.denoiser, examples())(rows()).figures
    assert figures["name_left"] == pytest.approx(1, abs=1e-6)
    assert figures["drift_things"] == pytest.approx(1, abs=0.25)  # a mean of ratios
    assert figures["swap"] == pytest.approx(1, abs=1e-6)
    assert 0 < figures["drift_people"] < 1


def test_the_figures_are_those_of_the_formulas() -> None:
    given, prefix, seed = examples(), rows(), 11
    result = PromptValidator(MODEL.encoder, MODEL.denoiser, given, seed=seed)(prefix)
    random = torch.Generator().manual_seed(seed)
    latents = torch.stack([e.latent for e in given])
    along, length = torch.zeros(4), torch.zeros(4)
    for t in levels(MODEL.denoiser.schedule):
        at = torch.full((len(given),), t)
        noise = torch.randn(latents.shape, generator=random)
        x_t = MODEL.denoiser.schedule.q_sample(latents, noise, at)

        def eps(texts: list[str], rows: Rows | None) -> torch.Tensor:
            with torch.no_grad():
                encoded = MODEL.encoder.encode(texts, rows)
                return MODEL.denoiser.predict_noise(x_t[:4], at[:4], encoded)  # noqa: B023

        names = [e.prompt for e in given[:4]]
        neutral = eps([NEUTRAL] * 4, None)
        changed, left = eps(names, None) - neutral, eps(names, prefix) - neutral
        along += (changed * left).flatten(1).sum(1)
        length += changed.square().flatten(1).sum(1)
    assert result.figures["name_left"] == pytest.approx(float((along / length).mean()), rel=1e-4)
    assert result.score == pytest.approx(sum(result.each))
    assert len(result.each) == len(given)


def test_a_name_that_changes_nothing_is_unknown_and_does_not_count() -> None:
    given = examples()
    nobody = replace(given[0], prompt=NEUTRAL)
    validator = PromptValidator(MODEL.encoder, MODEL.denoiser, [nobody, *given])
    result = validator(rows())
    assert validator.unknown == (NEUTRAL,)
    assert len(result.each) == len(given) and math.isfinite(result.score)


def test_a_swapped_word_that_changes_nothing_but_rounding_does_not_count() -> None:
    """MiniLM knows no capitals: "Man" for "man" gave a swap of 351."""

    class Rounding(Rewriting):
        def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
            plain = super().encode([text.replace("  ", " ") for text in texts], rows)
            blanks = torch.tensor([1e-6 * ("  " in text) for text in texts])
            return Conditioning(plain.cross + blanks[:, None, None])

    given = examples()
    given[4] = replace(given[4], contrast_prompt=given[4].prompt.replace(" ", "  "))
    found = PromptValidator(Rounding({}), MODEL.denoiser, given)(rows()).figures
    assert "swap" not in found and math.isfinite(found["drift_people"])


def test_names_that_are_all_unknown_choose_a_step_and_claim_nothing() -> None:
    given = [replace(e, prompt=NEUTRAL) if e.kind == "identity" else e for e in examples()]
    result = PromptValidator(MODEL.encoder, MODEL.denoiser, given)(rows())
    assert result.figures["names_known"] == 0 and len(result.each) == len(given)
    assert "knows none" in verdict(result.figures)


def test_the_last_line_calls_what_leaves_much_an_experiment() -> None:
    assert "five names" in verdict({})
    known = {"name_left": 0.04, "name_left_off": 0.02, "drift_people": 0.1, "names_known": 1.0}
    assert "4% ± 2%" in verdict(known) and "experiment" not in verdict(known)
    assert "an experiment, not a protection" in verdict({**known, "name_left": ENOUGH + 0.01})


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_measure_the_same(micro: int) -> None:
    whole = PromptValidator(MODEL.encoder, MODEL.denoiser, examples())(rows())
    parts = PromptValidator(MODEL.encoder, MODEL.denoiser, examples(), micro)(rows())
    assert parts.figures == pytest.approx(whole.figures, rel=1e-3, abs=1e-5)


def test_noise_levels_are_shares_of_signal_in_any_schedule() -> None:
    for schedule in (Schedule.scaled_linear(), Schedule.scaled_linear(500, 0.001, 0.03)):
        kept = [float(schedule.alphas_cumprod[t]) for t in levels(schedule)]
        assert kept == pytest.approx(SIGNAL, abs=0.01)


def test_an_interval_holds_the_mean_of_its_values() -> None:
    assert Interval.of([1.0, 2.0, 3.0]) == Interval(2.0, pytest.approx(1.96 / 3**0.5), 3)
    assert math.isnan(Interval.of([]).mean) and math.isnan(Interval.of([1.0]).off)
