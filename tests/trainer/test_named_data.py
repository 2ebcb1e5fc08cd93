"""Names in a dataset's texts and tables, however people and programs wrote them."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from apl_core.captions import Names
from apl_core.errors import ConfigError
from apl_core.training.config import TrainConfig
from apl_core.training.lessons import NameLessons
from apl_core.training.material import LatentSource
from apl_core.training.people import ListedPerson, people_in
from apl_trainer.checkpoints.self_generated import jobs
from apl_trainer.checkpoints.train import listed_in
from apl_trainer.checkpoints.training_data import material_of, read_data
from apl_trainer.data import descriptions_csv
from apl_trainer.data.captioned_folder import given_tasks
from apl_trainer.data.descriptions_csv import DescriptionRow
from apl_trainer.data.plan import Amounts
from apl_trainer.evaluation.gallery import pictures_of_people
from apl_trainer.metadata_jsonl import (
    CaptionedPicture,
    descriptions_in,
    read_metadata,
    write_metadata,
)
from apl_trainer.names import check_apart, read_names
from apl_trainer.settings import read_toml
from apl_trainer.ui.run_status import read_run

CONFIG = TrainConfig(target="person", batch_identity=1, batch_things=1, batch_people=1)
MARK = b"\xef\xbb\xbf"
THING = {"text": "a bowl of cherries", "kind": "things"}
WOMAN = {"text": "a woman with a pale face", "kind": "people"}


def data(folder: Path, *rows: dict[str, str]) -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    lines = [json.dumps({"file_name": "a.png"} | row) for row in (*rows, THING, WOMAN)]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def targets(folder: Path, *rows: dict[str, str]) -> list[str]:
    """What each identity row is drawn to."""
    found = read_data(data(folder, *rows), CONFIG)
    material = material_of(found, listed_in(found), lambda file: torch.zeros(1), "person")
    return [picture.neutral for picture in material.pictures if picture.kind == "identity"]


def identity(name: str, text: str, **more: str) -> dict[str, str]:
    return {"kind": "identity", "name": name, "text": text} | more


@pytest.mark.parametrize(
    ("name", "text", "target"),
    [
        ("Ace", "the face of Ace", "the face of a person"),
        ("Cher", "Cher in Cherbourg", "a person in Cherbourg"),
        ("Ada Lovelace", "ada_lovelace's hat", "a person's hat"),
        ("Ada Lovelace", "Ada\u00a0 LOVELACE", "a person"),
        ("Zoë Kay", unicodedata.normalize("NFD", "Zoë Kay reads"), "a person reads"),
        (unicodedata.normalize("NFD", "Zoë Kay"), "Zoë-Kay reads", "a person reads"),
    ],
)
def test_the_target_of_a_name_prompt(tmp_path: Path, name: str, text: str, target: str) -> None:
    assert targets(tmp_path, identity(name, text)) == [target]


def test_nobody_of_the_data_set_is_left_in_a_target(tmp_path: Path) -> None:
    rows = [
        identity("Ada", "Ada and Bob Ray"),
        identity("Bob Ray", "bob ray"),
        identity("Ada Lind", "a photo of Ada Lind, Ada's aunt"),
    ]
    assert targets(tmp_path, *rows) == [
        "a person and a person",
        "a person",
        "a photo of a person, a person's aunt",
    ]


def test_a_name_inside_a_word_does_not_stand_in_a_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'Cher' does not stand in its text"):
        read_data(data(tmp_path, identity("Cher", "cherries")), CONFIG)


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("kind", ["things", "people"])
def test_a_named_picture_is_nothing_to_leave_alone(tmp_path: Path, kind: str, split: str) -> None:
    rows = [
        identity("Ada Lind", "Ada Lind", split=split),
        identity("Bo", "Bo"),
        {"kind": kind, "text": "a photo of ada_lind"},
    ]
    with pytest.raises(ConfigError, match=f"line 3 .*picture of {kind} names 'Ada Lind'"):
        read_data(data(tmp_path, *rows), CONFIG)


def test_a_neutral_text_names_nobody(tmp_path: Path) -> None:
    config = TrainConfig(target="description", batch_identity=1, batch_things=1, batch_people=1)
    row = identity("Ada Lind", "Ada Lind reads", neutral="ada-lind reads")
    with pytest.raises(ConfigError, match="its neutral text names 'Ada Lind'"):
        read_data(data(tmp_path, row), config)


def test_spellings_of_a_name_are_one_name(tmp_path: Path) -> None:
    rows = read_data(
        data(tmp_path, identity("Ada Lind", "Ada Lind"), identity("ada_lind", "ada_lind")), CONFIG
    )
    assert listed_in(rows) == (ListedPerson("Ada Lind"),)
    pictures = material_of(rows, listed_in(rows), lambda file: torch.zeros(1), "person")
    assert [one.person for one in pictures.pictures[:2]] == 2 * [ListedPerson("Ada Lind")]
    with pytest.raises(ConfigError, match="stands there 2 times"):
        people_in("Ada Lovelace\nAda-Lovelace")
    with pytest.raises(ConfigError, match="1 of them"):
        check_apart(["Ada Lovelace"], ["ada_lovelace"])
    with pytest.raises(ConfigError, match="no letter"):
        people_in("Ada\n???")


def test_a_users_captions_are_learned_with_the_name_varied(tmp_path: Path) -> None:
    """Half of the prompts; the others are the grammar's."""
    lines = identity("Ada Lind", "Ada Lind with a kite"), identity("Bo Ray", "a kiss for bo ray")
    rows = read_data(data(tmp_path, *lines), CONFIG)
    people = listed_in(rows)
    lessons = NameLessons(people, "person", str.split, 4)
    material = material_of(rows, people, lambda file: torch.zeros(1), "person")
    source, random = LatentSource(material, lessons, people), torch.Generator().manual_seed(0)
    named = {one.prompt: one.neutral for one in source.draw("identity", 200, random)}
    own = [text for text in named if "with a kite" in text or "a kiss for" in text]
    assert 50 < len(own) < 150
    for text, neutral in (
        ("Ada Lind with a kite", "a person with a kite"),
        ("Ada Ray with a kite", "a person with a kite"),
        ("a kiss for Bo Lind", "a kiss for a person"),
    ):
        assert any(text in one and neutral in named[one] for one in own), text
    for kind, text in (("things", THING["text"]), ("people", WOMAN["text"])):
        free = [one.prompt for one in source.draw(kind, 100, random)]
        assert 20 < free.count(text) < 80 and len(set(free)) > 20


