"""Text encoders that are trained here, in front of a painter: a T5 with a CLIP beside it, in small.

What real encoders have learned before any painter comes, these learn from the words of the pocket
world: first to tell from a caption what its picture shows, then together with the painter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from apl_core.encoding import ReferenceEncoder
from apl_core.ports import Conditioning, TextEncoderPort
from apl_trainer.models.clip_text import ClipTower
from apl_trainer.models.joint import JointEncoder, pooled_alone
from apl_trainer.models.language import LanguageEncoder, Template
from apl_trainer.pocket.recognizer import head_sizes
from apl_trainer.pocket.vocabulary import read_vocabulary, write_vocabulary
from apl_trainer.pocket.world import World
from apl_trainer.run_paths import BUILT_IN

from ..pocket_build.dataset import Labels, invent
from ..pocket_build.losses import heads_loss

_BATCH, _LOOKS, _POOL = 64, 16, 40
_PIECES = 800  # of T5's vocabulary: invented names are several
_MERGES = 300  # of the second CLIP's vocabulary; the pocket model's has 700


@dataclass(frozen=True)
class OwnTexts:
    """How a member's text encoders are made.

    `vocabularies` writes into the member's folder what texts ask for; `networks` makes them,
    untrained, for the vocabularies of a folder; `port` reads texts with them, filled up to so many
    tokens if they are of a T5, of which the last of `fills` is the member's own.
    """

    vocabularies: Callable[[Sequence[str], Path], None]
    networks: Callable[[Path], nn.ModuleDict]
    port: Callable[[nn.ModuleDict, Path, int], TextEncoderPort]
    fills: tuple[int, ...] = (0,)


def write_pieces(texts: Sequence[str], folder: Path) -> None:
    """Learn a vocabulary from texts in which a blank is a part of a word, as T5 has it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=_PIECES, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder / "t5")


