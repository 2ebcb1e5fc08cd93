"""A warm start on the encoder alone."""

from collections.abc import Mapping

import torch
from tiny_model import TinySource, tiny_model
from torch import Tensor

from apl_core.objective import encode_unique
from apl_core.prefix import Rows
from apl_core.training.batches import BatchSampler, generator
from apl_core.training.config import TrainConfig
from apl_core.training.initial import initial_rows
from apl_core.training.parallel import Group
from apl_core.training.warmstart import warm_start

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


def test_a_warm_start_draws_prompts_to_their_targets() -> None:
    config = TrainConfig(
        num_vectors=4,
        num_suffix_vectors=2,
        warm_start_steps=40,
        batch_identity=4,
        batch_things=4,
        batch_people=4,
    )
    batches = BatchSampler(
        config, MODEL.encoder, MODEL.denoiser, TinySource(), Group(), lambda *_: None
    )
    rows = initial_rows(config, MODEL.encoder, generator(0, "initial"))
    reports: list[tuple[str, int, int]] = []

    def warmed() -> Tensor:
        found = warm_start(config, MODEL.encoder, batches, rows, lambda *said: reports.append(said))
        return found.vectors["pocket"]

    vectors = warmed()
    assert [done for _, done, _ in reports] == list(range(1, 41))
    assert torch.equal(warmed(), vectors)
    before, after = distance(rows), distance(Rows({"pocket": vectors}, 2))
    assert after["identity"] < 0.7 * before["identity"]
    assert sum(after.values()) < 0.7 * sum(before.values())
