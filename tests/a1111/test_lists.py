"""What the webui's log says of files that are not in the lists of prefixes."""

from __future__ import annotations

from pathlib import Path

import pytest
from apl_a1111 import config


def test_a_file_that_is_left_out_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(config, "roots", lambda: (tmp_path,))
    (tmp_path / "50% off.pt").touch()
    (tmp_path / "house.SAFETENSORS").touch()
    for _ in range(3):
        assert config.library().names() == ["house"]
    ((_, level, said),) = caplog.record_tuples
    assert level > 20 and "'50% off.pt' is not in the list of prefixes: a pickle" in said
    assert str(tmp_path) not in said
