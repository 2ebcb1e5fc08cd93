"""What a run does: its events, requests, early stop, errors."""

import json
import logging
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import TinyJudge, TinySource, xl_model
from tiny_run import settings
from tiny_train import MODEL, stop_at, timeless, train

from apl_core.errors import ConfigError, FitError, RunError
from apl_core.example_kinds import Kind
from apl_core.fit import fingerprint
from apl_core.formats import read_prefix
from apl_core.objective import Example
from apl_core.prefix import Prefix, Rows
from apl_core.training.callbacks import (
    Control,
    Event,
    Extended,
    Finished,
    Phase,
    Previewed,
    Saved,
    Stepped,
    Validated,
    ValidationResult,
)
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer
from apl_core.training.schedules import learning_rate
from apl_core.training.verdict import ENOUGH


def run_of(config: TrainConfig, folder: Path, **more: Any) -> list[Event]:
    events: list[Event] = []
    train(folder, config, events.append, **more)
    return events


def test_it_learns_what_it_is_taught(tmp_path: Path) -> None:
    """A pool as small as the batch: the same batch every step, so its loss has to fall."""
    config = settings(
        target_cache=6, steps=60, learning_rate=0.25, validate_every=0, save_every=100
    )
    losses = [e.loss for e in run_of(config, tmp_path) if isinstance(e, Stepped)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_events_and_metrics_tell_the_same_story(tmp_path: Path) -> None:
    config = settings(target_cache=12, text_steps=2)
    events = run_of(config, tmp_path)
    steps = [e for e in events if isinstance(e, Stepped)]
    checks = [e for e in events if isinstance(e, Validated)]
    assert [e.step for e in steps] == list(range(1, 13)) and {e.steps for e in steps} == {12}
    assert [e.step for e in checks] == [3, 6, 9, 12]
    assert {e.step for e in events if isinstance(e, Saved)} == {2, 4, 6, 8, 10, 12}
    assert events[-1] == Finished(12, "steps")
    phases = [e for e in events if isinstance(e, Phase)]
    assert {p.name for p in phases} == {"learning from texts"}
    assert all(p.done <= p.total for p in phases) and phases[-1].done == phases[-1].total
    rows = RunFolder(tmp_path).rows()
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 13))
    for event in steps:
        row = next(r for r in rows if r["step"] == event.step and "loss" in r)
        assert row["loss"] == event.loss and row["learning_rate"] == event.learning_rate
        assert {k: row[k] for k in ("identity", "things", "people")} == event.losses
        weighted = sum(config.weights[kind] * row[kind] for kind in config.weights)
        assert event.loss == pytest.approx(weighted)
    for event in checks:
        row = next(r for r in rows if r["step"] == event.step and "score" in r)
        assert row["score"] == event.score and row["norm_ratio"] == event.figures["norm_ratio"]
    assert (tmp_path / "config.toml").read_text() == config.to_toml()


def test_a_resumed_run_makes_its_pool_again_and_says_so(tmp_path: Path) -> None:
    control = Control()
    train(tmp_path, settings(target_cache=12), stop_at(control, 5), control=control)
    events = run_of(settings(target_cache=12), tmp_path)
    phases = [e for e in events if isinstance(e, Phase)]
    assert phases == [Phase("teacher predictions", done, 12) for done in (6, 12)]


def test_the_best_prefix_is_kept_with_its_figures(tmp_path: Path) -> None:
    events = run_of(settings(steps=30, learning_rate=0.625, lr_scheduler="constant"), tmp_path)
    checks = [e for e in events if isinstance(e, Validated)]
    best = min(checks, key=lambda e: e.score)
    assert best is not checks[-1], "the run is too easy: its last check is its best"
    assert [e.best for e in checks] == [
        e.score < min((c.score for c in checks[:i]), default=math.inf) for i, e in enumerate(checks)
    ]
    prefix = read_prefix(tmp_path / "prefix.safetensors")
    assert TinyJudge(MODEL)(prefix.rows()).score == pytest.approx(best.score, rel=1e-6)
    card = prefix.card
    assert card.steps == best.step and card.figures == pytest.approx(dict(best.figures))
    table = MODEL.encoder.token_embedding("pocket")
    assert card.fingerprints == {"pocket": fingerprint(table)}
    assert (card.base_model, card.seed, prefix.behind, prefix.n) == ("tiny model", 0, 2, 4)


