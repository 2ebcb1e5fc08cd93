"""Members whose text encoders are trained with the painter: made, saved, loaded, learned on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo_run import learned

from apl_core.errors import ConfigError
from apl_core.prefix import Rows
from apl_trainer.cli import main
from apl_trainer.models.joint import JointEncoder
from apl_trainer.models.unet import UnetDenoiser
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.model import WorldModel, load_pocket
from apl_trainer.pocket.render_pool import RenderPool
from apl_trainer.sampling import Request
from benchmarks.zoo.attack import Attack, Effort
from benchmarks.zoo.build import TEXT, VOCABULARIES, Loader, build
from benchmarks.zoo.card import missed, read_card
from benchmarks.zoo.cli import BUILT
from benchmarks.zoo.eraser import reader
from benchmarks.zoo.kinds import tokens_of
from benchmarks.zoo.members import CLIP_UNET, MEMBERS
from benchmarks.zoo.own import OwnTexts, ReadingTexts, TrainedStates
from benchmarks.zoo.painter import begin_as, matrices, only
from benchmarks.zoo.where import PartReads, by_part, by_tokens, in_common, parts_of

POCKET = load_pocket()
TEXTS = ["a photo of Saidro Lerin, digital art", "a red circle on a blue background", ""]


@pytest.fixture(scope="module")
def t5_mmdit(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    folder = tmp_path_factory.mktemp("zoo") / "t5-mmdit"
    build("t5-mmdit", folder, 0.05, 0, (1, 8, 8))
    return Loader()(folder)


def test_its_encoders_are_saved_with_the_painter_and_read_what_they_read(
    t5_mmdit: WorldModel,
) -> None:
    assert t5_mmdit.encoder.widths == {"zoo_clip": 96, "zoo_t5": 128}
    given = t5_mmdit.encoder.encode(TEXTS, None)
    assert given.cross.shape == (3, 56, 128) and given.pooled is not None
    assert given.pooled.shape == (3, 96)
    again = Loader()(t5_mmdit.folder).encoder.encode(TEXTS, None)
    torch.testing.assert_close(again.cross, given.cross)
    texts = MEMBERS["t5-mmdit"].encoder
    assert isinstance(texts, OwnTexts)
    torch.manual_seed(5)
    other = texts.networks(t5_mmdit.folder / VOCABULARIES).eval()
    port = texts.ports(other, t5_mmdit.folder / VOCABULARIES)[-1]
    assert not torch.allclose(port.encode(TEXTS, None).cross, given.cross, atol=1e-2)
    assert TEXT not in {name.split(".")[0] for name, _ in other.named_parameters()}


def test_names_of_the_world_are_several_pieces_as_those_that_nobody_bears(
    t5_mmdit: WorldModel,
) -> None:
    encoder = t5_mmdit.encoder
    assert isinstance(encoder, JointEncoder)
    people = t5_mmdit.world.people
    assert [p.name for p in people] == [p.name for p in POCKET.world.people]
    counts = [len(encoder.t5.pieces(person.name)) for person in people]
    assert sum(counts) / len(counts) > 3
    assert encoder.t5.pieces("photo, photo") == ["photo", ",", "photo"]


def test_a_longer_text_in_a_batch_changes_nothing_of_a_shorter_one(t5_mmdit: WorldModel) -> None:
    long = "a photo of " + 30 * "a red circle and "
    both, alone = (t5_mmdit.encoder.encode(some, None) for some in ([TEXTS[0], long], TEXTS[:1]))
    assert both.mask is not None and both.mask.sum(1).tolist()[0] == 56 < both.cross.shape[1]
    x_t = torch.randn(2, 48, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500, 500])
    with torch.no_grad():
        found = t5_mmdit.denoiser.predict_noise(x_t, t, both)[:1]
        wanted = t5_mmdit.denoiser.predict_noise(x_t[:1], t[:1], alone)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_readers_and_painter_reach_every_weight_of_the_encoders(t5_mmdit: WorldModel) -> None:
    texts = MEMBERS["t5-mmdit"].encoder
    assert isinstance(texts, OwnTexts)
    folder = t5_mmdit.folder / VOCABULARIES
    networks = texts.networks(folder)
    ports = texts.ports(networks, folder)
    reading = ReadingTexts(networks, ports[0], POCKET.world)
    reading.loss()(torch.Generator().manual_seed(0)).backward()
    assert all(weights.grad is not None for weights in networks["t5"].parameters())
    assert not any(weights.grad is not None for weights in networks["clip"].parameters())
    states = TrainedStates(ports, TEXTS)
    lengths = {states.pick([2, 0]).cross.shape[1] for _ in range(4)}
    assert lengths == {32, 56}
    tables = {id(t.weight) for t in reading.modules() if isinstance(t, torch.nn.Embedding)}
    moved = matrices(reading)
    assert moved and not tables & {id(weights) for weights in moved}


def test_a_prefix_for_both_encoders_is_learned_on_it(t5_mmdit: WorldModel, tmp_path: Path) -> None:
    prefix = learned(t5_mmdit, tmp_path / "run")
    assert prefix.widths == {"zoo_clip": 96, "zoo_t5": 128}
    assert prefix.family == "zoo, T5 and CLIP"
    rows: Rows = prefix.rows()
    plain, found = (t5_mmdit.encoder.encode(TEXTS, one) for one in (None, rows))
    assert plain.pooled is not None and found.pooled is not None
    assert not torch.equal(plain.pooled[0], found.pooled[0])
    assert not torch.equal(plain.cross[0], found.cross[0])


@pytest.mark.parametrize(
    ("name", "widths", "pooled"),
    [
        ("clip-deep", {"zoo_clip": 96}, None),
        ("dual-clip", {"zoo_clip": 96, "zoo_clip_wide": 128}, (3, 128)),
    ],
)
def test_members_with_unets_are_built_and_learned_on(
    name: str, widths: dict[str, int], pooled: tuple[int, int] | None, tmp_path: Path
) -> None:
    build(name, tmp_path / name, 0.05, 0, (1, 8, 8))
    model = Loader()(tmp_path / name)
    assert model.encoder.widths == widths
    given = model.encoder.encode(TEXTS, None)
    assert given.cross.shape == (3, 77, sum(widths.values()))
    assert (None if given.pooled is None else given.pooled.shape) == pooled
    prefix = learned(model, tmp_path / "run")
    assert prefix.widths == widths and prefix.family.startswith("zoo, ")
    assert not torch.equal(model.encoder.encode(TEXTS, prefix.rows()).cross, given.cross)
    parts = [part.title for part in parts_of(model.encoder)]
    assert parts == (
        ["states"] if pooled is None else [*(f"states of {key}" for key in widths), "pooled state"]
    )


def test_the_last_but_one_of_twelve_layers_is_read_and_normed(tmp_path: Path) -> None:
    texts = MEMBERS["clip-deep"].encoder
    assert isinstance(texts, OwnTexts)
    networks = texts.networks(tmp_path).eval()
    model: Any = networks["clip"]
    words = POCKET.encoder.towers[0]
    ids = [words.bos, *words.tokenize(TEXTS[0]), words.eos]
    ids += [words.pad] * (77 - len(ids))
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        inner = getattr(model, "text_model", model)  # gone in newer versions of transformers
        wanted = inner.final_layer_norm(out.hidden_states[11])
        found = texts.ports(networks, tmp_path)[-1].encode(TEXTS[:1], None).cross
    assert len(out.hidden_states) == 13
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["clip-deep", "dual-clip"])
def test_a_unet_begins_as_its_teacher_where_it_can(name: str) -> None:
    denoiser = MEMBERS[name].denoiser()
    assert isinstance(denoiser, UnetDenoiser)
    before = {key: value.clone() for key, value in denoiser.unet.state_dict().items()}
    begin_as(denoiser, POCKET.denoiser.unet)
    after, its = denoiser.unet.state_dict(), POCKET.denoiser.unet.state_dict()
    assert torch.equal(after["conv_out.weight"], its["conv_out.weight"])
    assert torch.equal(after["conv_in.weight"], its["conv_in.weight"])
    apart = {k for k, v in after.items() if torch.equal(v, before[k]) and k not in its}
    kept = {k for k in its if its[k].shape != after[k].shape}
    assert kept and all(".attn2.to_" in key for key in kept)
    assert all(torch.equal(after[key], before[key]) for key in kept)
    assert all(key.startswith("add_embedding") for key in apart)


def test_other_places_for_rows_are_refused(t5_mmdit: WorldModel, tmp_path: Path) -> None:
    build(CLIP_UNET, tmp_path, 0, 0)
    for folder in (t5_mmdit.folder, tmp_path):
        with pytest.raises(ConfigError, match="--rows tokens"):
            Loader("hidden")(folder)


def test_the_pocket_model_is_a_member_that_is_built_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_card(BUILT / CLIP_UNET) and not missed(read_card(BUILT / CLIP_UNET))
    assert main(["zoo", "list", "--models", str(BUILT)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if CLIP_UNET in line)
    assert "may judge" in line
    folder = tmp_path / CLIP_UNET
    build(CLIP_UNET, folder, 0, 0)
    member = Loader()(folder)
    assert member.folder == folder and member.world == POCKET.world
    with pytest.raises(ConfigError, match="no one layer"):
        reader(only(member.denoiser))
    with RenderPool(folder, EVALUATION_STEPS, 1, Loader()) as renderer:
        drawn = renderer.draw([Request("a photo of a dog", 0)], None)
    plain = POCKET.sampler(EVALUATION_STEPS).draw([Request("a photo of a dog", 0)], None)
    torch.testing.assert_close(drawn.pictures, plain, atol=1 / 255, rtol=0)


def test_studies_of_one_frozen_encoder_say_that_they_are_not_for_it(t5_mmdit: WorldModel) -> None:
    with pytest.raises(ConfigError, match="minilm-dit"):
        Attack(t5_mmdit, t5_mmdit.world.people[0], None, Effort(), 0)
    with pytest.raises(ConfigError, match="FluxTransformer2DModel"):
        reader(only(t5_mmdit.denoiser))


def test_how_far_back_a_name_stands_is_told_in_tokens(t5_mmdit: WorldModel) -> None:
    both = t5_mmdit.encoder
    assert isinstance(both, JointEncoder)
    assert len(tokens_of(both)(TEXTS[0])) == len(both.t5.pieces(TEXTS[0])) > 6
    assert len(tokens_of(POCKET.encoder)(TEXTS[0])) == len(POCKET.encoder.pieces(TEXTS[0])) > 6


def test_one_part_alone_reads_the_name_or_has_the_prefix(t5_mmdit: WorldModel) -> None:
    encoder = t5_mmdit.encoder
    texts, instead = TEXTS[:1], {TEXTS[0]: TEXTS[1]}
    rows = Rows({key: encoder.token_embedding(key)[:6] for key in encoder.widths}, 2)
    plain, other, prefixed = (
        encoder.encode(*one) for one in ((texts, None), (TEXTS[1:2], None), (texts, rows))
    )
    states, pooled = (PartReads(encoder, part, instead) for part in parts_of(encoder))
    found, rest = states.encode(texts, None), pooled.encode(texts, None)
    assert torch.equal(found.cross, plain.cross) and torch.equal(rest.cross, other.cross)
    assert found.pooled is not None and other.pooled is not None
    assert torch.equal(found.pooled, other.pooled)
    has_rows = PartReads(encoder, parts_of(encoder)[0], {}).encode(texts, rows)
    assert torch.equal(has_rows.cross, prefixed.cross) and has_rows.pooled is not None
    assert plain.pooled is not None and torch.equal(has_rows.pooled, plain.pooled)


def test_states_of_two_clips_are_told_apart(tmp_path: Path) -> None:
    texts = MEMBERS["dual-clip"].encoder
    assert isinstance(texts, OwnTexts) and texts.vocabularies is not None
    texts.vocabularies([*TEXTS, *(p.name for p in POCKET.world.people)] * 9, tmp_path)
    encoder = texts.ports(texts.networks(tmp_path), tmp_path)[-1]
    with torch.no_grad():
        plain, other = (encoder.encode([text], None) for text in TEXTS[:2])
        parts = [PartReads(encoder, p, {TEXTS[0]: TEXTS[1]}) for p in parts_of(encoder)]
        narrow, wide, pooled = (part.encode(TEXTS[:1], None) for part in parts)
    assert torch.equal(narrow.cross, torch.cat([plain.cross[..., :96], other.cross[..., 96:]], -1))
    assert torch.equal(wide.cross, torch.cat([other.cross[..., :96], plain.cross[..., 96:]], -1))
    assert torch.equal(pooled.cross, other.cross)
    found = [p.pooled for p in (plain, other, narrow, wide, pooled)]
    assert all(one is not None for one in found)
    mine, its, *three = (one for one in found if one is not None)
    assert [torch.equal(one, mine) for one in three] == [False, False, True]
    assert [torch.equal(one, its) for one in three] == [True, True, False]


def test_where_names_live_and_whose_are_left_is_counted(t5_mmdit: WorldModel) -> None:
    encoder, world = t5_mmdit.encoder, t5_mmdit.world
    rows = Rows({key: encoder.token_embedding(key)[:6] for key in encoder.widths}, 2)
    people = [*world.group("train")[:20], *world.group("heldout")[:6]]
    table = by_part(t5_mmdit, people[-2:], rows)
    assert [line[0] for line in table.rows] == ["all of it", "states of zoo_t5", "pooled state"]
    assert table.rows[0][1] == "100.0 +- 0.0"
    small = replace(t5_mmdit, world=replace(world, people=tuple(people)))
    counts = [int(line[1]) for line in by_tokens(small, rows).rows]
    assert counts[0] == 20 and sum(counts[1:]) == 6 and counts[3] > 0


def test_tokens_of_names_that_lie_in_one_direction_have_it_in_common(t5_mmdit: WorldModel) -> None:
    random = {line[0]: line for line in in_common(t5_mmdit).rows}
    assert set(random) == {"zoo_clip", "zoo_t5"}
    assert [int(cell) > 20 for cell in random["zoo_t5"][1:3]] == [True, True]
    assert abs(float(random["zoo_t5"][4]) - 12.5) < 3  # nearly as it was before training
    model = Loader()(t5_mmdit.folder)
    table = model.encoder.token_embedding("zoo_t5")
    with torch.no_grad():
        table.copy_(torch.outer(torch.arange(len(table)).float(), torch.ones(table.shape[1])))
    found = {line[0]: line for line in in_common(model).rows}
    assert found["zoo_t5"][3:] == ["100.0", "100.0"]
    assert found["zoo_clip"] == random["zoo_clip"]
