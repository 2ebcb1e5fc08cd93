"""The pocket model in the repository: what it must be able to do, and the flow on top of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apl_core.errors import AplError, ConfigError
from apl_core.formats import read_prefix
from apl_core.objective import Example
from apl_trainer.cli import main
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.captions import FILLERS
from apl_trainer.pocket.metrics import PromptSet
from apl_trainer.pocket.model import PocketModel, load_pocket
from apl_trainer.pocket.networks import to_latents, to_pictures
from apl_trainer.pocket.render import THINGS, thing_distances
from apl_trainer.pocket.source import PocketSource, training_people
from apl_trainer.pocket.train import chosen_people
from apl_trainer.run_paths import BUILT_IN
from apl_trainer.sampling import Request
from apl_trainer.word_swap import other_gender
from benchmarks.pocket_build.card import read_renders


@pytest.fixture(scope="module")
def model() -> PocketModel:
    return load_pocket()


def test_the_weights_are_small_enough_for_a_repository() -> None:
    assert sum(f.stat().st_size for f in BUILT_IN.iterdir()) < 16 * 2**20


def test_the_recognizer_reads_renders_it_never_saw(model: PocketModel) -> None:
    reads = read_renders(model.recognizer, model.world, 400)
    assert reads["identity"].value > 0.97
    assert reads["gender"].value > 0.97
    assert reads["kind"].value > 0.95


def test_noise_is_no_face(model: PocketModel) -> None:
    noise = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert model.recognizer(noise).is_face().float().mean() < 0.05


def test_names_draw_their_people_and_held_out_ones_too(model: PocketModel) -> None:
    prompts = PromptSet.of(model.world, names=8, seeds=1, free=1)
    requests = [q.request() for q in prompts.named]
    with torch.no_grad():
        reading = model.recognizer(model.sampler(8).draw(requests, None))
    asked = torch.tensor([q.asked["identity"] for q in prompts.named])
    assert (reading.top("identity") == asked).float().mean() > 0.8
    assert reading.is_face().float().mean() > 0.8


def test_latents_lose_nothing() -> None:
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(to_pictures(to_latents(pictures)), pictures, atol=1e-6)


def test_a_picture_depends_on_its_own_request_alone(model: PocketModel) -> None:
    sampler = model.sampler(3)
    rows = random_rows(model.encoder, 4, 2)
    requests = [Request("a photo of a house", 1), Request("a red car, " * 30, 2), Request("", 3)]
    together = sampler.draw(requests, rows)
    alone = torch.cat([sampler.draw([r], rows) for r in requests])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(sampler.draw(requests[2:], rows), sampler.draw(requests[2:], None))


def test_examples_are_decided_by_the_generator_and_name_only_people_to_learn_from(
    model: PocketModel,
) -> None:
    learned, kept = training_people(model.world.group("train"))
    source = PocketSource(model, learned, "person", 10)

    def draw(seed: int) -> list[str]:
        random = torch.Generator().manual_seed(seed)
        return [e.prompt for e in source.draw("identity", 40, random)]

    assert draw(1) == draw(1) != draw(2)
    text = " ".join(draw(1) + draw(2))
    surnames = {p.name.split()[1] for p in learned}
    others = {p.name.split()[1] for p in model.world.people} - surnames
    assert any(s in text for s in surnames)
    assert not any(f" {s} " in f" {text} " for s in others)
    assert not {p.name for p in learned} & {p.name for p in kept}


def test_some_prompts_say_a_name_twice_or_name_two_and_nearly_all_fit_one_chunk(
    model: PocketModel,
) -> None:
    source = PocketSource(model, training_people(model.world.group("train"))[0], "person", 30)
    random = torch.Generator().manual_seed(4)
    examples = source.draw("identity", 200, random)

    def said(example: Example) -> str:
        before, after = example.neutral.split("a person")  # one person, once
        return example.prompt.removeprefix(before).removesuffix(after)

    subjects = [said(e) for e in examples]
    twice = [s.split(", a photo of ") for s in subjects if ", a photo of " in s]
    two = [s.split(" and ") for s in subjects if " and " in s]
    assert twice and two and len(twice) + len(two) < 80
    assert all(first == second for first, second in twice)
    assert all(first != second and "a person" not in (first, second) for first, second in two)
    tokenize = model.encoder.towers[0].tokenize
    every = examples + source.draw("people", 60, random) + source.draw("things", 60, random)
    beyond = [e for e in every if len(tokenize(e.prompt)) > 45]
    assert all(e.kind == "identity" for e in beyond) and len(beyond) < 25  # meant to be there
    texts = [text for e in every if e not in beyond for text in (e.neutral, e.contrast_prompt)]
    assert max(len(tokenize(text)) for text in texts) <= 45


def test_half_of_the_prompts_behind_filler_words_end_with_the_name(model: PocketModel) -> None:
    source = PocketSource(model, training_people(model.world.group("train"))[0], "person", 30)
    examples = source.draw("identity", 300, torch.Generator().manual_seed(6))
    filled = [e for e in examples if e.prompt.startswith(FILLERS)]
    ends = [e for e in filled if e.neutral.endswith("a person")]
    assert 0.6 < len(filled) / 300 < 0.8
    assert 0.45 < len(ends) / len(filled) < 0.7  # and a few of those that may say more do not
    assert not any(e.prompt.endswith("a person") for e in ends)


@pytest.mark.parametrize("target", ["description", "person", "empty"])
def test_the_target_decides_the_neutral_prompt(model: PocketModel, target: str) -> None:
    source = PocketSource(model, training_people(model.world.group("train"))[0], target, 10)  # type: ignore[arg-type]
    examples = source.draw("identity", 10, torch.Generator().manual_seed(0))
    assert all(e.neutral != e.prompt for e in examples)
    if target == "empty":
        assert {e.neutral for e in examples} == {""}
    general = source.draw("people", 5, torch.Generator().manual_seed(0))
    assert all(e.neutral == e.prompt for e in general)


def test_name_free_examples_bring_their_prompt_with_one_word_swapped(model: PocketModel) -> None:
    source = PocketSource(model, training_people(model.world.group("train"))[0], "person", 10)
    random = torch.Generator().manual_seed(3)
    for example in source.draw("things", 20, random) + source.draw("people", 40, random):
        said, swapped = example.prompt.split(), example.contrast_prompt.split()
        if swapped:
            assert len(said) == len(swapped)
            changed = sum(a != b for a, b in zip(said, swapped, strict=True))
            assert changed == 1 or (changed == 2 and example.kind == "people")
        else:
            assert example.kind == "people" and not {"man", "woman"} & set(said)
    assert not any(e.contrast_prompt for e in source.draw("identity", 20, random))
    assert other_gender("a man and a woman, human") == "a woman and a man, human"


def test_a_thing_is_mostly_swapped_for_one_that_looks_like_it(model: PocketModel) -> None:
    source = PocketSource(model, training_people(model.world.group("train"))[0], "person", 10)
    swaps: list[tuple[str, str]] = []
    for example in source.draw("things", 400, torch.Generator().manual_seed(8)):
        said, swapped = (
            [w for w in t.split() if w in THINGS] for t in (example.prompt, example.contrast_prompt)
        )
        swaps += [(a, b) for a, b in zip(said, swapped, strict=True) if a != b]
        assert len({*swapped}) == len(said)
    assert len(swaps) == 400 and {b for _, b in swaps} == {*THINGS}
    for one, like in (("circle", "square"), ("tree", "flower")):
        others = [b for a, b in swaps if a == one]
        assert 0.4 < others.count(like) / len(others) < 0.95


def test_kinds_of_things_differ_as_their_pictures_do() -> None:
    distances = thing_distances()
    assert distances.shape == (len(THINGS), len(THINGS))
    assert (distances == distances.T).all() and (distances.diagonal() == 0).all()
    between = distances + np.diag(np.full(len(THINGS), np.inf))
    nearest = {THINGS[k]: THINGS[int(n)] for k, n in enumerate(between.argmin(1))}
    assert nearest["circle"] == "square" and nearest["square"] == "circle"
    assert nearest["tree"] == "flower" and nearest["flower"] == "tree"


def test_a_quarter_of_the_scenes_show_what_is_asked_and_six_in_ten_hold_two_things(
    model: PocketModel,
) -> None:
    source = PocketSource(model, training_people(model.world.group("train"))[0], "person", 10)
    examples = source.draw("things", 200, torch.Generator().manual_seed(5))
    with torch.no_grad():
        reading = model.recognizer(to_pictures(torch.stack([e.latent for e in examples])))
    asked = [[w for w in e.prompt.split() if w in THINGS] for e in examples]
    first = [THINGS[k] if k < len(THINGS) else "" for k in reading.top("thing0").tolist()]
    assert 100 < sum(len(words) == 2 for words in asked) < 140
    right = sum(words[0] == seen for words, seen in zip(asked, first, strict=True))
    assert 50 < right < 90  # by chance one of eight others shows the same thing


def test_held_out_unknown_and_too_few_names_are_refused_together(model: PocketModel) -> None:
    heldout = model.world.group("heldout")[0].name
    with pytest.raises(ConfigError) as caught:
        chosen_people(model.world, [heldout, "Nobody Atall"])
    text = str(caught.value)
    assert heldout in text and "Nobody Atall" in text and "4 or more" in text


def test_an_unfinished_model_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(AplError, match="the folder is empty"):
        load_pocket(tmp_path)


def test_a_recognizer_is_read_under_its_old_name_and_the_new_one_is_told(
    model: PocketModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in BUILT_IN.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "recognizer.safetensors").rename(tmp_path / "recogniser.safetensors")
    old = load_pocket(tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "recognizer.safetensors" in lines[0]
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for head, scores in model.recognizer(pictures).scores.items():
        assert torch.equal(old.recognizer(pictures).scores[head], scores)


def test_the_demo_leaves_everything_it_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apl_trainer.pocket.demo.EVALUATION_STEPS", 2)
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 0
    run = tmp_path / "demo"
    assert "next:" in capsys.readouterr().out
    prefix = read_prefix(run / "prefix.safetensors")
    assert (prefix.n, prefix.behind) == (32, 10)
    assert prefix.card.names_trained == 112
    figures = json.loads((run / "figures.json").read_text())
    wanted = {
        "base.identity_top1.trained",
        "base.identity_top1.heldout",
        "prefix.identity_top1.trained",
        "prefix.identity_top1.heldout",
        "prefix.identity_top5.trained",
        "prefix.identity_top5.heldout",
        "floor.identity_top1",
        "base.objects",
        "drift.objects",
        "drift.people",
        "prefix.face_found",
        "seconds.prefix_training",
        "seconds.total",
    }
    assert wanted <= set(figures)
    documented = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    for key in figures:
        whole = key == "floor.identity_top1" or key.startswith(("drift.", "seconds."))
        name = key if whole else key.split(".", 1)[1]
        assert f"`{name}`" in documented or f"`.{name.split('.')[-1]}`" in documented, key
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- results: demo -->\nold\n<!-- /results: demo -->\nafter\n")
    assert main(["bench", "results", "--demo", str(run), "--page", str(page)]) == 0
    told = page.read_text()
    assert told.startswith("before\n") and told.endswith("\nafter\n") and "old" not in told
    row = next(line for line in told.splitlines() if "**learned prefix**" in line)
    assert f"| {100 * figures['prefix.identity_top1.heldout']:.1f} (" in row
    assert f"torch {torch.__version__}" in told and "apl demo --seed 0" in told
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == page.count("data:image/svg+xml;base64,") == 1
    assert "http" not in page
    names = [p.name for p in load_pocket().world.people]
    assert not any(n.encode() in (run / "prefix.safetensors").read_bytes() for n in names)

    again = tmp_path / "picture.png"
    prompt = f"a photo of {names[0]}"
    assert (
        main(
            [
                "generate",
                "--prefix",
                str(run / "prefix.safetensors"),
                "--steps",
                "2",
                "--count",
                "1",
                "--out",
                str(again),
                prompt,
            ]
        )
        == 0
    )
    assert again.stat().st_size > 1000


def test_a_stopped_run_goes_on_to_the_same_prefix(tmp_path: Path) -> None:
    common = [
        "--steps",
        "4",
        "--set",
        "target_cache=0",
        "--set",
        "batch_identity=2",
        "--set",
        "batch_things=1",
        "--set",
        "batch_people=2",
        "--set",
        "validate_every=0",
        "--set",
        "save_every=2",
    ]
    assert main(["pocket", "train", "--out", str(tmp_path / "straight"), *common]) == 0
    assert main(["pocket", "train", "--out", str(tmp_path / "cut"), *common]) == 0
    state = tmp_path / "cut" / "state.earlier.safetensors"
    state.replace(tmp_path / "cut" / "state.safetensors")
    (tmp_path / "cut" / "prefix.safetensors").unlink()
    assert main(["resume", str(tmp_path / "cut")]) == 0
    one, other = (read_prefix(tmp_path / n / "prefix.safetensors") for n in ("straight", "cut"))
    assert one.digest == other.digest


def test_mistakes_of_a_user_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("", encoding="utf-8")
    out = str(tmp_path / "run")
    for arguments, code, word in (
        (["pocket", "train", "--out", out, "--set", "learning_rat=1"], 2, "learning_rate"),
        (["pocket", "train", "--out", out, "--names", str(names)], 2, "name"),
        (["pocket", "train", "--out", out, "--config", str(tmp_path / "no.toml")], 2, "no.toml"),
        (["resume", str(tmp_path)], 1, "no run"),
        (["generate", "--prefix", str(names), "x"], 1, "names.txt"),
        (["demo", "--model", str(tmp_path)], 1, "there is no model in this folder"),
    ):
        assert main(arguments) == code
        told = capsys.readouterr().err
        assert told.startswith("apl: ") and word in told and "Fix:" in told
        assert "Traceback" not in told


def test_pictures_and_figures_of_names_stay_apart_by_seed(model: PocketModel) -> None:
    prompts = PromptSet.of(model.world)
    seeds = [q.seed for q in (*prompts.named, *prompts.free)]
    assert len(set(seeds)) == len(seeds)
    trained = {person.name for person in model.world.group("train")}
    assert {q.subject for q in prompts.trained} <= trained
    assert not {q.subject for q in prompts.trained} & {q.subject for q in prompts.heldout}
