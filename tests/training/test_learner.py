"""The learner of every host, from end to end on a tiny real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import LATENT, tiny_model
from tiny_run import settings
from tiny_train import stop_at

from apl_core.captions import Names
from apl_core.errors import ConfigError
from apl_core.example_kinds import KINDS
from apl_core.formats import read_prefix
from apl_core.prefix import Prefix
from apl_core.training.callbacks import Control, Event, Finished, Phase, Stepped, Validated
from apl_core.training.folder import RunFolder
from apl_core.training.learner import learner
from apl_core.training.loop import Model
from apl_core.training.material import Material, pictures_to_draw
from apl_core.training.people import ListedPerson
from apl_core.training.text_stage import FROM_TEXTS
from apl_core.training.validation import PromptValidator
from apl_core.training.verdict import verdict

MODEL = tiny_model()
PEOPLE = [
    ListedPerson(name)
    for name in """Ada Byron, Bo Lund, Cyd Roe, Dee Marsh, Eli Stone, Flo Reed, Gus Pond, Hal Frost,
    Ivy Wood, Jan Hill, Kit Moor, Lou Vale""".replace("\n", " ").split(", ")
]


def material(people: list[ListedPerson]) -> Material:
    """Pictures of noise, one of each name: what they show is not what is tested."""
    pictures = pictures_to_draw(people, 1, 0)
    latents = torch.randn((len(pictures), *LATENT), generator=torch.Generator().manual_seed(4))
    return Material(pictures, lambda place: latents[place])


def learned(
    folder: Path, people: list[ListedPerson], stop: int = 0, **changes: Any
) -> tuple[Prefix, list[Event]]:
    """A short run, or the rest of it, stopped after a step if it says so."""
    config = settings(**{"steps": 2, "validate_every": 2, "weight_contrast": 0.2, **changes})
    run, events, control = RunFolder(folder), list[Event](), Control()
    if not run.config.exists():
        run.create(config)
    callbacks = [events.append, stop_at(control, stop)]
    trainer = learner(
        config, MODEL, material(people), people, run, callbacks=callbacks, control=control
    )
    return trainer.run(), events


@pytest.mark.parametrize(("count", "kept"), [(5, 1), (12, 1)])
def test_of_five_names_or_more_some_are_kept_and_what_is_left_of_them_is_on_the_card(
    count: int, kept: int, tmp_path: Path
) -> None:
    people = PEOPLE[:count]
    prefix, events = learned(tmp_path / "run", people)
    card = read_prefix(tmp_path / "run" / "prefix.safetensors").card
    assert card.names_trained == count - kept and card.steps == 2
    wanted = {"name_left", "drift_things", "drift_people", "swap", "names_known"}
    assert wanted <= set(card.figures) and card.figures["drift_people"] > 0
    [checked] = [e for e in events if isinstance(e, Validated)]
    assert card.figures == pytest.approx(dict(checked.figures)) and checked.best
    phases = {e.name for e in events if isinstance(e, Phase)}
    assert phases == {"validation targets"}
    assert "of what a name changes is left" in verdict(card.figures)
    table = MODEL.encoder.token_embedding("pocket").detach()
    rows = prefix.vectors["pocket"]
    assert not any(bool((table == row).all(1).any()) for row in rows), "rows stayed words"


def test_of_four_names_all_are_learned_and_the_card_says_nothing_of_them(tmp_path: Path) -> None:
    prefix, events = learned(tmp_path / "run", PEOPLE[:4])
    assert prefix.card.names_trained == 4 and events[-1] == Finished(2, "steps")
    assert not any(key.startswith(("name_left", "drift")) for key in prefix.card.figures)
    assert "give five names or more" in verdict(prefix.card.figures)


def on_texts_alone(folder: Path, stop: int, **changes: Any) -> tuple[Prefix, list[Event]]:
    """A run on the tiny model's text encoder, stopped after a text step if it says so."""
    config = settings(**{"steps": 0, "text_steps": 8, **changes})
    run, events, control = RunFolder(folder), list[Event](), Control()
    run.create(config)

    def ask(event: Event) -> None:
        if isinstance(event, Phase) and event.done == stop:
            control.stop.set()

    named = Model(MODEL.encoder, None, "tiny", "Tiny")
    trainer = learner(
        config,
        named,
        material(PEOPLE),
        PEOPLE,
        run,
        callbacks=[events.append, ask],
        control=control,
    )
    return trainer.run(), events


def test_without_a_denoiser_texts_are_learned_from_and_nothing_is_claimed(tmp_path: Path) -> None:
    prefix, events = on_texts_alone(tmp_path / "run", 0)
    assert {e.name for e in events if isinstance(e, Phase)} == {FROM_TEXTS}
    assert prefix.card.family == "Tiny" and prefix.card.names_trained == len(PEOPLE)
    assert not prefix.card.figures
    said = verdict(prefix.card.figures, prefix.card.recipe)
    assert said.startswith("No picture had a part") and "experiment" in said
    early, told = on_texts_alone(tmp_path / "early", 3)
    assert [e.done for e in told if isinstance(e, Phase)] == [1, 2, 3]
    assert early.digest != prefix.digest
    again = learner(
        settings(steps=0, text_steps=8),
        Model(MODEL.encoder, None, "tiny", "Tiny"),
        material(PEOPLE),
        PEOPLE,
        RunFolder(tmp_path / "early"),
    ).run()
    assert again.digest == early.digest


@pytest.mark.parametrize("steps", [{"steps": 1, "text_steps": 1}, {"steps": 0, "text_steps": 0}])
def test_without_a_denoiser_no_other_steps_can_be_learned(
    steps: dict[str, int], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="learn without a denoiser"):
        on_texts_alone(tmp_path / "run", 0, **steps)


def test_a_run_that_is_not_validated_learns_from_the_same_names(tmp_path: Path) -> None:
    """Who turns validation off does not change which names are learned, and claims nothing."""
    prefix, events = learned(tmp_path / "run", PEOPLE, validate_every=0)
    assert prefix.card.names_trained == len(PEOPLE) - 1
    assert not prefix.card.figures and not any(isinstance(e, Validated) for e in events)


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    config = {"steps": 4, "target_cache": 12}
    straight, events = learned(tmp_path / "straight", PEOPLE, **config)
    _, first = learned(tmp_path / "cut", PEOPLE, stop=3, **config)
    again, rest = learned(tmp_path / "cut", PEOPLE, **config)
    assert torch.equal(again.vectors["pocket"], straight.vectors["pocket"])
    assert again.card == straight.card
    losses, parts = (
        [(e.step, e.loss) for e in some if isinstance(e, Stepped)]
        for some in (events, [*first, *rest])
    )
    assert losses == parts and len(losses) == 4


def test_nothing_that_is_kept_is_drawn_for_a_step(tmp_path: Path) -> None:
    """Ada King and Anne Byron mix into Ada Byron, who is kept."""
    names = ("Ada Byron", "Ada King", "Anne Byron", "Cyd Roe", "Dee Marsh")
    people = [ListedPerson(name) for name in names]
    trainer = learner(settings(), MODEL, material(people), people, RunFolder(tmp_path))
    assert isinstance(trainer.validator, PromptValidator)
    kept = {example.prompt for example in trainer.validator.examples}
    drawn = [
        e for k in KINDS for e in trainer.source.draw(k, 600, torch.Generator().manual_seed(1))
    ]
    assert not any(Names(names[:1]).find(e.prompt) for e in drawn)
    assert not kept & {example.prompt for example in drawn}
    assert any(Names(names[:1]).find(prompt) for prompt in kept)
