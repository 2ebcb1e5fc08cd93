"""What a run in the webui learns from, and what it refuses before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from apl_a1111.training import job
from apl_a1111.training.job import Job, Order, folder_of
from apl_a1111.training.material import Material, make_latents, prompts_of
from apl_a1111.training.ports import refuse_unfit
from torch import Tensor

from apl_core.errors import AplError, ConfigError, HostError
from apl_core.ports import Conditioning
from apl_core.schedule import Schedule

SHAPE = (4, 2, 2)


class Encoder:
    """Texts become their length."""

    def encode(self, texts: list[str], rows: object) -> Conditioning:
        return Conditioning(torch.tensor([float(len(text)) for text in texts])[:, None, None])


class Denoiser:
    """Predicts a share of what it sees that depends on the text."""

    def __init__(self) -> None:
        self.schedule = Schedule.scaled_linear()
        self.device = torch.device("cpu")
        self.calls = 0

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        return x_t * (0.5 + conditioning.cross[..., None] / 1000)


def test_latents_are_made_once_and_examples_are_the_same_for_the_same_generator(
    tmp_path: Path,
) -> None:
    prompts, denoiser, told = prompts_of(["Ada", "Bob"]), Denoiser(), []
    encoder: Any = Encoder()

    def make() -> Tensor:
        path = tmp_path / "latents.safetensors"
        return make_latents(
            path, encoder, denoiser, prompts, SHAPE, lambda *at: told.append(at)
        )  # fmt: skip

    latents = make()
    assert latents.shape == (len(prompts), *SHAPE) and bool(latents.isfinite().all())
    assert told[-1] == (len(prompts), len(prompts))
    calls = denoiser.calls
    assert torch.equal(make(), latents) and denoiser.calls == calls
    material = Material(prompts, latents)
    for kind in ("identity", "things", "people"):
        first, again = (material.draw(kind, 5, torch.Generator().manual_seed(3)) for _ in range(2))
        assert [one.prompt for one in first] == [one.prompt for one in again]
        for one in first:
            place = prompts.index((kind, one.prompt, one.neutral))
            assert torch.equal(one.latent, latents[place])
    identity = [prompt for prompt in prompts if prompt[0] == "identity"]
    assert all(("Ada" in text or "Bob" in text) for _, text, _ in identity)
    assert not any("Ada" in neutral or "Bob" in neutral for _, _, neutral in prompts)


@pytest.mark.parametrize(
    ("names", "size"), [((), 512), (("A", "a "), 512), (("A", ""), 512), (("A",), 65), (("A",), 0)]
)
def test_orders_that_make_no_sense(names: tuple[str, ...], size: int) -> None:
    with pytest.raises(ConfigError):
        Order(names, size)


def test_an_order_is_kept_for_resuming(tmp_path: Path) -> None:
    order = Order(("Zoë", "李雷"), 64)
    order.save(tmp_path / "order.json")
    assert Order.load(tmp_path / "order.json") == order


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 61, "é"])
def test_run_names_stay_in_the_folder_of_runs(name: str) -> None:
    with pytest.raises(ConfigError):
        folder_of(name)


def test_models_that_cannot_be_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from apl_a1111.training import ports

    fake = {"lowvram": SimpleNamespace(is_enabled=lambda model: model.lowvram)}
    monkeypatch.setattr(ports, "module", fake.__getitem__)

    def model(lowvram: bool, key: str) -> SimpleNamespace:
        return SimpleNamespace(lowvram=lowvram, model=SimpleNamespace(conditioning_key=key))

    refuse_unfit(model(False, "crossattn"))
    for unfit in (None, model(True, "crossattn"), model(False, "hybrid")):
        with pytest.raises(HostError):
            refuse_unfit(unfit)
    monkeypatch.setattr(job, "loaded_model", lambda: model(True, "crossattn"))
    with pytest.raises(AplError, match="lowvram"):
        Job(SimpleNamespace()).resume("anything")  # type: ignore[arg-type]
