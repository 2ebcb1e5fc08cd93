"""Settings: nothing unknown, nothing out of range, all faults at once, and back from TOML."""

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apl_core.errors import ConfigError
from apl_core.training import renamed as module
from apl_core.training.config import PAPER, PRESETS, SETTINGS, TrainConfig, allowed, preset
from apl_core.training.renamed import GONE, RENAMED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FIELDS = {name: declared.default for name, declared in SETTINGS.items()}
CHOICES = {n: f.metadata["choices"] for n, f in SETTINGS.items() if f.metadata["choices"]}
RANGES = {n: (f.metadata["min"], f.metadata["max"]) for n, f in SETTINGS.items()}
RANGES = {name: ends for name, ends in RANGES.items() if ends != (None, None)}


def problems_of(given: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as told:
        TrainConfig.from_mapping(given)
    return [str(problem) for problem in told.value.problems]


def test_every_setting_has_a_help_and_a_choice_or_a_range() -> None:
    assert all(len(declared.metadata["help"]) > 9 for declared in SETTINGS.values())
    assert set(RANGES) | set(CHOICES) == set(FIELDS)
    assert not set(RANGES) & set(CHOICES)


@pytest.mark.parametrize("config", [TrainConfig(), PAPER])
def test_the_recipes_survive_toml(config: TrainConfig) -> None:
    assert TrainConfig.from_mapping(tomllib.loads(config.to_toml())) == config


def values(name: str) -> st.SearchStrategy[Any]:
    if name in CHOICES:
        return st.sampled_from(CHOICES[name])
    low, high = RANGES[name]
    if isinstance(FIELDS[name], float):
        return st.floats(low, high)
    return st.integers(int(low), int(high))


@given(given=st.fixed_dictionaries({}, optional={name: values(name) for name in FIELDS}))
def test_whatever_is_accepted_comes_back_from_toml(given: dict[str, Any]) -> None:
    try:
        config = TrainConfig.from_mapping(given)
    except ConfigError:  # values in range can still contradict one another
        return
    back = TrainConfig.from_mapping(tomllib.loads(config.to_toml()))
    assert back == config
    assert all(getattr(config, name) == value for name, value in given.items())


def test_an_unknown_setting_is_told_with_the_nearest_name() -> None:
    [problem] = problems_of({"stpes": 300})
    assert "stpes" in problem and "did you mean steps?" in problem
    [problem] = problems_of({"zzz": 1})
    assert "known are" in problem and "repulsion" in problem


def test_an_unknown_choice_is_told_with_the_nearest_name() -> None:
    [problem] = problems_of({"target": "discription"})
    assert "did you mean description?" in problem and "empty" in problem


def test_all_faults_come_at_once() -> None:
    given = {
        "stpes": 5,
        "learning_rate": -1.0,
        "seed": "x",
        "lr_scheduler": "cosin",
        "num_vectors": 80,
        "target_cache": 3,
    }
    problems = problems_of(given)
    assert len(problems) == len(given)
    for name in given:
        assert any(name in problem for problem in problems), name
    with pytest.raises(ConfigError) as told:
        TrainConfig.from_mapping(given)
    assert all(name in str(told.value) for name in given)


@pytest.mark.parametrize("name", sorted(RANGES))
def test_both_ends_of_every_range(name: str) -> None:
    low, high = RANGES[name]
    step = 1 if isinstance(FIELDS[name], int) else 1e-3
    kind = type(FIELDS[name])
    for value in (low - step, high + step):
        problems = problems_of({name: kind(value)})
        assert any(f"set {name}" in p and allowed(SETTINGS[name]) in p for p in problems)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_is_finite(value: float) -> None:
    assert any("rate" in problem for problem in problems_of({"learning_rate": value}))


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"steps": 10.0}, "float"),
        ({"steps": True}, "bool"),
        ({"learning_rate": False}, "bool"),
        ({"target": 3}, "int"),
        ({"steps": None}, "NoneType"),
        ({"recipe": ["paper"]}, "list"),
    ],
)
def test_a_value_has_its_type(given: dict[str, Any], kind: str) -> None:
    [problem] = problems_of(given)
    assert kind in problem


def test_a_micro_batch_may_be_found_out() -> None:
    assert TrainConfig.from_mapping({"micro_batch": "auto"}).micro_batch == 0
    with pytest.raises(ConfigError, match="micro_batch"):
        TrainConfig.from_mapping({"micro_batch": "all"})


def test_a_whole_number_does_for_a_fraction() -> None:
    assert TrainConfig.from_mapping({"max_grad_norm": 1}).max_grad_norm == 1.0


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"num_vectors": 4, "num_suffix_vectors": 5}, "num_suffix_vectors"),
        ({"target_cache": 10}, "target_cache"),
        ({"recipe": "paper", "repulsion": 0.5}, "repulsion"),
        ({"recipe": "paper", "batch_things": 0}, "batch_things"),
        ({"recipe": "paper", "batch_people": 2}, "batch_people"),
        ({"recipe": "paper", "optimizer": "muon"}, "optimizer"),
    ],
)
def test_values_that_contradict_one_another(given: dict[str, Any], name: str) -> None:
    [problem] = problems_of(given)
    assert problem.startswith(f"set {name}")


