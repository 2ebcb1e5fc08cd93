"""Files that strangers may have written, and that once ended in a traceback or took all memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from slim_checkpoints import pipeline, write_file

from apl_core.errors import AplError, ConfigError, RunError
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_trainer.checkpoints.detect import detect
from apl_trainer.checkpoints.load import load_checkpoint
from apl_trainer.checkpoints.train import CheckpointOrigin
from apl_trainer.checkpoints.training_data import read_data
from apl_trainer.data.generate import GeneratedIndex
from apl_trainer.json_log import PARTS
from apl_trainer.report.curves import figure, loss_chart
from apl_trainer.ui import markup
from apl_trainer.ui.run_request import RunRequest
from apl_trainer.ui.run_status import figures, read_run, rows, seconds_left

DEEP = "[" * 100_000
ROW = {"file_name": "a.png", "text": "Ada Lind", "kind": "identity", "name": "Ada Lind"}


@pytest.mark.parametrize(
    "line",
    [DEEP, *(json.dumps(ROW | {"file_name": f}) for f in ("\0", "\ud800", "a" * 5000, "../a.png"))],
    ids=["deep", "nul", "half a character", "long", "outside"],
)
def test_a_row_of_a_data_set_is_told(tmp_path: Path, line: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ConfigError, match="line 1 of metadata"):
        read_data(tmp_path, TrainConfig())


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        "[]",
        '{"checkpoint": 3, "names": null}',
        '{"checkpoint": "a", "names": null, "size": "big"}',
        '{"model": "x"}',
    ],
)
def test_a_runs_origin_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "origin.json").write_text(text)
    with pytest.raises(RunError, match="Fix:"):
        RunRequest.of(tmp_path)
        CheckpointOrigin.of(RunFolder(tmp_path))


def test_a_page_shows_a_run_whatever_its_files_hold(tmp_path: Path) -> None:
    huge = 10**400
    said = {"state": "working", "doing": "learning", "process": 2**70, "steps": huge, "step": "x"}
    lines = [DEEP, f'{{"step": {huge}, "loss": 1}}', '{"step": 1, "loss": 1e308, "seconds": "x"}']
    lines += [f'{{"step": 2, "loss": {huge}}}', '{"step": 3, "loss": 5e-324, "seconds": 1}']
    (tmp_path / "status.json").write_text(json.dumps(said))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "figures.json").write_text(f'{{"base.scene": {huge}, "base.face_found": 0.5}}')
    run = read_run(tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert run.steps == 0 and figures(tmp_path) == {"base.face_found": 0.5}
    assert seconds_left(run, rows(tmp_path)) is not None
    assert "<svg" in figure(loss_chart(rows(tmp_path), 3))
    assert markup.status(run) and markup.charts(run) and markup.results(run, None)
    (tmp_path / "status.json").write_text(DEEP)
    assert not read_run(tmp_path).error


def test_rows_of_a_data_set_lie_below_it(tmp_path: Path) -> None:
    row = {
        "task": "t",
        "index": 0,
        "sha256": "",
        "template": "",
        "seed": 0,
        "votes": {},
        "embedding": "",
    }
    (tmp_path / PARTS).mkdir()
    files = ("../../x.png", "/x.png", "C:x.png", 3, "images/x.png")
    lines = [DEEP, *(json.dumps(row | {"file": file}) for file in files)]
    lines.append(json.dumps(row | {"file": "", "task": []}))
    (tmp_path / PARTS / "pictures-0.jsonl").write_text("\n".join(lines))
    assert [row.file for row in GeneratedIndex(tmp_path).rows.values()] == ["images/x.png"]


def test_a_checkpoint_with_endless_layers_is_refused_before_it_is_built(tmp_path: Path) -> None:
    place = "model.diffusion_model.input_blocks.1.1.transformer_blocks.999999999.norm1.bias"
    slim = pipeline("sd1")
    path = write_file("sd1", slim, tmp_path / "a.safetensors", **{place: torch.ones(3)})
    with pytest.raises(AplError, match="unsupported or corrupt architecture"):
        detect(path)
    slim.save_pretrained(tmp_path / "b")
    config = tmp_path / "b" / "unet" / "config.json"
    told = json.loads(config.read_text())
    for wrong in (
        {"layers_per_block": 10**9},
        {"in_channels": "x"},
        {"block_out_channels": [None, 7]},
        {"cross_attention_dim": {}},
    ):
        config.write_text(json.dumps(told | wrong))
        with pytest.raises(AplError, match="Fix:"):
            load_checkpoint(tmp_path / "b")
    config.write_text(DEEP)
    with pytest.raises(AplError, match=r"config\.json is missing or broken"):
        detect(tmp_path / "b")


def test_weights_of_impossible_shapes_are_refused(tmp_path: Path) -> None:
    text = "cond_stage_model.model."
    names = {
        f"{text}token_embedding.weight": torch.ones(3),
        f"{text}transformer.resblocks.0.attn.in_proj_weight": torch.ones(1),
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(2),
    }
    save_file(names, tmp_path / "x.safetensors")
    with pytest.raises(AplError, match="Fix:"):
        detect(tmp_path / "x.safetensors")