def test_without_a_judge_the_last_rows_are_the_result(tmp_path: Path) -> None:
    events = run_of(settings(), tmp_path, validated=False)
    prefix = read_prefix(tmp_path / "prefix.safetensors")
    assert prefix.card.steps == 12
    checks = [e for e in events if isinstance(e, Validated)]
    assert len(checks) == 4 and not any(e.best for e in checks)
    text = (tmp_path / "metrics.jsonl").read_text() + (tmp_path / "state.json").read_text()
    assert "NaN" not in text and "Infinity" not in text  # neither is JSON


def test_early_stop_keeps_the_best_and_stays_stopped(tmp_path: Path) -> None:
    scores = [5.0, 3.0, 4.0, 3.0, 6.0, 1.0]
    seen: list[Rows] = []

    def validator(rows: Rows) -> ValidationResult:
        kept = {k: v.detach().clone() for k, v in rows.vectors.items()}
        seen.append(Rows(kept, rows.behind))
        return ValidationResult(scores[len(seen) - 1], {"undefined": math.nan})

    config = settings(steps=40, validate_every=2, patience=3, save_every=100)
    run = RunFolder(tmp_path)
    run.create(config)
    events: list[Event] = []
    trainer = Trainer(config, MODEL, TinySource(), run, validator, callbacks=[events.append])
    prefix = trainer.run()
    assert events[-1] == Finished(10, "no gain") and len(seen) == 5
    assert torch.equal(prefix.vectors["pocket"], seen[1].vectors["pocket"])
    assert prefix.card.steps == 4 and "undefined" not in prefix.card.figures
    before = (tmp_path / "prefix.safetensors").read_bytes(), timeless(tmp_path)
    events.clear()
    trainer.run()
    assert [e for e in events if not isinstance(e, Saved)] == [Finished(10, "no gain")]
    assert ((tmp_path / "prefix.safetensors").read_bytes(), timeless(tmp_path)) == before


def leaving(left: float, known: float = 1.0) -> Callable[[Rows], ValidationResult]:
    """A validator of a prefix that leaves so much of names, however it is learned."""
    judge = TinyJudge(MODEL)

    def validator(rows: Rows) -> ValidationResult:
        return ValidationResult(judge(rows).score, {"name_left": left, "names_known": known})

    return validator


def learned(folder: Path, config: TrainConfig, validator: Any, stop: int = 0) -> list[Event]:
    """Start the run in `folder`, or go on with it, as far as a step if it is to stop there."""
    events, control, run = list[Event](), Control(), RunFolder(folder)
    if not run.config.exists():
        run.create(config)
    hear = [events.append, stop_at(control, stop)]
    Trainer(config, MODEL, TinySource(), run, validator, callbacks=hear, control=control).run()
    return events


def test_a_run_that_leaves_too_much_of_names_goes_on(tmp_path: Path) -> None:
    """A second schedule begins: the rate rises again, and falls over as many steps as are left."""
    config = settings(steps=8, max_steps=22, validate_every=5, patience=1, lr_warmup_steps=2)
    events = learned(tmp_path, config, leaving(ENOUGH + 0.01))
    steps = [e for e in events if isinstance(e, Stepped)]
    assert [e.steps for e in steps] == [8] * 8 + [22] * 14 and steps[-1].step == 22
    assert [e for e in events if isinstance(e, Extended)] == [Extended(8, 22, ENOUGH + 0.01)]
    rates = [e.learning_rate for e in steps]
    assert rates[:8] == [learning_rate(config, step, 8) for step in range(8)]
    assert rates[8:] == [learning_rate(config, step, 14) for step in range(14)]
    assert [e.step for e in events if isinstance(e, Validated)] == [5, 8, 10, 15, 20, 22]
    assert events[-1] == Finished(22, "steps")


@pytest.mark.parametrize(
    "validator",
    [leaving(ENOUGH - 0.01), leaving(0.9, known=0), TinyJudge(MODEL), None],
    ids=["little is left", "nobody is known", "another measure", "no measure"],
)
def test_a_run_ends_where_nothing_says_that_names_are_left(validator: Any, tmp_path: Path) -> None:
    events = learned(tmp_path, settings(steps=4, max_steps=12), validator)
    assert events[-1] == Finished(4, "steps")
    assert not [e for e in events if isinstance(e, Extended)]


@pytest.mark.parametrize("step", [3, 6, 8, 13])
def test_a_run_that_goes_on_resumes_exactly(step: int, tmp_path: Path) -> None:
    config, judge = settings(steps=6, max_steps=18, validate_every=3), leaving(0.5)
    learned(tmp_path / "straight", config, judge)
    learned(tmp_path / "cut", config, judge, stop=step)
    assert timeless(tmp_path / "cut")[-1]["step"] == step
    learned(tmp_path / "cut", config, judge)
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "straight")
    straight = RunFolder(tmp_path / "straight").prefix.read_bytes()
    assert RunFolder(tmp_path / "cut").prefix.read_bytes() == straight


