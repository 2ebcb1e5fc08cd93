"""Every text of the page is in every translation."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_label_is_translated_and_nothing_else() -> None:
    tables = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "localizations").glob("*.json")
    }
    assert set(tables) == {"en", "zh_CN"}
    assert set(tables["en"]) == set(tables["zh_CN"])
    assert all(key == value for key, value in tables["en"].items())
    assert all(re.search(r"[\u4e00-\u9fff]", value) for value in tables["zh_CN"].values())
    files = [*(ROOT / "a1111_extension").rglob("*.py"), *(ROOT / "trainer" / "ui").glob("*.py")]
    files.append(ROOT / "apl_core" / "training" / "config.py")  # the presets' titles
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [key for key in tables["en"] if f'"{key}"' not in source] == []
    shown = set(re.findall(r'label="([^"{]+)"', source)) | set(
        re.findall(r'(?:_slider\(gr, |option\(|Button\(|Accordion\(|Preset\()\s*"([^"]+)"', source)
    )
    shown -= {"news"}  # a hidden button
    assert sorted(shown - set(tables["en"])) == []
