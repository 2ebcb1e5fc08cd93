"""The text stage: learning on the encoder alone."""

from collections.abc import Mapping

import torch
from tiny_model import TinySource, tiny_model
from torch import Tensor

from apl_core.alignment import chunk_places, token_places
from apl_core.objective import encode_unique
from apl_core.prefix import Rows
from apl_core.training.batches import BatchSampler, generator
from apl_core.training.config import TrainConfig
from apl_core.training.initial import initial_rows
from apl_core.training.parallel import Group
from apl_core.training.text_stage import text_stage

MODEL = tiny_model()


def distance(rows: Rows) -> Mapping[str, float]:
    """Of the last state of every kind of prompt to its target, unseen examples."""
    found: dict[str, float] = {}
    for kind in ("identity", "things", "people"):
        examples = TinySource().draw(kind, 6, torch.Generator().manual_seed(99))
        with torch.no_grad():
            prompts = encode_unique(MODEL.encoder, [e.prompt for e in examples], rows).cross
            wanted = encode_unique(MODEL.encoder, [e.neutral for e in examples], None).cross
        found[kind] = float((prompts[:, -1] - wanted[:, -1]).square().mean())
    return found


def config_of(steps: int) -> TrainConfig:
    return TrainConfig(
        num_vectors=4,
        num_suffix_vectors=2,
        text_steps=steps,
        batch_identity=4,
        batch_things=4,
        batch_people=4,
    )


def test_it_draws_prompts_to_their_targets() -> None:
    config = config_of(60)
    batches = BatchSampler(
        config, MODEL.encoder, MODEL.denoiser, TinySource(), Group(), lambda *_: None
    )
    rows = initial_rows(config, MODEL.encoder, generator(0, "initial"))
    reports: list[tuple[str, int, int]] = []

    def learned() -> Tensor:
        found = text_stage(config, MODEL.encoder, batches, rows, lambda *said: reports.append(said))
        return found.vectors["pocket"]

    vectors = learned()
    assert [done for _, done, _ in reports] == list(range(1, 61))
    assert torch.equal(learned(), vectors)
    before, after = distance(rows), distance(Rows({"pocket": vectors}, 2))
    assert after["identity"] < 0.7 * before["identity"]
    assert sum(after.values()) < 0.7 * sum(before.values())


def places_of(prompt: list[str], neutral: list[str], front: int, behind: int) -> list[int]:
    rows = torch.zeros(front + behind, 4)
    return chunk_places(prompt, neutral, Rows({"pocket": rows}, behind))


def test_every_place_of_a_chunk_is_aligned_with_one_of_the_neutral_prompt() -> None:
    prompt, neutral = (
        ["a", "photo", "of", "ada", "love", "lace", "smiling"],
        ["a", "photo", "of", "a", "person", "smiling"],
    )
    places = places_of(prompt, neutral, 2, 1)
    assert len(places) == 77
    assert places[:3] == [0, 0, 0]  # BOS and the rows in front
    assert places[3:6] == [1, 2, 3]  # a photo of
    assert places[6:9] == [4, 4, 5]  # the name's three pieces: a, a, person
    assert places[9] == 6  # smiling
    assert places[10:12] == [7, 7]  # the row behind, EOS
    assert places[12:14] == [8, 9]  # padding
    assert places[-1] == 71 + 1  # 77 places less what the prefixed prompt is longer by


def test_prompts_without_a_name_and_empty_targets_are_aligned_too() -> None:
    same = ["a", "red", "house"]
    assert places_of(same, same, 0, 0) == list(range(77))
    empty = places_of(["ada"], [], 1, 1)
    assert empty[:5] == [0, 0, 1, 1, 1]  # the name is drawn to where an empty prompt ends


def test_the_tokens_of_a_clip_chunk_are_aligned_as_its_places_are() -> None:
    bos, eos, a, photo, of, ada, love, person, sea = 0, 9, 1, 2, 3, 4, 5, 6, 7
    for front, behind in ((2, 1), (3, 0), (0, 2)):
        for prompt, neutral in (
            ([a, photo, of, ada, love, sea], [a, photo, of, a, person, sea]),
            ([a, photo, of, ada], [a, photo]),
            ([ada], []),
        ):
            rows = Rows({"pocket": torch.zeros(front + behind, 4)}, behind)
            with_rows = [bos, *[None] * front, *prompt, *[None] * behind, eos]
            plain = [bos, *neutral, eos]
            found = token_places(
                [*with_rows, *[eos] * (77 - len(with_rows))],
                [*plain, *[eos] * (77 - len(plain))],
                rows,
                {eos},
            )
            words = [[str(one) for one in some] for some in (prompt, neutral)]
            assert found == chunk_places(words[0], words[1], rows)


def test_rows_inside_a_template_are_what_stands_around_the_text() -> None:
    user, end, says, pad = 90, 91, 92, 0
    rows = Rows({"pocket": torch.zeros(3, 4)}, 1)
    prompt = [user, None, None, 1, 2, 3, None, end, says]
    neutral = [user, 1, 5, 6, 3, end, says]
    assert token_places(prompt, neutral, rows, {pad}) == [0, 0, 0, 1, 2, 4, 5, 5, 6]
    bare = [None, None, 1, 2, None]  # nothing stands before the text, and nothing behind it
    assert token_places(bare, [1, 2], rows, {pad}) == [0, 0, 0, 1, 1]