def test_a_later_step_is_kept_where_luck_explains_the_difference(tmp_path: Path) -> None:
    asked = torch.tensor([0.4, 0.1, 0.2, 0.3])
    steps = [
        (asked + 1, True),
        (asked, True),
        (asked + torch.tensor([0.3, -0.2, 0.2, -0.2]), True),  # worse by 0.1, error 0.49
        (asked + torch.tensor([0.31, 0.3, 0.29, 0.3]), False),  # worse by 1.2, error 0.016
        (asked + torch.tensor([0.0, 0.1, 0.0, 0.0]), True),  # by exactly its error of 0.1
    ]
    number = 0

    def validator(_: Rows) -> ValidationResult:
        nonlocal number
        each = steps[number][0].double()
        number += 1
        return ValidationResult(float(each.sum()), {}, tuple(each.tolist()))

    run = RunFolder(tmp_path)
    run.create(config := settings(steps=10, validate_every=2))
    events: list[Event] = []
    control = Control()

    def stop(event: Event) -> None:
        if isinstance(event, Validated) and event.step == 6:
            control.stop.set()

    Trainer(
        config,
        MODEL,
        TinySource(),
        run,
        validator,
        callbacks=[events.append, stop],
        control=control,
    ).run()  # the lowest score is remembered with its questions
    prefix = Trainer(config, MODEL, TinySource(), run, validator, callbacks=[events.append]).run()
    assert [e.best for e in events if isinstance(e, Validated)] == [best for _, best in steps]
    assert prefix.card.steps == 10


def test_without_the_same_questions_a_lower_score_alone_wins() -> None:
    first = ValidationResult(1.0, {}, (0.5, 0.5))
    for each in ((), (0.6,), (0.3, 0.3, 0.5)):
        assert first.beats(ValidationResult(1.1, {}, each)) and first.beats(
            ValidationResult(1.0, {}, each)
        )
        assert not first.beats(ValidationResult(0.9, {}, each))


def test_without_a_judge_no_gain_is_missed(tmp_path: Path) -> None:
    """Four names leave nobody to measure on: such a run takes all its steps."""
    config = settings(patience=1, validate_every=2, steps=8)
    assert run_of(config, tmp_path, validated=False)[-1] == Finished(8, "steps")


