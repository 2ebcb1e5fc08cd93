"""Free of a model's scale: step sizes, the unit of errors, and a model whose table is another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_model import LATENT, PEOPLE, THINGS, TinySource, tiny_model, xl_model
from tiny_run import settings
from tiny_train import stop_at, timeless, train
from torch import Tensor

from apl_core.encoding import ReferenceEncoder
from apl_core.errors import RunError
from apl_core.example_kinds import Weighting
from apl_core.objective import Example
from apl_core.prefix import Prefix
from apl_core.training.callbacks import Control
from apl_core.training.config import PAPER, TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer
from apl_core.training.micro import MicroBatch
from apl_core.training.scale import caption_change, embedding_lengths
from apl_core.training.validation import PromptValidator
from apl_trainer.models.clip_text import ClipTower

MODEL = tiny_model()


class Enlarged(ClipTower):
    """A tower whose embeddings are 8 times as long, and made short again right behind the table.

    It encodes as without: 8 is exact in floats.
    """

    times = 8.0

    @property
    def table(self) -> Tensor:
        return super().table * self.times

    def run(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().run(ids, rows / self.times)


def enlarged() -> Model:
    [tower] = MODEL.encoder.towers  # type: ignore[attr-defined]
    encoder = ReferenceEncoder([Enlarged("pocket", tower.module, tower.tokenizer, tower.pad)])
    return Model(encoder, MODEL.denoiser, "tiny model, enlarged")


def learned(model: Model, config: TrainConfig, folder: Path) -> tuple[Prefix, list[float]]:
    """Prefix and losses of a run that is validated on names and captions."""
    run = RunFolder(folder)
    run.create(config)
    source, random = TinySource(), torch.Generator().manual_seed(5)
    kept = [e for kind in ("identity", "people", "things") for e in source.draw(kind, 3, random)]  # type: ignore[arg-type]
    validator = PromptValidator(model.encoder, model.denoiser, kept)
    prefix = Trainer(config, model, source, run, validator).run()
    return prefix, [row["loss"] for row in run.rows() if "loss" in row]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "muon", "weighting": "x0", "weight_contrast": 0.2, "max_snr": 0.2},
        {"optimizer": "adam"},
        {"optimizer": "muon", "prefix_init": "normal", "text_steps": 3},
    ],
    ids=["muon", "adam", "texts"],
)
def test_longer_embeddings_learn_longer_rows_and_nothing_else(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """A rate that was absolute would move the longer rows by an eighth of their way."""
    config = settings(steps=4, validate_every=2, **changes)
    plain, losses = learned(MODEL, config, tmp_path / "plain")
    longer, longer_losses = learned(enlarged(), config, tmp_path / "longer")
    assert longer_losses == pytest.approx(losses, rel=1e-3)
    rows, start = plain.vectors["pocket"], MODEL.encoder.token_embedding("pocket").detach()
    off = longer.vectors["pocket"] / Enlarged.times - rows
    length = embedding_lengths(config, MODEL.encoder)["pocket"]
    assert float(off.abs().mean()) < 1e-3 * length
    if "text_steps" not in changes:  # first rows are words
        nearest = torch.cdist(rows, start).min(1).values / rows.shape[1] ** 0.5
        assert float(nearest.min()) > 0.05 * length, "nothing has moved"
    for figure in ("name_left", "drift_people", "drift_things"):
        wanted = plain.card.figures[figure]
        assert longer.card.figures[figure] == pytest.approx(wanted, rel=0.02, abs=1e-3)


def test_a_length_is_the_median_row_s_root_mean_square_and_the_paper_s_is_one() -> None:
    for model in (MODEL, xl_model()):
        lengths = embedding_lengths(TrainConfig(), model.encoder)
        for key in model.encoder.widths:
            rows = model.encoder.token_embedding(key).detach().double().square().mean(1).sqrt()
            assert lengths[key] == pytest.approx(float(rows.median()), rel=1e-5)
        assert set(embedding_lengths(PAPER, model.encoder).values()) == {1.0}


def captions() -> tuple[list[Example], Tensor, Tensor]:
    """People and things in turn, with their steps and noise."""
    random = torch.Generator().manual_seed(2)
    latents = iter(torch.randn((6, *LATENT), generator=random))
    found = [
        Example(kind, next(latents), text, text)
        for pair in zip(PEOPLE, THINGS, strict=True)
        for kind, text in zip(("people", "things"), pair, strict=True)
    ]
    t = torch.tensor([900, 20, 500, 700, 300, 980])
    return found, t, torch.randn((6, *LATENT), generator=random)  # type: ignore[return-value]


@pytest.mark.parametrize("weighting", ["eps", "x0"])
def test_the_unit_is_the_error_of_the_next_caption_of_the_kind(weighting: Weighting) -> None:
    examples, t, noise = captions()
    model = MODEL.encoder, MODEL.denoiser
    found = caption_change(*model, examples, t, noise, weighting, MicroBatch())
    errors: list[float] = []
    for i, example in enumerate(examples):
        other = examples[(i + 2) % 6]
        assert other.kind == example.kind
        kept = float(MODEL.denoiser.schedule.alphas_cumprod[t[i]])
        x_t = kept**0.5 * example.latent + (1 - kept) ** 0.5 * noise[i]
        with torch.no_grad():
            own, changed = (
                MODEL.denoiser.predict_noise(
                    x_t[None], t[i : i + 1], MODEL.encoder.encode([text], None)
                )
                for text in (example.prompt, other.prompt)
            )
        error = float((changed - own).square().mean())
        errors.append(error if weighting == "eps" else error * (1 - kept) / kept)
    assert found == pytest.approx(sum(errors) / 6, rel=1e-3)
    parts = caption_change(*model, examples, t, noise, weighting, MicroBatch(4))
    assert parts == pytest.approx(found, rel=1e-3)


def test_a_model_that_no_caption_changes_cannot_learn() -> None:
    examples, t, noise = captions()
    same = [Example(e.kind, e.latent, "a red circle", "a red circle") for e in examples]
    with pytest.raises(RunError, match="another caption changes nothing"):
        caption_change(MODEL.encoder, MODEL.denoiser, same, t, noise, "eps", MicroBatch())


@contextmanager
def rewritten(run: RunFolder) -> Iterator[dict[str, Any]]:
    """The numbers of a saved state, to change them."""
    with safe_open(run.state, "pt") as file:  # type: ignore[no-untyped-call]
        numbers = json.loads(file.metadata()["state"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    yield numbers
    save_file(tensors, run.state, {"state": json.dumps(numbers)})


def test_the_unit_is_kept_with_the_state_and_not_measured_again(tmp_path: Path) -> None:
    """A resumed run counts its errors in the unit of its state: here in one twice as large."""
    config = settings(steps=6, save_every=1, validate_every=0)
    train(tmp_path / "straight", config, validated=False)
    control = Control()
    train(tmp_path / "cut", config, stop_at(control, 5), validated=False, control=control)
    run = RunFolder(tmp_path / "cut")
    with rewritten(run) as numbers:
        assert numbers["unit"] > 0
        numbers["unit"] *= 2
    train(run.path, config, validated=False)
    whole, half = (timeless(tmp_path / name)[-1] for name in ("straight", "cut"))
    assert whole["step"] == half["step"] == 6
    assert half["loss"] == pytest.approx(whole["loss"] / 2, rel=1e-5)
    assert RunFolder(tmp_path / "straight").prefix.exists()