def _pieces(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(folder / "t5", local_files_only=True)


def _t5_and_clip(folder: Path) -> nn.ModuleDict:
    t5 = T5Config(
        vocab_size=len(_pieces(folder)),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=4,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    clip = CLIPTextModel(_clip(96, layers=2, count=len(read_vocabulary(BUILT_IN))))
    return nn.ModuleDict({"t5": T5EncoderModel(t5), "clip": clip})


def _clip(width: int, layers: int, count: int) -> CLIPTextConfig:
    """A CLIP of any size over a vocabulary of so many tokens."""
    return CLIPTextConfig(
        vocab_size=count,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        pad_token_id=count - 1,
    )


def _joint(networks: nn.ModuleDict, folder: Path, fill: int) -> JointEncoder:
    """As Flux.1 reads a text: T5's states, padding among them, and CLIP's pooled one."""
    words = read_vocabulary(BUILT_IN)
    end: Any = words.eos_token_id
    tower = ClipTower("zoo_clip", networks["clip"], words, pad=end, pools=True)
    template = Template("", "</s>", (-1,), fill=fill, attends=True)
    t5 = LanguageEncoder("zoo_t5", networks["t5"], _pieces(folder), template)
    return JointEncoder(ReferenceEncoder([tower]), t5, pooled_alone, behind=False)


def _tower(key: str, network: nn.Module, words: Any, skip: int, norm: bool = False) -> ClipTower:
    return ClipTower(key, network, words, words.eos_token_id, skip, norm)


def _deep(folder: Path) -> nn.ModuleDict:
    count = len(read_vocabulary(BUILT_IN))
    return nn.ModuleDict({"clip": CLIPTextModel(_clip(96, layers=12, count=count))})


def _last_but_one(networks: nn.ModuleDict, folder: Path, fill: int) -> ReferenceEncoder:
    """As SD 2.x reads a text: the last but one layer, normed."""
    words = read_vocabulary(BUILT_IN)
    return ReferenceEncoder([_tower("zoo_clip", networks["clip"], words, skip=1, norm=True)])


def write_fewer_words(texts: Sequence[str], folder: Path) -> None:
    """A smaller vocabulary than the pocket model's, in CLIP's files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(texts, _MERGES, folder)


def _two(folder: Path) -> nn.ModuleDict:
    counts = [len(read_vocabulary(where)) for where in (BUILT_IN, folder)]
    wide = CLIPTextModelWithProjection(_clip(128, layers=4, count=counts[1]))
    return nn.ModuleDict({"clip": CLIPTextModel(_clip(96, 3, counts[0])), "wide": wide})


def _both(networks: nn.ModuleDict, folder: Path, fill: int) -> ReferenceEncoder:
    """As SDXL reads a text: both last but one layers side by side, and the wide one's pooled."""
    narrow = _tower("zoo_clip", networks["clip"], read_vocabulary(BUILT_IN), skip=1)
    wide = _tower("zoo_clip_wide", networks["wide"], read_vocabulary(folder), skip=1)
    return ReferenceEncoder([narrow, wide])


T5_AND_CLIP = OwnTexts(write_pieces, _t5_and_clip, _joint, (32, 56))
DEEP_CLIP = OwnTexts(lambda texts, folder: folder.mkdir(parents=True), _deep, _last_but_one)
TWO_CLIPS = OwnTexts(write_fewer_words, _two, _both)


class TrainedStates:
    """States of texts by encoders that are being trained: computed whenever they are asked for.

    The texts of a batch are filled up as one of the ports does it, every port in its turn.
    """

    def __init__(self, ports: Sequence[TextEncoderPort], texts: Sequence[str]) -> None:
        self._ports, self._texts, self._turn = ports, texts, 0
        self.lengths = torch.tensor([len(ports[0].pieces(text)) for text in texts])

    def pick(self, rows: Sequence[int]) -> Conditioning:
        """The texts at `rows`."""
        self._turn += 1
        port = self._ports[self._turn % len(self._ports)]
        return port.encode([self._texts[row] for row in rows], None)


class ReadingTexts(nn.Module):
    """Encoders with attention readers on top, which are thrown away after training.

    They tell from the states that a painter will see what a caption says, from all of a text's
    places, as in the pocket model (`pocket_build.losses.TextLoss`). Pooled states are left out.
    """

    def __init__(self, networks: nn.ModuleDict, port: TextEncoderPort, world: World) -> None:
        super().__init__()
        self.networks, self._port, self._world = networks, port, world
        self._sizes = {k: n for k, n in head_sizes(0).items() if k != "identity"}
        with torch.no_grad():
            width = port.encode([""], None).cross.shape[-1]
        self.looks = nn.Linear(width, _LOOKS)
        self.readers = nn.Linear(_LOOKS * width, sum(self._sizes.values()))

    def scores(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What is read of texts, by head."""
        given = self._port.encode(texts, None)
        looks = self.looks(given.cross)
        if given.mask is not None:
            looks = looks.masked_fill(~given.mask[..., None], -torch.inf)
        seen = looks.softmax(1).transpose(1, 2) @ given.cross
        out = self.readers(seen.flatten(1)).split(list(self._sizes.values()), 1)
        return dict(zip(self._sizes, out, strict=True))

    def loss(self) -> Callable[[torch.Generator], Tensor]:
        """The loss of one batch of captions, which are made up without end."""
        made = self._captions()

        def loss(random: torch.Generator) -> Tensor:
            texts, labels = next(made)
            rows = torch.randint(len(texts), (_BATCH,), generator=random)
            heads, _ = labels.tensors(rows)
            return heads_loss(self.scores([texts[row] for row in rows.tolist()]), heads)

        return loss

    def _captions(self) -> Iterator[tuple[list[str], Labels]]:
        world, rng = self._world, np.random.default_rng(3)
        known = tuple(p for p in world.people if p.split != "personal")
        while True:
            subjects = invent(world, known, (6 * len(known), 600, 600), rng)
            labels = subjects.labels()
            texts = [subjects.caption(row, rng) for row in range(len(labels))]
            for _ in range(_POOL):
                yield texts, labels
