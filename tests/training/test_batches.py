"""What a step learns from: noise levels, and prompts that lose their words."""

from dataclasses import replace

import torch
from tiny_model import TinySource, tiny_model

from apl_core.training.batches import BatchSampler
from apl_core.training.config import TrainConfig
from apl_core.training.parallel import Group

MODEL = tiny_model()


def test_name_free_examples_are_noised_from_a_level_of_their_own_on() -> None:
    first, first_free = (MODEL.denoiser.schedule.first_below(snr) for snr in (0.2, 2.5))
    assert 200 < first_free < first - 200 < 600
    config = TrainConfig(
        max_snr=0.2,
        max_snr_free=2.5,
        target_cache=0,
        batch_identity=20,
        batch_things=20,
        batch_people=20,
    )
    model = MODEL.encoder, MODEL.denoiser, TinySource(), Group()
    batch = BatchSampler(config, *model, lambda *_: None).batch(0)
    named = [kind == "identity" for kind in batch.kinds]
    levels = [int(t) for t in batch.t]
    assert all(first <= t < 1000 for t, who in zip(levels, named, strict=True) if who)
    free = [t for t, who in zip(levels, named, strict=True) if not who]
    assert min(free) >= first_free and sum(t < first for t in free) > len(free) // 4
    same = BatchSampler(replace(config, max_snr_free=0.2), *model, lambda *_: None).batch(0)
    assert [int(t) for t in same.t[:20]] == levels[:20]


def test_a_share_of_name_free_examples_loses_its_words_and_nothing_else_changes() -> None:
    """A share of 0 is the recipe without it; the others' examples are the same to the bit."""
    base = TrainConfig(batch_identity=40, batch_things=60, batch_people=60)
    plain, some, whole = (
        _curriculum(replace(base, proportion_empty_prompts=share)).examples(base.counts, "step", 3)
        for share in (0.0, 0.3, 1.0)
    )
    emptied: list[str] = []
    for before, after in zip(plain, some, strict=True):
        assert torch.equal(before.latent, after.latent) and before.kind == after.kind
        if after.prompt != before.prompt:
            assert after.prompt == after.neutral == after.contrast_prompt == ""
            emptied.append(after.kind)
        else:
            assert after.neutral == before.neutral
    assert 20 < len(emptied) < 55 and set(emptied) == {"things", "people"}
    assert all(bool(e.prompt) == (e.kind == "identity") for e in whole)


def _curriculum(config: TrainConfig) -> BatchSampler:
    return BatchSampler(
        config, MODEL.encoder, MODEL.denoiser, TinySource(), Group(), lambda *_: None
    )
