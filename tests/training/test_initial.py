"""First values of the rows, and how long rows are beside tokens."""

import pytest
import torch
from tiny_model import tiny_model, xl_model

from apl_core.prefix import Rows
from apl_core.training.batches import generator
from apl_core.training.config import TrainConfig
from apl_core.training.initial import initial_rows, norm_ratio

MODEL = tiny_model()


@pytest.mark.parametrize("init", ["words", "normal", "uniform"])
def test_first_values_are_of_their_kind(init: str) -> None:
    config = TrainConfig(num_vectors=64, num_suffix_vectors=3, prefix_init=init)
    rows = initial_rows(config, MODEL.encoder, generator(0, "initial"))
    vectors, table = rows.vectors["pocket"], MODEL.encoder.token_embedding("pocket").detach()
    assert vectors.shape == (64, 128) and rows.behind == 3 and vectors.dtype == torch.float32
    if init == "words":
        assert all(bool((table == row).all(1).any()) for row in vectors)
    elif init == "normal":
        assert float(vectors.std()) == pytest.approx(float(table.std()), rel=0.05)
        assert float(vectors.norm(dim=1).mean()) == pytest.approx(
            float(table.norm(dim=1).mean()), rel=0.05
        )
    else:
        assert float(vectors.min()) >= 0 and float(vectors.max()) < 1
        assert float(vectors.mean()) == pytest.approx(0.5, abs=0.02)
    again = initial_rows(config, MODEL.encoder, generator(0, "initial"))
    other = initial_rows(config, MODEL.encoder, generator(1, "initial"))
    assert torch.equal(again.vectors["pocket"], vectors)
    assert not torch.equal(other.vectors["pocket"], vectors)


def test_two_encoders_get_rows_of_their_own_widths() -> None:
    encoder = xl_model().encoder
    rows = initial_rows(
        TrainConfig(num_vectors=3, num_suffix_vectors=0), encoder, generator(0, "initial")
    )
    assert {k: tuple(v.shape) for k, v in rows.vectors.items()} == {
        "clip_l": (3, 768),
        "clip_g": (3, 1280),
    }


def test_norm_ratio_is_the_longest_row_over_the_longest_token() -> None:
    table = MODEL.encoder.token_embedding("pocket").detach()
    longest = table[table.norm(dim=1).argmax()]
    rows = torch.stack([longest * 0.1, longest * 1.7, longest])
    assert norm_ratio(Rows({"pocket": rows}), MODEL.encoder) == pytest.approx(1.7)
