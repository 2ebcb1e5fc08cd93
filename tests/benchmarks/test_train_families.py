"""`apl bench train --family`: our step and the authors' on networks of real classes, short ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from apl_core.errors import ConfigError
from apl_trainer.checkpoints.pipelines import FAMILIES
from benchmarks import families, train_families
from benchmarks.train_families import SHORT, family_named, run, short_pipeline


def test_every_family_without_clip_can_be_timed() -> None:
    assert set(SHORT) == {one.name for one in FAMILIES if not one.clips} - {
        "Flux.2 dev",  # 5 GiB a block
        "Flux.2 Klein 9B",  # a wider Klein 4B
    }
    with pytest.raises(ConfigError, match="known: Z-Image, Qwen-Image"):
        family_named("SDXL")


@pytest.mark.parametrize("name", SHORT)
def test_a_short_network_has_fewer_weights(name: str) -> None:
    """Built of the class and the arguments that are timed."""
    family = family_named(name)
    short, whole = short_pipeline(family), families.empty_pipeline(family)
    kinds = torch.float32, None
    assert 0.02 < short.bytes(*kinds) / whole.bytes(*kinds) < 0.35
    assert type(short.network) is type(whole.network)


def test_steps_are_timed_and_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lumina 2 with a small vocabulary and narrow blocks: the whole way, in a second."""
    narrow: dict[str, Any] = {"hidden_size": 48, "num_attention_heads": 2, "num_kv_heads": 1}
    narrow |= {
        "axes_dim_rope": (8, 8, 8),
        "multiple_of": 8,
        "num_layers": 3,
        "num_refiner_layers": 1,
    }

    def text_model(key: str, layers: int = 0) -> torch.nn.Module:
        with torch.device("meta"):
            return transformers.Gemma2Model(
                transformers.Gemma2Config(
                    vocab_size=400,
                    hidden_size=2304,
                    intermediate_size=32,
                    num_hidden_layers=layers or 4,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    head_dim=16,
                )
            )

    for place in (families, train_families):
        monkeypatch.setattr(place, "text_model", text_model)
    networks = {"Lumina 2": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304, **narrow})}
    monkeypatch.setattr(families, "NETWORKS", networks)
    monkeypatch.setattr(train_families, "SHORT", {"Lumina 2": {"num_layers": 1}})
    found = run("Lumina 2", tmp_path, 32, [3], 1, torch.device("cpu"), lambda _: None)
    assert json.loads((tmp_path / "figures.json").read_text()) == found
    for one in ("ours", "authors"):
        seconds = found[f"seconds.step_per_sample.{one}"]
        assert 0 < seconds < found[f"seconds.whole_step_per_sample.{one}"]
        assert 0.2 < found[f"layers_left.{one}"] < 0.9
    assert 0.3 < found["flops_ratio"] < 0.5
