"""Language models as text encoders, against their own forward pass written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from apl_core.errors import FitError, PromptError
from apl_core.prefix import Rows
from apl_trainer.models.language import LanguageEncoder, Reader, SpecialTokens, Template
from apl_trainer.pocket.vocabulary import read_vocabulary
from apl_trainer.run_paths import BUILT_IN

TOKENIZER = read_vocabulary(BUILT_IN)
WORDS = len(TOKENIZER)
TEXTS = ["a photo of a red house", "Devo Kroukail", "", "a person, digital art, sharp focus"]
KINDS = ("llama", "bert", "t5")


def model(kind: str) -> torch.nn.Module:
    """Four layers of width 576, which is what a prefix for SmolLM2 has."""
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "llama":
        network = LlamaModel(LlamaConfig(hidden_size=576, num_hidden_layers=4, **sizes))
    elif kind == "bert":
        network = BertModel(BertConfig(hidden_size=576, num_hidden_layers=4, **sizes))
    else:
        config = T5Config(vocab_size=WORDS, d_model=576, d_ff=64, d_kv=16, num_layers=4)
        network = T5EncoderModel(config)
    return network.eval().requires_grad_(False)


def encoder(
    kind: str, layers: tuple[int, ...] = (3,), cut: int = 0, hidden: bool = False
) -> LanguageEncoder:
    template = Template("a drawing of ", ", friendly", layers, cut)
    return LanguageEncoder("smollm2", model(kind), TOKENIZER, template, hidden)


def rows(count: int = 6, behind: int = 2) -> Rows:
    random = torch.Generator().manual_seed(1)
    return Rows({"smollm2": torch.randn(count, 576, generator=random)}, behind)


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


def by_hand(kind: str, text: str, given: Rows | None, layers: tuple[int, ...]) -> Tensor:
    """All states of one text in its template: embeddings put together, the whole model run."""
    network = model(kind)
    table = network.get_input_embeddings().weight
    parts = [table[ids(part)] for part in ("a drawing of ", text, ", friendly")]
    if given is not None and text:
        parts = [parts[0], given.front("smollm2"), parts[1], given.back("smollm2"), parts[2]]
    out = network(inputs_embeds=torch.cat(parts)[None], output_hidden_states=True)
    return torch.cat([out.hidden_states[layer][0] for layer in layers], -1)


@pytest.mark.parametrize("layers", [(3,), (-1,), (1, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_whole_model(kind: str, layers: tuple[int, ...]) -> None:
    for given in (None, rows()):
        found = encoder(kind, layers).encode(TEXTS, given)
        assert found.mask is not None and found.pooled is None
        for place, text in enumerate(TEXTS):
            wanted = by_hand(kind, text, given, layers)
            torch.testing.assert_close(
                found.cross[place][found.mask[place]], wanted, atol=2e-5, rtol=1e-4
            )
            assert int(found.mask[place].sum()) == len(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_has_a_number_is_not_normalized_though_it_is_the_last(kind: str) -> None:
    """As Mistral's in Flux.2, whose file ends behind the last layer that is read."""
    wanted, network = encoder(kind).encode(TEXTS, None), copy.deepcopy(model(kind))
    inner = getattr(network, "encoder", network)
    name = next(n for n in ("layers", "layer", "block") if hasattr(inner, n))
    setattr(inner, name, getattr(inner, name)[:3])
    template = Template("a drawing of ", ", friendly", (3,))
    found = LanguageEncoder("smollm2", network, TOKENIZER, template).encode(TEXTS, None)
    assert torch.equal(found.cross, wanted.cross)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_whole_model(kind: str) -> None:
    """What all texts begin with runs once through a causal model; its gradients add up."""
    one, other = (rows().vectors["smollm2"].requires_grad_() for _ in range(2))
    weights = torch.randn(576, generator=torch.Generator().manual_seed(2))
    found = encoder(kind).encode(TEXTS, Rows({"smollm2": one}, 2))
    assert found.mask is not None
    (found.cross[found.mask].sin() @ weights).sum().backward()  # rows in all but the empty one
    for text in filter(None, TEXTS):
        states = by_hand(kind, text, Rows({"smollm2": other}, 2), (3,))
        (states.sin() @ weights).sum().backward()
    assert one.grad is not None and other.grad is not None
    torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_what_is_cut_off_is_not_seen_but_read() -> None:
    whole, cut = (encoder("llama", cut=n).encode(TEXTS, rows()) for n in (0, 2))
    torch.testing.assert_close(cut.cross, whole.cross[:, 2:])
    assert cut.mask is not None and whole.mask is not None
    assert torch.equal(cut.mask, whole.mask[:, 2:])


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_rows_change_states_and_leave_their_number(kind: str) -> None:
    hiding, given = encoder(kind, hidden=True), rows()
    plain, found = (hiding.encode(TEXTS, some) for some in (None, given))
    assert plain.mask is not None and found.mask is not None
    assert torch.equal(plain.mask, found.mask)
    whole = by_hand(kind, TEXTS[0], given, (3,))
    start, count = len(ids("a drawing of ")), len(ids(TEXTS[0]))
    kept = [
        *range(start),
        *range(start + 4, start + 4 + count),
        *range(start + 6 + count, len(whole)),
    ]
    seen = found.cross[0][found.mask[0]]
    torch.testing.assert_close(seen, whole[kept], atol=2e-5, rtol=1e-4)
    assert not torch.allclose(seen, plain.cross[0][plain.mask[0]], atol=1e-3)