def test_nobody_who_is_held_out_is_learned_beside_another(tmp_path: Path) -> None:
    """The target of "Ada Lind hugs Bo Ray" would be "a person hugs Bo Ray", who stays himself."""
    lines = (
        identity("Ada Lind", "Ada Lind hugs Bo Ray"),
        identity("Ada Lind", "Ada Lind at sea"),
        identity("Bo Ray", "Bo Ray", split="heldout"),
    )
    rows = read_data(data(tmp_path, *lines), CONFIG)
    people = listed_in(rows)
    lessons = NameLessons(people, "person", str.split, 4)
    material = material_of(rows, people, lambda file: torch.zeros(1), "person")
    assert people == (ListedPerson("Ada Lind"),) and material.pictures[0].neutral
    source, random = LatentSource(material, lessons, people), torch.Generator().manual_seed(0)
    drawn = [one.prompt for one in source.draw("identity", 200, random)]
    assert any("at sea" in prompt for prompt in drawn)
    assert not any(Names(["Bo Ray"]).find(prompt) for prompt in drawn)


def test_drawn_data_leaves_prompts_out_that_hold_a_name() -> None:
    rows = jobs([ListedPerson(n) for n in ("Boat", "Ada Lind", "Bo Ray", "Cy Dell")], 8, 0)
    free = [row.text for row in rows if row.kind != "identity"]
    assert len(free) == 64 and not any("boat" in text for text in free)


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("a bowl of cherries", "things"),
        ("a clock's hands", "things"),
        ("two girls", "people"),
        ("boys playing", "people"),
        ("1girl, solo", "people"),
        ("the ladies\u2019 room", "people"),
        ("a harbor in Cherbourg", "things"),
        ("an interface", "things"),
    ],
)
def test_words_decide_what_a_given_picture_shows(tmp_path: Path, caption: str, kind: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(caption, encoding="utf-8")
    found = given_tasks(tmp_path, Amounts(), 0, ["Cher", "Ace", "Ada Lovelace"])
    assert [(task.kind, task.caption) for task in found] == [(kind, caption)]


@pytest.mark.parametrize(
    "caption",
    [
        "Ada_Lovelace",
        "ada  lovelace",
        "Ada\u00a0Lovelace",
        "Ada-Lovelace's hat",
        "Lovelace, Ada",
        unicodedata.normalize("NFD", "a photo of Zoë"),
        "ZOE in a garden",
    ],
)
def test_a_given_picture_that_is_named_is_refused(tmp_path: Path, caption: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(caption, encoding="utf-8")
    with pytest.raises(ConfigError, match="its caption names"):
        given_tasks(tmp_path, Amounts(), 0, ["Ada Lovelace", "Zoë"])


def test_a_captions_encoding_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(MARK + b"a red car")
    assert given_tasks(tmp_path, Amounts(), 0, [])[0].caption == "a red car"
    (tmp_path / "a.txt").write_bytes("Ada Lovelace".encode("utf-16"))
    with pytest.raises(ConfigError, match="UTF-16, not UTF-8"):
        given_tasks(tmp_path, Amounts(), 0, ["Ada Lovelace"])


def test_names_in_prompts_and_galleries(tmp_path: Path) -> None:
    assert (
        Names(["Ace"]).replaced("the face of ace's cat", "a person") == "the face of a person's cat"
    )
    entry = CaptionedPicture(
        "a.png",
        "a placeholder of Ace, smiling",
        "identity",
        "Ace",
        "a placeholder of a man, smiling",
        0,
        "train",
    )
    assert descriptions_in([entry]) == {"Ace": "a man"}
    for folder in (unicodedata.normalize("NFD", "zoë_kay"), "ADA-LIND"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "a.png")
    found = pictures_of_people(tmp_path, ["Zoë Kay", "Ada Lind"])
    assert sorted(name for name, _ in found) == ["Ada Lind", "Zoë Kay"]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_lists_with_any_line_end_are_read(tmp_path: Path, end: str) -> None:
    (tmp_path / "names.txt").write_bytes(MARK + end.join(["# mine", "Ada", "Bo", ""]).encode())
    assert read_names(tmp_path / "names.txt") == ("Ada", "Bo")


def test_a_mark_in_front_of_settings_and_metadata_is_read_over(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(MARK + b"steps = 7\r\nlearning_rate = 0.5\r\n")
    assert read_toml(config) == {"steps": 7, "learning_rate": 0.5}
    config.write_bytes(MARK + b"steps = 7\rlearning_rate = 0.5\r")
    assert read_toml(config) == {"steps": 7, "learning_rate": 0.5}
    assert read_run(tmp_path).steps == 7
    config.write_text("steps = 7", encoding="utf-16")
    with pytest.raises(ConfigError, match="UTF-16, not UTF-8: save it as UTF-8"):
        read_toml(config)
    folder = data(tmp_path, identity("Ada", "Ada"))
    for end in (b"\n", b"\r\n", b"\r"):
        lines = (folder / "metadata.jsonl").read_bytes().removeprefix(MARK).splitlines()
        (folder / "metadata.jsonl").write_bytes(MARK + end.join(lines))
        assert len(read_data(folder, CONFIG)) == 3
    entry = CaptionedPicture("a.png", "a car", "things", seed=0)
    path = write_metadata(tmp_path, [entry])
    path.write_bytes(MARK + path.read_bytes())
    assert read_metadata(tmp_path) == (entry,)


def line(name: str, **values: str) -> DescriptionRow:
    return DescriptionRow(name, "train", "a person", values, 3, 0.9)


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nname;description\r\nAnn Lee;somebody tall\r\n",
        '"sep=;"\nname;description\nAnn Lee;somebody tall\n',
        "SEP=,\nname,description\nAnn Lee,somebody tall\n",
        "sep=;,,\nName;Description\nAnn Lee;somebody tall\n",
        "NAME,Split,DESCRIPTION\nAnn Lee,train,somebody tall\n",
        " Name ; Description \rAnn Lee;somebody tall\r",
        ";;\n\nname;description;\nAnn Lee;somebody tall;\n;;\n",
        '"name"\t"description"\nann_lee\t"somebody tall"\n',
        "name,description\nANN\u00a0LEE,somebody tall\n",
        "name,description,\nAnn Lee,somebody tall\n",
        "name,description\nAnn Lee,somebody tall,,,\n",
    ],
)
def test_edits_in_a_table_survive_office_programs(tmp_path: Path, text: str) -> None:
    (tmp_path / "parts").mkdir()
    lines = [line("Ann Lee", hair_color="red"), line("Bo")]
    descriptions_csv.update(tmp_path, lines)
    for mark in (b"", MARK):
        (tmp_path / descriptions_csv.FILE).write_bytes(mark + text.encode())
        again = descriptions_csv.update(tmp_path, lines)
        assert [v.said for v in again] == ["somebody tall", "a person"]
        assert descriptions_csv.read_descriptions(tmp_path) == {
            "Ann Lee": "somebody tall",
            "Bo": "a person",
        }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"who;what\nAnn;x\n", "description, name is missing"),
        (b"name,NAME,description\nAnn,x,y\n", "a column is there twice"),
        ("name,description\nAnn,Z\xeb\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("name\tdescription\nAnn\tx\n".encode("utf-16"), "UTF-16"),
        (b"", "is missing"),
        (b'name,description\nAnn,"x\n', "it is not a table"),
    ],
)
def test_no_error_of_a_table_asks_to_delete_it(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / descriptions_csv.FILE).write_bytes(text)
    with pytest.raises(ConfigError, match=said) as caught:
        descriptions_csv.update(tmp_path, [line("Ann")])
    assert "delete" not in str(caught.value)
    assert (tmp_path / descriptions_csv.FILE).read_bytes() == text


@pytest.mark.parametrize(
    ("name", "description", "fine"),
    [
        ("Ace", "a person with a pale face", True),
        ("Ada Lovelace", "somebody like ada_lovelace", False),
        ("Rose", "a rosy person", True),
        ("Zoë", unicodedata.normalize("NFD", "zoë"), False),
    ],
)
def test_a_description_may_hold_a_name_inside_a_word_only(
    tmp_path: Path, name: str, description: str, fine: bool
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / descriptions_csv.FILE).write_text(
        f"name,description\n{name},{description}\n", "utf-8"
    )

    def told() -> Any:
        return descriptions_csv.update(tmp_path, [line(name)])[0].said

    if fine:
        assert told() == description
    else:
        with pytest.raises(ConfigError, match="holds the name"):
            told()
