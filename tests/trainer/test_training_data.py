"""What a training reads from a data folder: its rows, their pictures, and latents kept on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from slim_runs import NAMES, SIZE, load, settings, silent, write_data, write_root

from apl_core.errors import AplError, ConfigError
from apl_core.training.parallel import Group
from apl_trainer.checkpoints.load import CheckpointModel
from apl_trainer.checkpoints.training_data import LatentCache, read_data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CheckpointModel:
    return load(write_root(tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"file_name": "none.png"}, "there is no file none.png"),
        ({"file_name": "../x.png"}, "not a file below the folder"),
        ({"text": ""}, "caption, is missing"),
        ({"kind": "cat"}, "kind is 'cat'"),
        ({"name": "somebody else"}, "does not stand in its text"),
        ({"text": 7}, "text is not text"),
    ],
)
def test_bad_rows_are_told(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    write_data(tmp_path / "data")
    path = tmp_path / "data" / "metadata.jsonl"
    lines = path.read_text().split("\n")
    lines[1] = json.dumps(json.loads(lines[1]) | changes)
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        read_data(tmp_path / "data", settings())
    assert said in str(caught.value) and "line 2" in str(caught.value)


def test_held_out_rows_of_a_data_set_are_left_out(tmp_path: Path) -> None:
    """In the words of `apl dataset`, whose held-out names are for measuring only."""
    write_data(tmp_path / "data")
    path = tmp_path / "data" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n")]
    told = [
        {
            "file": r["file_name"],
            "prompt": r["text"],
            "kind": r["kind"],
            "name": r.get("name", ""),
            "neutral": r["text"],
            "split": "heldout" if r.get("name") == NAMES[0] else "train",
        }
        for r in rows
    ]
    path.write_text("\n".join(json.dumps(row) for row in told) + "\n")
    found = read_data(tmp_path / "data", settings())
    assert len(found) == len(rows) - 1 and NAMES[0] not in {row.name for row in found}


def test_unreadable_pictures_and_lacking_kinds_are_told(
    model: CheckpointModel, tmp_path: Path
) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "data" / "0.png").write_bytes(b"no picture")
    rows = read_data(tmp_path / "data", settings())
    cache = LatentCache(tmp_path / "cache", model.latents, SIZE)
    with pytest.raises(ConfigError, match=r"0\.png is not a readable picture"):
        cache.prepare([tmp_path / "data" / row.file_name for row in rows], silent, Group())
    path = tmp_path / "data" / "metadata.jsonl"
    path.write_text(
        "\n".join(line for line in path.read_text().split("\n") if "things" not in line)
    )
    with pytest.raises(ConfigError, match="no row of kind things"):
        read_data(tmp_path / "data", settings())
    with pytest.raises(ConfigError, match="neutral is missing"):
        read_data(tmp_path / "data", settings(target="description", batch_things=0))


def test_a_latent_can_be_given_instead_of_a_picture(model: CheckpointModel, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    cache = LatentCache(tmp_path, model.latents, SIZE)
    latent = torch.randn(4, 8, 8)
    save_file({"latent": latent}, tmp_path / "a.safetensors")
    save_file({"latent": torch.randn(4, 8, 9)}, tmp_path / "b.safetensors")
    cache.prepare([tmp_path / "a.safetensors"], silent, Group())
    assert torch.equal(cache.get(tmp_path / "a.safetensors"), latent)
    with pytest.raises(AplError, match="not a latent"):
        cache.prepare([tmp_path / "b.safetensors"], silent, Group())
