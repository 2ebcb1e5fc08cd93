"""What the benchmark is made of: prompts, editions of the model, chunks, the eraser, styles."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from apl_core.prefix import Rows
from apl_core.tokens import room
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.captions import FILLERS
from apl_trainer.pocket.model import PocketModel, load_pocket
from apl_trainer.pocket.networks import to_pictures
from apl_trainer.sampling import Request
from benchmarks.paper.chunks import FirstChunkOnly
from benchmarks.paper.eraser import Moments, edit, erase, pairs, projections
from benchmarks.paper.finetune import FinetuneData, fine_tune, invert, renders
from benchmarks.paper.plan import FULL, QUICK, ablation
from benchmarks.paper.prompts import VARIATIONS, cyrillic, far_back, typo, variation
from benchmarks.paper.styles import ink, warm
from benchmarks.paper.targets import TARGETS, Goal, verdict
from benchmarks.paper.variants import load_variant, save_variant, with_words


@pytest.fixture(scope="module")
def model() -> PocketModel:
    return load_pocket()


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_typo_is_one_letter_less_or_two_swapped() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        wrong = typo("Stouvel Krounax", rng)
        assert wrong != "Stouvel Krounax" and wrong.startswith("Stouvel ")
        if len(wrong) == len("Stouvel Krounax"):
            assert sorted(wrong) == sorted("Stouvel Krounax")
        else:
            assert len(wrong) == len("Stouvel Krounax") - 1


def test_cyrillic_has_no_latin_letter_of_the_worlds_names(model: PocketModel) -> None:
    for person in model.world.people:
        assert not any(letter.isascii() and letter != " " for letter in cyrillic(person.name))


@pytest.mark.parametrize("vectors", [0, 1, 10, 20])
def test_a_name_far_back_stands_in_the_second_chunk_with_any_prefix(
    model: PocketModel, vectors: int
) -> None:
    tokenize = model.encoder.towers[0].tokenize
    for person in model.world.group("heldout"):
        ids = tokenize(far_back(person.name, tokenize))
        before = len(ids) - len(tokenize(person.name))
        assert before // room(vectors) == (len(ids) - 1) // room(vectors) == 1


@pytest.mark.parametrize("vectors", [0, 1, 10, 32, 50])
def test_a_late_name_is_the_last_that_fits_into_the_first_chunk(
    model: PocketModel, vectors: int
) -> None:
    tokenize = model.encoder.towers[0].tokenize
    longest = max(len(tokenize(f"{word},")) for word in FILLERS)
    for person in model.world.group("heldout"):
        prompt = variation("late", [person], 1, 0, tokenize, vectors)[0].prompt
        assert prompt.endswith(f", a portrait of {person.name}")
        left = room(vectors) - len(tokenize(prompt))
        assert 0 <= left < longest


def test_every_variation_is_about_everybody_and_seeds_differ(model: PocketModel) -> None:
    people = model.world.group("heldout")[:3]
    for kind in VARIATIONS:
        found = variation(kind, people, 2, 100, model.encoder.towers[0].tokenize, 10)
        assert [n.who for n in found].count(people[0].name) == 2
        assert len({n.seed for n in found}) == 6
        assert all((n.other is not None) == (kind == "two people") for n in found)


def test_an_edition_is_a_pocket_model_and_changes_nothing_but_the_unet(
    model: PocketModel, tmp_path: Path
) -> None:
    save_variant(model.folder, None, tmp_path / "same")
    other = load_pocket()
    with torch.no_grad():
        for parameter in other.denoiser.unet.parameters():
            parameter.mul_(0.9)
    save_variant(model.folder, other.denoiser.unet, tmp_path / "other")
    requests = [Request("a photo of a house", 1)]
    plain = model.sampler(2).draw(requests, None)
    assert torch.equal(load_pocket(tmp_path / "same").sampler(2).draw(requests, None), plain)
    changed = load_pocket(tmp_path / "other")
    assert not torch.allclose(changed.sampler(2).draw(requests, None), plain, atol=1e-2)
    texts = ["a photo of a man"]
    wanted = model.encoder.encode(texts, None).cross
    assert torch.equal(changed.encoder.encode(texts, None).cross, wanted)


def test_a_new_word_with_the_rows_of_a_known_one_reads_like_it(
    model: PocketModel, tmp_path: Path
) -> None:
    tower = model.encoder.towers[0]
    rows = tower.table[tower.tokenize("red circle")]
    save_variant(model.folder, None, tmp_path, {"<thing>": rows})
    edition = load_variant(tmp_path)
    prefix = random_rows(model.encoder, 4, 2)
    for used in (None, prefix):
        new = edition.encoder.encode(["a <thing> on a blue background, a <thing>"], used).cross
        old = model.encoder.encode(["a red circle on a blue background, a red circle"], used).cross
        assert torch.equal(new, old)
    assert not torch.equal(
        edition.encoder.encode(["a <thing>"], None).cross, model.encoder.encode(["a"], None).cross
    )


def test_a_new_words_rows_get_a_gradient(model: PocketModel) -> None:
    rows = normal(0, 2, 128).requires_grad_()
    encoded = with_words(model, {"<x>": rows}).encoder.encode(["a photo of <x>"], None).cross
    encoded.square().sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None and rows.grad.abs().sum() > 0


def test_first_chunk_only_is_the_prefix_there_and_nothing_later(model: PocketModel) -> None:
    rows = random_rows(model.encoder, 6, 3)
    encoder = FirstChunkOnly(model.encoder.towers)
    short = ["a photo of a man", ""]
    assert torch.equal(encoder.encode(short, rows).cross, model.encoder.encode(short, rows).cross)
    text = "a " * 69 + "red circle"  # 69 tokens are what one chunk and six rows leave
    found = encoder.encode([text], rows).cross
    every = model.encoder.encode([text], rows).cross
    assert found.shape == every.shape == (1, 154, 128)
    assert torch.equal(found[:, :77], every[:, :77])
    assert not torch.allclose(found[:, 77:], every[:, 77:], atol=1e-2)
    alone = model.encoder.encode(["red circle"], None).cross
    assert torch.allclose(found[:, 77:], alone, atol=1e-5)
    assert torch.equal(encoder.encode([text], None).cross, model.encoder.encode([text], None).cross)


def test_the_edit_is_the_least_squares_solution_of_the_stacked_system() -> None:
    old, new, keep, weight = (normal(i, n, 6) for i, n in enumerate((40, 40, 60, 9)))
    erased, kept = Moments.of(old, new), Moments.of(keep, keep)
    found = edit(weight, erased, kept, preserve=0.7, ridge=0.2)
    w = weight.double().numpy()
    still = 0.2 * (0.7 * kept.within / kept.count).diagonal().mean().item()
    sides = [
        (old.double().numpy() / math.sqrt(40), new.double().numpy() @ w.T / math.sqrt(40)),
        (
            keep.double().numpy() * math.sqrt(0.7 / 60),
            keep.double().numpy() @ w.T * math.sqrt(0.7 / 60),
        ),
        (np.eye(6) * math.sqrt(still), w.T * math.sqrt(still)),
    ]
    a, b = (np.concatenate([s[i] for s in sides]) for i in range(2))
    wanted = np.linalg.lstsq(a, b, rcond=None)[0].T
    assert np.allclose(found.numpy(), wanted, atol=1e-4)


def test_an_edit_that_preserves_above_all_changes_nothing() -> None:
    old, new, keep, weight = (normal(i, n, 5) for i, n in enumerate((20, 20, 50, 4)))
    found = edit(weight, Moments.of(old, new), Moments.of(keep, keep), 1e9, 1e-6)
    assert torch.allclose(found, weight, atol=1e-4)


def test_name_states_are_paired_with_the_neutral_subjects(model: PocketModel) -> None:
    """Of a name that is the neutral subject itself every state is paired with itself."""
    old, new = pairs(model.encoder, ["a person"], ["a photo of {}"], "a person")
    tower = model.encoder.towers[0]
    last = len(tower.tokenize("a person")) - 1
    assert torch.allclose(old[last:], new[last:])
    assert torch.allclose(new[:last], new[last].expand(last, -1))


def test_the_eraser_moves_listed_names_to_the_neutral_and_keeps_the_rest() -> None:
    model = load_pocket()
    names = [p.name for p in model.world.group("train")[:12]]
    keep = ["a red circle on a blue background", "a photo of a woman with red hair", "a house"]
    templates = ["a photo of {}", "{}"]
    layers = projections(model.denoiser.unet)
    before = [layer.weight.clone() for layer in layers]
    size = erase(model.encoder, model.denoiser.unet, names, templates, "a person", keep)
    assert len(layers) >= 8 and size == 2 * sum(w.numel() for w in before)
    old, new = pairs(model.encoder, names, templates, "a person")
    states = torch.cat([model.encoder.encode([k], None).cross[0] for k in keep])
    for layer, weight in zip(layers, before, strict=True):
        wanted = new @ weight.T
        gap = (old @ weight.T - wanted).square().mean()
        assert (old @ layer.weight.T - wanted).square().mean() < 0.5 * gap
        moved = (states @ layer.weight.T - states @ weight.T).square().mean()
        assert moved < 0.1 * (states @ weight.T).square().mean()


def test_styles_keep_the_range_and_ink_leaves_flat_colour_alone() -> None:
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for style in (ink, warm):
        found = style(pictures)
        assert found.min() >= 0 and found.max() <= 1
        assert not torch.allclose(found, pictures, atol=0.02)
    flat = torch.full((1, 3, 8, 8), 0.6)
    assert torch.equal(ink(flat), flat)
    assert ink(torch.cat([flat, flat * 0.2], 3))[..., 7:9].max() < 0.6


@pytest.mark.parametrize("style", [ink, warm])
def test_the_recognizer_can_read_the_styles(
    model: PocketModel, style: Callable[..., Tensor]
) -> None:
    drawn = renders(model, model.world.group("train"), (96, 0, 0), 1, style)
    with torch.no_grad():
        reading = model.recognizer(to_pictures(drawn.latents))
    assert reading.is_face().float().mean() > 0.97
    best = [model.world.people[i].name for i in reading.scores["identity"].argmax(1)]
    assert np.mean([b in c for b, c in zip(best, drawn.captions, strict=True)]) > 0.97


def test_fine_tuning_changes_the_unet_alone_and_the_same_way_twice() -> None:
    found: list[PocketModel] = []
    for _ in range(2):
        model = load_pocket()
        material = renders(model, model.world.group("personal")[:2], (4, 2, 2), 1)
        fine_tune(model, material, steps=2, rate=1e-3, batch=3)
        found.append(model)
    one, two, plain = found[0], found[1], load_pocket()
    weights = [dict(m.denoiser.unet.named_parameters()) for m in (one, two, plain)]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert any(not torch.equal(v, weights[2][k]) for k, v in weights[0].items())
    assert not any(v.requires_grad for v in weights[0].values())
    texts = one.encoder.towers[0].module.state_dict()
    assert all(
        torch.equal(v, texts[k]) for k, v in plain.encoder.towers[0].module.state_dict().items()
    )


def test_renders_come_with_captions_of_one_chunk(model: PocketModel) -> None:
    material = renders(model, model.world.group("personal")[:2], (4, 2, 2), 1)
    assert material.latents.shape == (8, 48, 8, 8) and len(material.captions) == 8
    assert model.world.group("personal")[0].name in material.captions[0]
    assert all(len(model.encoder.towers[0].tokenize(c)) <= 75 for c in material.captions)


def test_inversion_learns_rows_and_leaves_the_model_alone() -> None:
    model = load_pocket()
    person = model.world.group("personal")[0]
    drawn = renders(model, (person,), (4, 0, 0), 1)
    captions = tuple(c.replace(person.name, "<p>") for c in drawn.captions)
    material = FinetuneData(drawn.latents, captions)
    before = {k: v.clone() for k, v in model.denoiser.unet.state_dict().items()}
    still = invert(model, ["<p>"], [material], rows=2, steps=0, rate=0.1, batch=2)["<p>"]
    moved = invert(model, ["<p>"], [material], rows=2, steps=2, rate=0.1, batch=2)["<p>"]
    assert still.shape == moved.shape == (2, 128)
    assert not torch.allclose(still, moved, atol=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in model.denoiser.unet.state_dict().items())


def test_every_ablation_of_the_plans_is_known_and_changes_its_one_setting() -> None:
    base = ablation("recipe=apl", FULL)[0]
    for name in {*FULL.ablations, *QUICK.ablations} - {"recipe=apl", "recipe=paper"}:
        config, people = ablation(name, FULL)
        assert people is not None or config != base
        Rows({"pocket": torch.zeros(config.num_vectors, 128)}, config.num_suffix_vectors)
        assert config.num_suffix_vectors <= config.num_vectors
    assert ablation("recipe=paper", FULL)[0].recipe == "paper"
    with pytest.raises(ValueError, match="color"):
        ablation("color=red", FULL)


def test_a_goal_that_was_not_measured_is_not_reached() -> None:
    low, high = Goal("a", "pictures", 0.1), Goal("b", "faces", 0.98, True)
    assert low.met({"a": 0.1}) and not low.met({"a": 0.11}) and not low.met({})
    assert high.met({"b": 0.99}) and not high.met({"b": 0.97}) and not high.met({"b": None})
    assert low.words({"a": 0.2}) == "pictures: 20.0 %, at most 10 % wanted: NOT reached"
    assert "0 of" in verdict({}) and TARGETS[0].text in verdict({})
    best = {t.key: 1.0 if t.at_least else 0.0 for t in TARGETS}
    assert verdict(best) == f"All {len(TARGETS)} goals are reached."