def test_an_empty_text_has_rows_only_if_they_are_everywhere() -> None:
    one = encoder("llama")
    given = rows()
    without, with_rows = one.encode([""], given), one.encode([""], Rows(given.vectors, 2, True))
    assert with_rows.cross.shape[1] == without.cross.shape[1] + 6
    torch.testing.assert_close(without.cross, one.encode([""], None).cross)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_is_computed_again_fills_no_cache(attention: str) -> None:
    """Layers computed again on the way back see the text once, whatever attention is used."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    made = LlamaModel._from_config(
        LlamaConfig(vocab_size=50, **sizes, **heads), attn_implementation=attention
    )
    made.eval().requires_grad_(False)
    given, slopes = torch.randn(2, 10, 64), []
    for checkpointing in (False, True):
        live = given.clone().requires_grad_()
        Reader(made, (-2,), checkpointing).states(live, None).square().sum().backward()
        slopes.append(live.grad)
    assert torch.equal(*slopes)


def test_gradients_reach_the_rows_and_nothing_else() -> None:
    one, given = encoder("bert"), rows()
    live = Rows({"smollm2": given.vectors["smollm2"].double().requires_grad_()}, 2)
    one.reader.model.double()

    def loss(values: Tensor) -> Tensor:
        return (one.encode(TEXTS[:2], Rows({"smollm2": values}, 2)).cross ** 3).mean()

    whole = loss(live.vectors["smollm2"])
    whole.backward()
    gradient = live.vectors["smollm2"].grad
    assert gradient is not None and bool((gradient.abs().amax(1) > 0).all())
    assert not any(weight.requires_grad for weight in one.reader.model.parameters())
    step = torch.zeros_like(live.vectors["smollm2"])
    step[3, 5] = 1e-5
    with torch.no_grad():
        values = live.vectors["smollm2"]
        slope = (loss(values + step) - loss(values - step)) / 2e-5
    torch.testing.assert_close(slope, gradient[3, 5], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("text", ["<|endoftext|>", "a house <|startoftext|> a tree"])
def test_a_text_that_spells_a_control_token_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="remove it"):
        encoder("llama").encode([text], None)


def test_letters_that_a_vocabulary_lacks_end_no_text() -> None:
    inner = Tokenizer(
        BPE({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}, [], unk_token="<unk>")
    )
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = PreTrainedTokenizerFast(tokenizer_object=inner, **marks)
    for text in ("aжb", "a😀"):  # T5 has neither
        given = words(text, add_special_tokens=False).input_ids
        assert words.unk_token_id in given
        SpecialTokens.of(words).refuse(text, given)
    for text in ("a</s>b", "a<pad>", "a<unk>b"):
        with pytest.raises(PromptError, match="remove it"):
            given = words(text, add_special_tokens=False).input_ids
            SpecialTokens.of(words).refuse(text, given)
    with pytest.raises(PromptError, match="remove it"):  # CLIP has one token for both
        SpecialTokens.of(TOKENIZER).refuse("a house", [TOKENIZER.unk_token_id])


def test_rows_of_another_encoder_are_refused() -> None:
    with pytest.raises(FitError, match="MiniLM"):
        encoder("llama").encode(TEXTS, Rows({"minilm": torch.zeros(2, 384)}))


def test_a_model_without_known_layers_is_refused() -> None:
    with pytest.raises(FitError, match="Linear"):
        LanguageEncoder("smollm2", torch.nn.Linear(2, 2), TOKENIZER, Template("", "", (1,)))


def test_pieces_are_words_without_marks() -> None:
    assert encoder("llama").pieces("a red house") == ["a", "red", "house"]


@pytest.mark.parametrize("hidden", [False, True])
def test_every_state_is_aligned_with_one_of_the_neutral_prompt(hidden: bool) -> None:
    one, given = encoder("llama", cut=1, hidden=hidden), rows(3, 1)
    prompt, neutral = "a photo of Devo Kroukail, friendly", "a photo of a person, friendly"
    places = one.aligned(prompt, neutral, given)
    found, wanted = (one.encode([text], some) for text, some in ((prompt, given), (neutral, None)))
    assert len(places) == found.cross.shape[1]
    assert places[-1] == wanted.cross.shape[1] - 1 and places[0] == 0
    name = len(one.pieces("Devo Kroukail"))
    before = len(ids("a drawing of ")) - 1
    front, behind = ([], []) if hidden else ([before - 1] * 2, [before + 7])
    words = [3 + min(i * 2 // name, 1) for i in range(name)]
    text = [before + i for i in (0, 1, 2, *words, 5, 6)]
    assert places == [*range(before), *front, *text, *behind, *range(before + 7, before + 9)]