@pytest.mark.parametrize("by", ["control", "file"])
def test_a_stop_saves_and_writes_the_prefix(by: str, tmp_path: Path) -> None:
    control = Control()

    def ask(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            if by == "file":
                (tmp_path / "stop").touch()
            else:
                threading.Thread(target=control.stop.set).start()

    config = settings(steps=10_000, validate_every=0, save_every=10_000)
    events: list[Event] = []
    train(tmp_path, config, ask, events.append, control=control)
    last = events[-1]
    assert isinstance(last, Finished) and last.why == "stopped" and 5 <= last.step < 10_000
    assert Saved(last.step, tmp_path / "state.safetensors") in events
    assert read_prefix(tmp_path / "prefix.safetensors").card.steps == last.step
    assert not (tmp_path / "stop").exists()
    if by == "file":
        assert last.step == 5


@pytest.mark.parametrize("by", ["control", "file"])
@pytest.mark.parametrize("what", ["save", "preview"])
def test_requests_are_answered_once(by: str, what: str, tmp_path: Path) -> None:
    control = Control()
    drawn: list[tuple[Path, bool]] = []

    def ask(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 4:
            (tmp_path / what).touch() if by == "file" else getattr(control, what).set()

    def draw(rows: Rows, path: Path) -> None:
        drawn.append((path, torch.is_grad_enabled()))

    config = settings(validate_every=0, save_every=100)
    events: list[Event] = []
    train(tmp_path, config, ask, events.append, control=control, previewer=draw)
    step = 5 if by == "file" else 4  # files are looked for before a step
    if what == "save":
        assert [e.step for e in events if isinstance(e, Saved)] == [step, 12]
    else:
        path = tmp_path / "previews" / f"step-{step:06d}.png"
        assert drawn == [(path, False)]
        assert [e for e in events if isinstance(e, Previewed)] == [Previewed(step, path)]
    assert not (tmp_path / what).exists() and not getattr(control, what).is_set()


class Broken(TinySource):
    """Latents that are no numbers from the sixth step on."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        examples = super().draw(kind, count, random)
        self.drawn += kind == "identity"
        if self.drawn > 5:
            examples[0].latent.fill_(math.nan)
        return examples


def test_a_loss_that_is_no_number_ends_the_run_and_harms_nothing(tmp_path: Path) -> None:
    config = settings(validate_every=0)
    run = RunFolder(tmp_path / "broken")
    run.create(config)
    with pytest.raises(RunError, match=r"learn step 6.*not a finite number \(nan\).*rate"):
        Trainer(config, MODEL, Broken(), run).run()
    train(tmp_path / "broken", config, validated=False)
    train(tmp_path / "sound", config, validated=False)
    files = [(tmp_path / name / "prefix.safetensors").read_bytes() for name in ("broken", "sound")]
    assert files[0] == files[1] and timeless(tmp_path / "broken") == timeless(tmp_path / "sound")


def test_a_run_goes_on_from_a_prefix(tmp_path: Path) -> None:
    start = train(tmp_path / "first", settings(), validated=False)
    config = settings(steps=1, learning_rate=1e-9, validate_every=0)
    more = train(tmp_path / "second", config, validated=False, start=start)
    torch.testing.assert_close(more.vectors["pocket"], start.vectors["pocket"], rtol=0, atol=1e-8)


def test_a_start_of_another_shape_is_refused(tmp_path: Path) -> None:
    start = Prefix({"pocket": torch.zeros(4, 128)}, 1)
    with pytest.raises(ConfigError, match="num_vectors = 4 and num_suffix_vectors = 1"):
        train(tmp_path / "a", settings(), start=start)
    start = Prefix({"clip_l": torch.zeros(4, 768)}, 2)
    with pytest.raises(FitError, match=r"clip_l 768.*pocket 128"):
        train(tmp_path / "b", settings(), start=start)


def test_two_encoders_learn_together_and_resume_exactly(tmp_path: Path) -> None:
    model, config = xl_model(), settings(steps=4, batch_things=1, batch_people=1)
    straight = train_model(model, config, tmp_path / "straight")
    assert straight.family == "SDXL"
    control = Control()
    train_model(model, config, tmp_path / "cut", stop_at(control, 2), control=control)
    resumed = train_model(model, config, tmp_path / "cut")
    assert all(torch.equal(resumed.vectors[k], v) for k, v in straight.vectors.items())
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "straight")


def train_model(
    model: Model, config: TrainConfig, folder: Path, *callbacks: Any, **more: Any
) -> Prefix:
    run = RunFolder(folder)
    if not run.config.exists():
        run.create(config)
    return Trainer(config, model, TinySource(), run, callbacks=callbacks, **more).run()


def test_it_runs_where_a_host_has_switched_gradients_off(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", settings(steps=2), validated=False)
    with torch.no_grad():
        quiet = train(tmp_path / "no_grad", settings(steps=2), validated=False)
    with torch.inference_mode():
        inference = train(tmp_path / "inference", settings(steps=2), validated=False)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(quiet.vectors["pocket"], plain.vectors["pocket"])
    assert torch.equal(inference.vectors["pocket"], plain.vectors["pocket"])


def test_fp16_halves_its_scale_and_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    """The scaled loss overflows once; the step is left out, the run goes on."""
    from apl_core.training import loop

    true_gradient, scales = loop.gradient, []

    def overflowing(
        config: Any,
        encoder: Any,
        denoiser: Any,
        batch: Any,
        rows: Rows,
        group: Any,
        scale: float,
        *rest: Any,
    ) -> Any:
        scales.append(scale)
        found = true_gradient(config, encoder, denoiser, batch, rows, group, scale, *rest)
        if len(scales) == 2:
            grad = rows.vectors["pocket"].grad
            assert grad is not None
            grad[0, 0] = math.inf
        return found

    monkeypatch.setattr(loop, "gradient", overflowing)
    train(tmp_path, settings(mixed_precision="fp16", steps=4, validate_every=0), validated=False)
    assert scales == [1024.0, 1024.0, 512.0, 512.0]
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["scale"] == 512.0


def test_a_failing_listener_is_not_hidden_and_the_folder_is_free_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            raise BrokenPipeError("nobody reads this")

    with pytest.raises(BrokenPipeError):
        train(tmp_path, settings(), fail)
    with caplog.at_level(logging.WARNING, logger="apl"):
        train(tmp_path, settings())
    assert not caplog.records
    assert [r["step"] for r in timeless(tmp_path) if "loss" in r] == list(range(1, 13))
