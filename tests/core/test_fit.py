"""Does a prefix fit a checkpoint, and how alike are the encoders?"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apl_core.errors import FitError
from apl_core.fit import BITS, SAME_UP_TO, EncoderFace, check_fit, closeness, fingerprint
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix


def table(seed: int, rows: int = 6000, width: int = 768) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(width, generator=generator)  # real tables share a large mean row
    return (torch.randn(rows, width, generator=generator) + common) * 0.02


def differing(a: str, b: str) -> int:
    return (int(a[3:], 16) ^ int(b[3:], 16)).bit_count()


def prefix(*keys: str, **card: object) -> Prefix:
    vectors = {key: torch.zeros(2, WIDTHS[key]) for key in keys}
    return Prefix(vectors, card=PrefixCard(**card))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [128, 768, 1280])
def test_storing_a_table_otherwise_hardly_moves_it(dtype: torch.dtype, width: int) -> None:
    for seed in range(5):
        original = table(seed, width=width)
        moved = differing(fingerprint(original), fingerprint(original.to(dtype)))
        assert moved <= SAME_UP_TO // 2


def test_added_tokens_and_other_random_numbers_change_nothing() -> None:
    original = table(1, rows=20_000)
    longer = torch.cat([original, torch.ones(3, 768)])
    torch.manual_seed(99)
    assert fingerprint(longer) == fingerprint(original)
    assert fingerprint(original.clone().requires_grad_()) == fingerprint(original)


def test_unrelated_tables_are_far_and_mixtures_between() -> None:
    first, second = table(1), table(2)
    far = closeness(fingerprint(first), fingerprint(second))
    near = closeness(fingerprint(first), fingerprint(first + 0.1 * second))
    assert far < 0.4
    assert near > 0.97
    assert differing(fingerprint(first), fingerprint(second)) > BITS // 4
    assert closeness(fingerprint(first), fingerprint(first)) == 1


def test_the_fingerprint_never_changes_between_versions() -> None:
    numbers = torch.arange(1000 * 128, dtype=torch.int64) * 2654435761 % 2**32
    small = (numbers.to(torch.float64) / 2**32 - 0.5).reshape(1000, 128)
    assert fingerprint(small) == GOLDEN


GOLDEN = "s1:99cf8d4ffcf4c3a078b2ab5bb4403399fb5df95f06ec86db39b6956d8fab22a6"

marks = st.integers(0, 2**BITS - 1).map(lambda value: f"s1:{value:064x}")


@given(a=marks, b=marks)
def test_closeness_is_a_closeness(a: str, b: str) -> None:
    assert 0 <= closeness(a, b) == closeness(b, a) <= 1
    assert closeness(a, a) == 1


@pytest.mark.parametrize("wrong", ["", "s1:", "s2:" + "0" * 64, "s1:" + "G" * 64])
def test_no_fingerprint_no_closeness(wrong: str) -> None:
    with pytest.raises(ValueError, match="fingerprints"):
        closeness(wrong, "s1:" + "0" * 64)


@pytest.mark.parametrize("shape", [(5,), (1, 768), (0, 768), (2, 3, 4)])
def test_only_a_table_has_a_fingerprint(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="table"):
        fingerprint(torch.zeros(shape))


def test_other_encoders_are_refused_in_the_words_of_the_design() -> None:
    faces = [EncoderFace("clip_l", 768), EncoderFace("clip_g", 1280)]
    with pytest.raises(FitError) as caught:
        check_fit(prefix("clip_l"), faces)
    assert caught.value.found == (
        "this prefix is for SD 1.x (clip_l 768); "
        "the loaded checkpoint is SDXL (clip_l 768 + clip_g 1280)"
    )
    for wrong in ([], [EncoderFace("clip_l", 1024)], [EncoderFace("clip_h", 1024)]):
        with pytest.raises(FitError):
            check_fit(prefix("clip_l"), wrong)


def test_same_other_and_unknown_encoders() -> None:
    mine, other = fingerprint(table(1)), fingerprint(table(2))
    known = prefix("clip_l", fingerprints={"clip_l": mine}, base_model="SD 1.5")
    same = check_fit(known, [EncoderFace("clip_l", 768, mine)])
    assert same.same_encoder is True and same.closeness == 1 and "SD 1.x" in same.sentence
    flipped = f"s1:{int(mine[3:], 16) ^ 0b1111:064x}"
    assert check_fit(known, [EncoderFace("clip_l", 768, flipped)]).same_encoder is True
    differs = check_fit(known, [EncoderFace("clip_l", 768, other)])
    assert differs.same_encoder is False and differs.closeness is not None
    assert "alike" in differs.sentence and "SD 1.5" in differs.sentence
    for p, face in (
        (known, EncoderFace("clip_l", 768)),
        (prefix("clip_l"), EncoderFace("clip_l", 768, mine)),
        (prefix("clip_l", fingerprints={"clip_l": "z9:?"}), EncoderFace("clip_l", 768, mine)),
    ):
        report = check_fit(p, [face])
        assert report.same_encoder is None and report.closeness is None


def test_of_two_encoders_the_worse_one_counts() -> None:
    a, b = fingerprint(table(1)), fingerprint(table(2, width=1280))
    both = prefix("clip_l", "clip_g", fingerprints={"clip_l": a, "clip_g": b})
    good, bad = EncoderFace("clip_l", 768, a), EncoderFace("clip_g", 1280, a)
    assert check_fit(both, [good, bad]).same_encoder is False
    assert check_fit(both, [EncoderFace("clip_g", 1280, b), good]).same_encoder is True
    assert check_fit(both, [good, EncoderFace("clip_g", 1280)]).same_encoder is None


def test_a_prefix_fits_the_family_that_it_was_learned_through() -> None:
    rows, faces = {"qwen3_4b": torch.zeros(3, 2560)}, [EncoderFace("qwen3_4b", 2560)]
    known = Prefix(rows, 1, PrefixCard(family="Z-Image"))
    assert check_fit(known, faces, "Z-Image").sentence.startswith("Fits Z-Image (qwen3_4b 2560)")
    with pytest.raises(FitError, match="learned through Z-Image, which reads its text encoder"):
        check_fit(known, faces, "Flux.2 Klein 4B")
    with pytest.raises(FitError, match="does not say what it was learned through"):
        check_fit(Prefix(rows, 1), faces, "Z-Image")
    check_fit(prefix("clip_l"), [EncoderFace("clip_l", 768)], "SD 1.x")  # older files do not say
