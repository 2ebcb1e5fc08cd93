"""One learner: `apl train` teaches what the plain learner does; tests/hosts asks the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lesson_digest
import pytest
from slim_checkpoints import pipeline, write_file

from apl_core.training.learner import learner
from apl_core.training.loop import Trainer
from apl_trainer.checkpoints import train
from apl_trainer.checkpoints.tokenizer import openai_tokenizer
from apl_trainer.cli import main


def test_apl_train_teaches_the_texts_of_the_plain_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Trainer] = []

    def record(*given: Any, **more: Any) -> Trainer:
        made.append(learner(*given, **more))
        return made[-1]

    monkeypatch.setattr(train, "learner", record)
    model, names = tmp_path / "sd1.safetensors", tmp_path / "names.txt"
    write_file("sd1", pipeline("sd1", tokenizer=openai_tokenizer()), model)
    names.write_text(lesson_digest.NAMES, encoding="utf-8")
    settings = [f"--set={name}={value}" for name, value in lesson_digest.SETTINGS.items()]
    few = [f"--per-name={lesson_digest.PER_NAME}", "--draw-steps=1", "--size=64", "--device=cpu"]
    where = ["--model", str(model), "--names", str(names), "--out", str(tmp_path / "run")]
    assert main(["train", *where, *few, *settings, "--validate-every=1"]) == 0
    expected = lesson_digest.expected(tmp_path / "plain")
    assert lesson_digest.digest(made[0]) == expected
    assert lesson_digest.expected(tmp_path / "other", seed=6) != expected
