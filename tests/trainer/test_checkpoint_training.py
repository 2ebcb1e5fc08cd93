"""Learning on slim checkpoints: what must give the same prefix does, and what is wrong is told."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from slim_runs import NAMES, SIZE, arguments, count_calls, load, settings, silent, write_root
from torch import Tensor, nn

from apl_core.errors import RunError
from apl_core.formats import read_prefix
from apl_core.objective import TargetBatch, compute_targets
from apl_core.ports import Conditioning
from apl_core.prefix import Prefix, Rows
from apl_core.training.batches import BatchSampler
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.frozen import frozen
from apl_core.training.learner import learner
from apl_core.training.lessons import NameLessons
from apl_core.training.loop import Model
from apl_core.training.material import LatentSource, Material
from apl_core.training.parallel import Group
from apl_core.training.step import gradient
from apl_core.training.verdict import verdict
from apl_trainer.checkpoints.load import CheckpointModel
from apl_trainer.checkpoints.train import listed_in
from apl_trainer.checkpoints.training_data import LatentCache, PlainSource, material_of, read_data
from apl_trainer.cli import main
from apl_trainer.pictures import read_picture


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint as file and folder, and a data folder."""
    return write_root(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def model(root: Path) -> CheckpointModel:
    return load(root)


def latents_of(root: Path, model: CheckpointModel, kept: bool = True) -> Callable[[str], Tensor]:
    """Gives a picture's latent: one kept on disk, or one made anew."""
    if not kept:
        return lambda name: model.latents.encode(read_picture(root / "data" / name, SIZE)[None])[0]
    cache = LatentCache(root / "data" / ".latents", model.latents, SIZE)
    cache.prepare(sorted((root / "data").glob("*.png")), silent, Group())
    return lambda name: cache.get(root / "data" / name)


def material(root: Path, model: CheckpointModel, kept: bool = True) -> Material:
    rows = read_data(root / "data", settings())
    return material_of(rows, listed_in(rows), latents_of(root, model, kept), "person")


def source_of(root: Path, model: CheckpointModel) -> LatentSource:
    people = listed_in(read_data(root / "data", settings()))
    lessons = NameLessons.of(people, "person", model.encoder, settings().num_vectors)
    return LatentSource(material(root, model), lessons, people)


def train(
    root: Path,
    model: CheckpointModel,
    out: Path,
    config: TrainConfig | None = None,
    denoiser: Any = None,
    kept: bool = True,
) -> Prefix:
    config = config or settings()
    folder = RunFolder(out)
    folder.create(config)
    parts = Model(model.encoder, denoiser or model.denoiser, model.name)
    people = listed_in(read_data(root / "data", config))
    return learner(config, parts, material(root, model, kept), people, folder).run()


@pytest.fixture(scope="module")
def plain(root: Path, model: CheckpointModel, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """The rows that the plain run learns."""
    return train(root, model, tmp_path_factory.mktemp("plain") / "run").vectors["clip_l"]


def test_gradient_checkpointing_gives_the_same_prefix(
    root: Path, plain: Tensor, tmp_path: Path
) -> None:
    own = load(root)
    own.denoiser.unet.enable_gradient_checkpointing()
    assert torch.equal(train(root, own, tmp_path / "run").vectors["clip_l"], plain)


def test_latents_kept_on_disk_give_the_same_prefix(
    root: Path, model: CheckpointModel, plain: Tensor, tmp_path: Path
) -> None:
    found = train(root, model, tmp_path / "run", kept=False)
    assert torch.equal(found.vectors["clip_l"], plain)


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_give_the_same_prefix(
    root: Path, model: CheckpointModel, plain: Tensor, tmp_path: Path, micro: int
) -> None:
    """Sums are added up in another order: equal within what Adam makes of float32's last digits."""
    found = train(root, model, tmp_path / "run", settings(micro_batch=micro)).vectors["clip_l"]
    torch.testing.assert_close(found, plain, atol=2e-4, rtol=0)
    assert (plain - initial(model)).abs().max() > 0.02


def initial(model: CheckpointModel) -> Tensor:
    from apl_core.training.batches import generator
    from apl_core.training.initial import initial_rows

    return initial_rows(settings(), model.encoder, generator(0, "initial")).vectors["clip_l"]


def test_kept_teacher_predictions_are_the_fresh_ones(root: Path, model: CheckpointModel) -> None:
    config = settings(target_cache=10, repulsion=0.5)
    source = source_of(root, model)
    parts = (config, model.encoder, model.denoiser, source, Group(), silent)
    batch = BatchSampler(*parts).batch(1)
    again = BatchSampler(*parts).batch(1)
    assert torch.equal(batch.target, again.target)
    whole = BatchSampler(*parts)
    whole.batch(0)
    later = whole.batch(1)  # from the pool that step 0 has filled
    assert torch.equal(later.target, batch.target) and torch.equal(later.x_t, batch.x_t)


def test_people_bring_a_contrast_that_counts_where_it_is_asked_for(
    root: Path, model: CheckpointModel, tmp_path: Path
) -> None:
    """The caption with the other gender; rows of things, names and old persons have none."""
    found = {one.text: one.contrast for one in material(root, model).pictures if one.contrast}
    assert found == {"a man with red hair": "a woman with red hair"}
    asked = settings(weight_contrast=1.0, batch_people=8)
    parts = (asked, model.encoder, model.denoiser, source_of(root, model), Group(), silent)
    sampler = BatchSampler(*parts)
    examples, batch = sampler.examples(asked.counts, "step", 0), sampler.batch(0)
    brought = {e.prompt: e.contrast_prompt for e in examples if e.contrast_prompt}
    assert found.items() <= brought.items() and len(brought) > 1
    moved = {p for p, s in zip(batch.prompts, batch.contrast_direction, strict=True) if s.any()}
    assert moved == brought.keys() | {e.prompt for e in examples if e.kind == "identity"}
    one, other = (
        train(root, model, tmp_path / str(c), replace(asked, weight_contrast=c)).vectors["clip_l"]
        for c in (0.0, 1.0)
    )
    assert not torch.equal(one, other)


class Small:
    """A real denoiser on a device that holds `limit` examples at once."""

    def __init__(self, inner: Any, limit: int) -> None:
        self.inner, self.limit, self.seen = inner, limit, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.seen.append(len(x_t))
        if len(x_t) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.inner.predict_noise(x_t, t, conditioning)


def test_out_of_memory_halves_the_micro_batch_and_goes_on(
    root: Path, model: CheckpointModel, plain: Tensor, tmp_path: Path
) -> None:
    config = settings(repulsion=0.0)
    wanted = train(root, model, tmp_path / "wanted", config).vectors["clip_l"]
    small = Small(model.denoiser, 2)
    found = train(root, model, tmp_path / "run", config, small).vectors["clip_l"]
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)
    assert small.seen.count(32) == small.seen.count(5) == 1, "what does not fit is tried once"


def test_memory_for_not_even_one_example_is_told(
    root: Path, model: CheckpointModel, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="--vram"):
        train(root, model, tmp_path / "run", denoiser=Small(model.denoiser, 0))


def checksum(networks: list[nn.Module]) -> str:
    state = hashlib.sha256()
    for network in networks:
        for value in network.state_dict().values():
            state.update(value.numpy().tobytes())
    return state.hexdigest()


def authors_loss(model: CheckpointModel, batch: TargetBatch, neutral: str, rows: Rows) -> Tensor:
    """Plainly from METHOD: MSE(p, n - g (sg p - n)) with g = 1, through three U-Net forwards."""
    unet, encoder = model.denoiser.unet, model.encoder
    named = encoder.encode(list(batch.prompts), rows).cross
    with torch.no_grad():
        n = unet(batch.x_t, batch.t, encoder.encode([neutral], None).cross).sample
        again = unet(batch.x_t, batch.t, named).sample
    p = unet(batch.x_t, batch.t, named).sample
    return nn.functional.mse_loss(p, n - 1.0 * (again - n))


@pytest.mark.parametrize("recipe", ["paper", "apl"])
def test_the_gradient_is_the_authors(root: Path, model: CheckpointModel, recipe: str) -> None:
    """The paper's recipe has the authors' gradient; ours half of it, in the same direction."""
    config = TrainConfig.from_mapping({"recipe": recipe, "num_vectors": 4, "num_suffix_vectors": 0})
    config = replace(config, repulsion=0.0, weighting="eps", weight_contrast=0.0)
    rows = read_data(root / "data", replace(settings(), target="empty"))
    source = PlainSource(rows, latents_of(root, model), "empty")
    example = source.draw("identity", 1, torch.Generator().manual_seed(1))
    networks = [*model.encoder.modules, *model.denoiser.modules]
    before = checksum(networks)
    noise, t = torch.randn(1, *example[0].latent.shape), torch.tensor([400])
    batch = compute_targets(model.encoder, model.denoiser, example, t, noise)
    found: list[Tensor] = []
    for theirs in (False, True):
        vectors = 0.3 * torch.randn(4, 768, generator=torch.Generator().manual_seed(3))
        rows = Rows({"clip_l": vectors.requires_grad_()})
        with frozen(networks):
            if theirs:
                torch.autograd.backward(authors_loss(model, batch, "", rows))
            else:
                gradient(config, model.encoder, model.denoiser, batch, rows, Group(), 1.0)
        assert rows.vectors["clip_l"].grad is not None
        found.append(rows.vectors["clip_l"].grad.flatten())
    assert float(torch.cosine_similarity(*found, dim=0)) >= 0.9999
    factor = float(found[1].norm() / found[0].norm())
    assert factor == pytest.approx(1.0 if recipe == "paper" else 2.0, rel=1e-3)
    assert checksum(networks) == before


def test_frozen_weights_stay_as_they_were(root: Path, tmp_path: Path) -> None:
    own = load(root)
    networks = [*own.encoder.modules, *own.denoiser.modules, own.latents.vae]
    before = checksum(networks)
    train(root, own, tmp_path / "run")
    assert checksum(networks) == before
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_names_in_prefix_out(
    root: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line: pictures drawn, latents kept, prefix learned, resumed.

    What the checkpoint is and what is to be drawn is found out once a command.
    """
    looked = count_calls(monkeypatch, "apl_trainer.checkpoints.detect._detect_file")
    planned = count_calls(monkeypatch, "apl_trainer.checkpoints.self_generated.pictures_to_draw")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    more = ["--names", str(tmp_path / "names.txt"), "--per-name", "1", "--draw-steps", "1"]
    out = tmp_path / "run"
    assert main(arguments(root, out, *more)) == 0
    assert (len(looked), len(planned)) == (1, 1)
    said = capsys.readouterr().out
    assert f"apl evaluate --prefix {out / 'prefix.safetensors'} --model {root}" in said
    assert "SD 1.x (clip_l 768), single file, fp32, predicts eps" in said
    prefix = read_prefix(out / "prefix.safetensors")
    assert (prefix.keys, prefix.n, prefix.behind) == (("clip_l",), 4, 2)
    assert prefix.card.base_model == "sd1" and prefix.card.names_trained == 4
    rows = [
        json.loads(line) for line in (out / "data" / "metadata.jsonl").read_text().split("\n")[:-1]
    ]
    assert sorted({row["kind"] for row in rows}) == ["identity", "people", "things"]
    for name in NAMES:  # they stay with the run; what is shared does not have them
        assert name.encode() not in (out / "prefix.safetensors").read_bytes()
    drawn = tmp_path / "drawn.png"
    with_prefix = [
        "generate",
        "--model",
        str(root / "sd1"),
        "--size",
        "64",
        "--steps",
        "1",
        "--count",
    ]
    with_prefix += ["2", "--prefix", str(out / "prefix.safetensors"), "--out", str(drawn)]
    assert main([*with_prefix, f"a photo of {NAMES[0]}"]) == 0
    assert Image.open(drawn).size[1] >= 2 * (64 + 4), "a caption may make a row higher"
    config = (out / "config.toml").read_text().replace("steps = 2", "steps = 4")
    (out / "config.toml").write_text(config)
    looked.clear()
    assert main(["resume", str(out)]) == 0
    assert len(looked) == 1
    assert read_prefix(out / "prefix.safetensors").card.steps == 4
    straight = tmp_path / "straight"
    assert main(arguments(root, straight, *more, "--steps", "4")) == 0
    wanted = read_prefix(straight / "prefix.safetensors").vectors["clip_l"]
    assert torch.equal(read_prefix(out / "prefix.safetensors").vectors["clip_l"], wanted)


def test_a_dry_run_says_memory_and_time_and_writes_nothing(
    root: Path, tmp_path: Path, capsys: Any
) -> None:
    more = ["--data", str(root / "data"), "--dry-run", "--vram", "4", "--max-steps", "1125"]
    assert main(arguments(root, tmp_path / "run", *more)) == 0
    said = capsys.readouterr().out
    assert "expected peak: " in said and "expected time: " in said and "micro_batch = 1" in said
    assert "if more than 5% of names is left then: up to 1,125 steps" in said
    assert not (tmp_path / "run").exists()


def test_what_is_asked_for_wrongly_ends_in_a_sentence(
    root: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "one.txt").write_text("anna brill")
    for more, said in (
        ([], "give --names FILE"),
        (["--names", str(tmp_path / "one.txt")], "there is 1"),
        (["--data", str(root)], "metadata.jsonl is missing"),
        (["--data", str(root / "data"), "--size", "100"], "multiple of 64"),
    ):
        assert main(arguments(root, tmp_path / "run", *more)) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["name", "text", "neutral"])
def test_a_text_that_spells_a_mark_is_told_before_a_run_begins(
    root: Path, tmp_path: Path, capsys: Any, how: str
) -> None:
    """With a dataset or names alike; the run's folder is not even made."""
    names, data = tmp_path / "names.txt", tmp_path / "data"
    names.write_text("andy <|endoftext|>\nanna brill\nbo ray\ncy dale\ndi nu\n")
    shutil.copytree(root / "data", data)
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    rows[0][how] = rows[0].get(how, "") + " <|endoftext|>"
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    more = ["--names", str(names)] if how == "name" else ["--data", str(data)]
    assert main(arguments(root, tmp_path / "run", *more)) == 1
    assert "spells out the token" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_of_five_names_one_is_kept_and_the_figures_are_told(
    root: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run says how much of a name is left, of names that nothing was learned from."""
    for kept in ("KEPT_NAMED", "KEPT_FREE"):  # 24 of each take a minute
        monkeypatch.setattr(f"apl_core.training.material.{kept}", 4)
    names = "\n".join([*NAMES, "edda = a woman with red hair"])
    (tmp_path / "names.txt").write_text(names)
    out = tmp_path / "run"
    more = ["--names", str(tmp_path / "names.txt"), "--per-name", "1", "--draw-steps", "1"]
    assert main(arguments(root, out, *more, "--validate-every", "1")) == 0
    said, card = capsys.readouterr().out, read_prefix(out / "prefix.safetensors").card
    assert card.names_trained == 4 and f"  {verdict(card.figures)}\n" in said
    assert "of what a name changes is left" in said.rstrip().split("\n")[-2]
    assert {"name_left", "drift_things", "drift_people"} <= set(card.figures)
    rows = {row["step"]: row for row in RunFolder(out).rows() if "score" in row}
    assert list(rows) == [1, 2]
    assert card.figures["name_left"] == pytest.approx(rows[card.steps]["name_left"])
    capsys.readouterr()
    described = arguments(root, tmp_path / "other", *more, "--target", "description")
    assert main(described) == 2
    assert "has no description" in capsys.readouterr().err
