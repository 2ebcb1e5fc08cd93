"""The parts of a dataset that need no model: lists, splits, words, tables, metadata, captions."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from apl_core.errors import ConfigError
from apl_core.example_kinds import KINDS
from apl_core.training.config import TrainConfig
from apl_trainer.checkpoints.training_data import read_data
from apl_trainer.data import descriptions_csv
from apl_trainer.data.captioned_folder import given_tasks
from apl_trainer.data.descriptions_csv import DescriptionRow
from apl_trainer.data.plan import Amounts, Task, general_tasks, slug, split_names
from apl_trainer.json_log import open_log, read_rows
from apl_trainer.metadata_jsonl import (
    COLUMNS,
    SPLITS,
    CaptionedPicture,
    read_metadata,
    write_metadata,
)
from apl_trainer.names import check_apart
from apl_trainer.pictures import read_picture
from apl_trainer.prompts import built_in_names, generator, list_book
from apl_trainer.readers.clip_attributes import SENTENCES
from apl_trainer.readers.concept_known import LEAST, known
from apl_trainer.readers.descriptions import ATTRIBUTES, phrase, vote

TEXT = st.text(min_size=1, max_size=40).map(str.strip).filter(bool)
PARTS = st.text(
    st.characters(categories=("L", "N"), include_characters="-_ ."), min_size=1, max_size=12
).filter(lambda text: text.strip(". "))


@st.composite
def entries(draw: Any) -> list[CaptionedPicture]:
    files = draw(
        st.lists(
            st.lists(PARTS, min_size=1, max_size=3).map("/".join),
            unique=True,
            min_size=1,
            max_size=5,
        )
    )
    made: list[CaptionedPicture] = []
    for file in files:
        kind = draw(st.sampled_from(KINDS))
        prompt = draw(TEXT)
        name = draw(TEXT) if kind == "identity" else ""
        neutral = draw(TEXT) if kind == "identity" else prompt
        seed = draw(st.none() | st.integers(0, 2**32 - 1))
        made.append(
            CaptionedPicture(file, prompt, kind, name, neutral, seed, draw(st.sampled_from(SPLITS)))
        )
    return made


@settings(max_examples=20)
@given(entries())
def test_metadata_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, made: list[CaptionedPicture]
) -> None:
    folder = tmp_path_factory.mktemp("metadata")
    path = write_metadata(folder, made)
    assert read_metadata(folder) == tuple(made)
    assert list(json.loads(path.read_text(encoding="utf-8").split("\n")[0])) == list(COLUMNS)
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(made), "a line is a line"


GOOD = {"file_name": "a.png", "text": "a car", "kind": "things", "name": "", "neutral": "a car"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"file_name": "../a.png"}, "not a file below"),
        ({"file_name": "/a.png"}, "not a file below"),
        ({"file_name": "C:\\a.png"}, "not a file below"),
        ({"file_name": "..\\a.png"}, "not a file below"),
        ({"file_name": ""}, "not a file below"),
        ({"file_name": "a\0"}, "not a file below"),
        ({"kind": "cars"}, "not one of identity"),
        ({"split": "test"}, "not one of train"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"name": "Ann"}, "only identity pictures"),
        ({"text": 7}, "text is not text"),
        ({"text": None}, "is missing"),
    ],
)
def test_every_bad_line_of_the_metadata_is_told(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    lines = [json.dumps(GOOD), json.dumps(GOOD | change), "{", "[]", '{"a": 1, "a": 2}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for read in (read_metadata, lambda folder: read_data(folder, TrainConfig())):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path)
        said = str(caught.value)
        assert len(caught.value.problems) == 4 and "line 2" in said and told in said
        assert "not JSON" in said and "not a JSON object" in said and "a key is repeated" in said


MADE = (
    CaptionedPicture("a.png", "a photo of Ann", "identity", "Ann", "a photo of a woman", 3),
    CaptionedPicture("sub/b.png", "a car", "things"),
    CaptionedPicture("c.png", "a man", "people", seed=4, split="heldout"),
    CaptionedPicture("d.png", "a boy", "people", seed=5),
)


def dataset(folder: Path) -> Path:
    (folder / "sub").mkdir()
    for number, row in enumerate(MADE):
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(folder / row.file_name)
    write_metadata(folder, MADE)
    return folder


def test_a_training_reads_the_metadata(tmp_path: Path) -> None:
    rows = read_data(dataset(tmp_path), TrainConfig.from_mapping({"target": "description"}))
    assert rows[0] == replace(MADE[0], nameless="a photo of a person")
    assert rows[1:] == (MADE[1], MADE[3])


def test_folders_of_older_versions_are_read(tmp_path: Path) -> None:
    """They call `file_name` `file` and `text` `prompt`."""
    path = dataset(tmp_path) / "metadata.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"file_name"', '"file"').replace('"text"', '"prompt"'), "utf-8")
    assert '"prompt": "a car"' in path.read_text(encoding="utf-8")
    assert read_metadata(tmp_path) == MADE


def test_hugging_face_s_imagefolder_reads_a_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "data"
    folder.mkdir()
    dataset(folder)
    Image.new("RGB", (8, 8)).save(folder / "sheet-1.png")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert [row["text"] for row in found] == [row.text for row in MADE]
    assert [row["image"].getpixel((0, 0))[0] for row in found] == [0, 9, 18, 27]
    assert found[0]["kind"] == "identity" and found[0]["name"] == "Ann"


def test_the_built_in_lists_are_sound() -> None:
    train, heldout = built_in_names()
    check_apart(train, heldout)
    assert len(train) >= 100 and len(heldout) >= 30
    book = list_book()
    seen: dict[str, set[str]] = {"named": set(), "things": set(), "people": set()}
    for i in range(300):
        seen["named"].add(book.named(generator(0, "test", i)))
        for kind in ("things", "people"):
            seen[kind].add(book.general(kind, generator(0, kind, i)))
    assert all(prompt.count("{}") == 1 for prompt in seen["named"])
    general = seen["things"] | seen["people"]
    assert len(seen["named"]) > 40 and len(general) > 550, "prompts hardly repeat"
    for prompt in general:
        assert "{}" not in prompt and "  " not in prompt and prompt == prompt.strip(), prompt
        assert not any(name in prompt for name in (*train, *heldout))
        words = len(prompt.split()) + prompt.count(",")
        assert words < 40, "it fits one chunk beside a prefix"


def test_own_prompts_take_the_place_of_the_lists(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# mine\n a drawing of {} \n", encoding="utf-8")
    book = list_book(templates=file, things=file)
    assert book.named(generator(0)) == "a drawing of {}"
    assert book.general("things", generator(0)) == "a drawing of {}"
    assert book.digest != list_book().digest
    file.write_text("a drawing\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"does not hold \{\} once"):
        list_book(templates=file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        list_book(people=file)


@given(st.sets(TEXT, min_size=2, max_size=30), st.floats(0, 0.9), st.integers(0, 9))
def test_a_split_does_not_depend_on_the_order_of_names(
    names: set[str], share: float, seed: int
) -> None:
    ordered = sorted(names)
    try:
        found = split_names(ordered, None, share, seed)
    except ConfigError as error:
        assert "held out" in str(error) and round(share * len(names)) >= len(names)
        return
    assert found == split_names(ordered[::-1], None, share, seed)
    held = sum(split == "heldout" for split in found.values())
    assert held == (max(round(share * len(names)), 1) if share else 0)


def test_names_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ConfigError, match="only one name"):
        split_names(["Ann"], None, 0.2, 0)
    with pytest.raises(ConfigError, match="both lists"):
        split_names(["Ann", "Bo"], ["bo"], 0.2, 0)
    assert split_names(["Ann"], ["Bo"], 0, 0) == {"Ann": "train", "Bo": "heldout"}
    with pytest.raises(ConfigError) as caught:
        Amounts(count=0, things=-1, heldout_share=2)
    assert len(caught.value.problems) == 3


@given(st.text(max_size=60), st.text(max_size=60))
def test_file_names_are_plain_and_tell_names_apart(one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,50}", slug(one))
    assert (slug(one) == slug(other)) == (one == other)


def test_general_pictures_are_as_many_as_asked() -> None:
    tasks = general_tasks(Amounts(things=7, people=4, heldout_share=0.5), 3, 0)
    assert [(t.kind, t.wanted) for t in tasks] == [
        ("things", 3),
        ("things", 3),
        ("things", 1),
        ("people", 3),
        ("people", 1),
    ]
    assert len({task.key for task in tasks}) == 5


def test_a_majority_describes_and_ties_say_nothing() -> None:
    values = {"gender": ("man", "woman"), "hair_color": ("black", "red", "grey")}
    votes = [
        {"gender": [0.9, 0.1], "hair_color": [0.1, 0.2, 0.7]},
        {"gender": [0.4, 0.6], "hair_color": [0.1, 0.2, 0.7]},
        {"gender": [0.4, 0.6], "hair_color": [0.8, 0.1, 0.1]},
    ]
    assert vote(votes, values) == {"gender": "woman", "hair_color": "grey"}
    assert vote(votes[:2], values) == {"gender": "", "hair_color": "grey"}
    assert vote([], values) == {"gender": "", "hair_color": ""}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "a person"),
        ({"gender": "man", "age": "old", "glasses": "no"}, "an old man"),
        (
            {"gender": "woman", "hair_length": "long", "hair_color": "red", "glasses": "yes"},
            "a woman with long red hair and glasses",
        ),
        (
            {"hair_length": "bald", "hair_color": "grey", "beard": "beard"},
            "a person with a bald head and a beard",
        ),
        ({"age": "middle-aged", "hair_color": "black"}, "a middle-aged person with black hair"),
    ],
)
def test_attributes_in_words(values: dict[str, str], words: str) -> None:
    assert phrase(values) == words


def test_gender_can_be_left_out_and_attributes_are_the_table_s() -> None:
    assert phrase({"gender": "man", "age": "young"}, gender=False) == "a young person"
    assert set(SENTENCES) == set(ATTRIBUTES)
    assert all(len(set(said.values())) == len(said) for said in SENTENCES.values())


def line(name: str, **values: str) -> DescriptionRow:
    return DescriptionRow(name, "train", phrase(values), values, 3, 0.9)


def test_a_table_follows_the_votes_but_for_overrides(tmp_path: Path) -> None:
    descriptions_csv.update(tmp_path, [line("Ann", hair_color="red"), line("Bo")])
    descriptions_csv.write_descriptions(
        tmp_path, {"Ann": "a person with red hair", "Bo": "a sailor"}
    )
    again = descriptions_csv.update(
        tmp_path, [line("Ann", hair_color="grey"), line("Bo", age="old")]
    )
    assert [row.said for row in again] == ["a person with grey hair", "a sailor"]
    assert [row.override for row in again] == ["", "a sailor"]
    assert descriptions_csv.read_descriptions(tmp_path)["Bo"] == "a sailor"
    descriptions_csv.write_descriptions(tmp_path, {"bo": ""})
    assert descriptions_csv.read_descriptions(tmp_path)["Bo"] == "an old person"


OLD = (
    "name,split,description,gender,age,hair_length,hair_colour,glasses,beard,pictures,known,by\n"
    "Ann,train,somebody tall,,,,red,,,3,0.90,hand\n"
    "Bo,train,a person,,,,,,,3,0.90,voted\n"
    "Zoe,train,a sailor,,,,,,,3,,hand\n"
)


def test_an_older_table_s_own_words_become_overrides_once(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    votes = {
        "Ann": [{"description": "a person with red hair"}],
        "Bo": [{"description": "a person"}],
    }
    (tmp_path / "parts" / "voted.json").write_text(json.dumps(votes), "utf-8")
    (tmp_path / "descriptions.csv").write_text(OLD, "utf-8")
    assert list(descriptions_csv.read_descriptions(tmp_path).values()) == [
        "somebody tall",
        "a person",
        "a sailor",
    ]
    for hair in ("red", "grey"):
        voted = [line("Ann", hair_color=hair), line("Bo", age="old")]
        again = descriptions_csv.update(tmp_path, voted)
        assert [row.override for row in again] == ["somebody tall", ""]
        assert not (tmp_path / "parts" / "voted.json").exists()
    rows = (tmp_path / "descriptions.csv").read_text("utf-8").splitlines()
    assert rows[0] == ",".join(descriptions_csv.COLUMNS)
    assert rows[1] == "Ann,train,somebody tall,a person with grey hair,,,,grey,,,3,0.90"
    assert rows[3] == "Zoe,train,a sailor,a sailor,,,,,,,3,", "not in this run, and kept"


@pytest.mark.parametrize("votes", ["", "[]", '{"Ann": 3}', '{"Ann": [{}]}', '{"Ann": null}'])
def test_without_votes_an_older_table_is_somebody_s_own(tmp_path: Path, votes: str) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "voted.json").write_text(votes, "utf-8")
    (tmp_path / "descriptions.csv").write_text(OLD, "utf-8")
    again = descriptions_csv.update(tmp_path, [line("Ann"), line("Bo", age="old")])
    assert [row.said for row in again] == ["somebody tall", "a person"]


def test_a_table_from_an_office_program_is_read(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    lines = [line("Ann", hair_color="red"), line("Bo")]
    descriptions_csv.update(tmp_path, lines)
    text = "name;description\r\nAnn;somebody tall\r\nZoe;a sailor\r\n"
    (tmp_path / descriptions_csv.FILE).write_bytes(b"\xef\xbb\xbf" + text.encode())
    again = descriptions_csv.update(tmp_path, lines)
    assert [v.said for v in again] == ["somebody tall", "a person"]
    written = (tmp_path / descriptions_csv.FILE).read_text(encoding="utf-8")
    assert "Zoe,,a sailor,a sailor" in written, "a line of a name that is not in this run stays"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,description\nAnn,Ann herself\n", "holds the name"),
        ("name,description\nAnn,x\nAnn,y\n", "more than once"),
        ("who,what\nAnn,x\n", "is missing"),
        ('name,description\nAnn,"x\n', "not a table"),
        ("name,description\nAnn,a\u202eb\n", "not printable"),
        ("name,description\nAnn," + "x" * 401 + "\n", "longer than 400"),
    ],
)
def test_a_broken_table_is_told_and_kept(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / descriptions_csv.FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        descriptions_csv.update(tmp_path, [line("Ann")])
    assert (tmp_path / descriptions_csv.FILE).read_text(encoding="utf-8") == text


def test_known_names_have_pictures_that_are_alike() -> None:
    random = np.random.default_rng(0)

    def unit(vectors: np.ndarray) -> list[np.ndarray]:
        return list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    centres = random.normal(size=(6, 64))
    faces = {
        f"known {i}": unit(c + 0.3 * random.normal(size=(4, 64))) for i, c in enumerate(centres)
    }
    faces["nobody"] = unit(random.normal(size=(8, 64)))
    found = known(faces | {"single": faces["nobody"][:1]})
    assert found["single"] is None
    assert all((v or 0) > 0.99 for k, v in found.items() if k.startswith("known"))
    assert abs((found["nobody"] or 0) - 0.5) < 0.15 < LEAST
    assert known({"Ann": faces["nobody"]}) == {"Ann": None}


def test_pictures_without_captions_and_broken_ones_are_told_at_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        Image.new("RGB", (9, 7)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a car", encoding="utf-8")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    (tmp_path / "b.txt").write_text("a boat", encoding="utf-8")
    (tmp_path / "d.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "e.txt").write_text("ann lee in a car", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        given_tasks(tmp_path, Amounts(), 0, ["Ann Lee"])
    told = str(caught.value)
    assert len(caught.value.problems) == 4 and "4 of 5 pictures" in told
    for part in (
        "b.png",
        "cannot be read",
        "c.png",
        "caption is missing",
        "d.png",
        "empty",
        "e.png",
        "names Ann Lee",
    ):
        assert part in told
    assert "a.png:" not in told


def test_a_photograph_is_turned_upright_and_cut_square(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side: what is left here was on top
    image.save(tmp_path / "a.png", exif=exif)
    found = read_picture(tmp_path / "a.png", 16)
    assert found.shape == (3, 16, 16)
    assert found[2, 0].mean() > 0.9 and found[0, 0].mean() < 0.1
    assert found[0, -1].mean() > 0.9


def test_a_torn_row_is_cut_off_and_the_rest_stays(tmp_path: Path) -> None:
    with open_log(tmp_path, 0) as log:
        log.add({"a": 1})
        log.add({"b": "ä"})
    path = tmp_path / "parts" / "pictures-0.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    assert read_rows(tmp_path) == [{"a": 1}]
    with open_log(tmp_path, 0) as log:
        log.add({"c": 2})
    assert read_rows(tmp_path) == [{"a": 1}, {"c": 2}]


def test_a_task_s_pictures_do_not_depend_on_other_tasks() -> None:
    one = Task("identity", "Ann", 3, 9, "train")
    more = Task("identity", "Ann", 8, 30, "heldout")
    assert one.file(2) == more.file(2) and one.key == more.key