def test_the_paper_s_recipe_is_the_authors_table() -> None:
    config = TrainConfig.from_mapping({"recipe": "paper"})
    assert config == PAPER
    assert (config.num_vectors, config.num_suffix_vectors, config.prefix_init) == (10, 0, "uniform")
    assert (
        config.learning_rate,
        config.lr_scheduler,
        config.lr_warmup_steps,
        config.max_grad_norm,
    ) == (1e-3, "constant", 0, 0)
    assert (config.batch_identity, config.batch_things, config.batch_people) == (1, 1, 0)
    assert (config.repulsion, config.target_cache, config.target) == (0, 0, "empty")
    assert TrainConfig.from_mapping({"recipe": "paper", "target": "person"}).target == "person"


def test_a_run_learns_from_each_example_or_those_of_its_cache() -> None:
    counts = {"batch_identity": 3, "batch_things": 2, "batch_people": 1, "steps": 10}
    for changes, targets in (
        ({"target_cache": 0}, 60),
        ({"target_cache": 24}, 24),
        ({"target_cache": 90}, 60),
        ({"target_cache": 24, "target_cache_uses": 4}, 60),
    ):
        config = TrainConfig.from_mapping({**counts, **changes})
        assert (config.samples, config.num_targets) == (60, targets)
    paper = TrainConfig.from_mapping({"recipe": "paper", "steps": 10})
    assert (paper.samples, paper.num_targets) == (10, 10)


def test_names_of_before_are_read_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    module._tell.cache_clear()  # pyright: ignore[reportPrivateUsage]
    old = {name: FIELDS[new] for name, new in RENAMED.items()}
    assert TrainConfig.from_mapping({**old, "autocast": "off", "steps": 7}) == TrainConfig(
        steps=7, max_steps=0
    )
    lines = [f"`{name}` is called {new} now" for name, new in RENAMED.items()]
    off = '`mixed_precision = "off"` is written mixed_precision = "no" now'
    assert sorted(caplog.messages) == sorted([*lines, off])
    assert TrainConfig.from_mapping({"rate": 0.25, "clip": 1}) == TrainConfig(
        learning_rate=0.25, max_grad_norm=1.0
    )
    assert len(caplog.messages) == len(RENAMED) + 1
    assert not set(RENAMED) & set(FIELDS) and set(RENAMED.values()) <= set(FIELDS)


def test_a_setting_under_both_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set learning_rate: .*rate too"):
        TrainConfig.from_mapping({"rate": 0.1, "learning_rate": 0.1})


FORMER = """
recipe = "apl"
seed = 0
num_vectors = 10
num_suffix_vectors = 5
target = "person"
weighting = "eps"
min_timestep = 300
min_timestep_free = 0
learning_rate = 0.03
warm_start_steps = 0
target_cache = 512
"""
"""A config.toml that a learner of before has written."""


def test_a_run_of_the_former_learner_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError) as told:
        TrainConfig.from_mapping(tomllib.loads(FORMER))
    text = str(told.value)
    assert text.startswith("set min_timestep: ") and "\n" not in text
    assert "former learner" in text and "prefix.safetensors" in text and "max_snr" in text
    for name, today in GONE.items():
        assert name not in FIELDS and today in FIELDS
        with pytest.raises(ConfigError, match=f"set {name}: .*give {today}"):
            TrainConfig.from_mapping({name: 0})


def test_an_absolute_step_size_of_before_is_refused_but_for_the_paper_s() -> None:
    for rate in (0.03, 2e-3):
        [problem] = problems_of({"learning_rate": rate})
        assert problem.startswith("set learning_rate") and "lengths of a token embedding" in problem
        assert TrainConfig.from_mapping({"recipe": "paper", "learning_rate": rate})


def test_nothing_is_measured_and_no_patience_is_asked_for() -> None:
    assert TrainConfig.from_mapping({"validate_every": 0}).validate_every == 0


def test_presets_are_the_recipe_for_more_or_fewer_steps() -> None:
    configs = {key: preset(key) for key in PRESETS}
    assert configs["standard"] == TrainConfig()
    given = TrainConfig.from_mapping({"steps": 40}, configs["standard"])
    assert (given.steps, given.max_steps) == (40, 0), "so many were asked for, and no more"
    steps = [config.steps for config in configs.values()]
    assert list(configs) == ["quick", "standard", "thorough"] and steps == sorted(set(steps))
    for key, config in configs.items():
        changed = {name for name in FIELDS if getattr(config, name) != FIELDS[name]}
        assert changed <= {"steps", "max_steps", "validate_every"}, (
            "a preset says how long to learn"
        )
        assert f"{config.steps:,} steps" in PRESETS[key].title
        assert TrainConfig.from_mapping(tomllib.loads(config.to_toml())) == config
        assert 0 < config.validate_every <= config.steps, "nothing is measured before the end"


def test_an_unknown_preset_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'fast'.*quick, standard, thorough"):
        preset("fast")
