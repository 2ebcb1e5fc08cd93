"""Text encoders that are trained here, in front of a painter: T5 and CLIP in small.

What real encoders have learned before any painter comes, these learn from the words of the pocket
world: first to tell from a caption what its picture shows, then together with the painter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
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
from apl_trainer.pocket.networks import text_config
from apl_trainer.pocket.vocabulary import read_vocabulary, write_vocabulary
from apl_trainer.pocket.world import World
from apl_trainer.run_paths import BUILT_IN

from ..pocket_build.losses import Loss, Readers, captions_without_end, heads_loss

_BATCH = 64
_FILLS = 32, 56  # tokens that T5's texts are filled up to: half of the time, and the member's own
_PIECES = 800  # of T5's vocabulary: invented names are several
_SHORT = 0.02  # standard deviation of T5's embeddings before training, as CLIP's are
_MERGES = 300  # of the second CLIP's vocabulary; the pocket model's has 700


@dataclass(frozen=True)
class OwnTexts:
    """How a member's text encoders are made.

    `networks` makes them, untrained, for the vocabularies of a folder, into which `vocabularies`
    writes those that are not the pocket model's. `ports` read texts with them: the last of them is
    the member's own, the others fill texts up to other lengths while it is trained.
    """

    networks: Callable[[Path], nn.ModuleDict]
    ports: Callable[[nn.ModuleDict, Path], Sequence[TextEncoderPort]]
    vocabularies: Callable[[Sequence[str], Path], None] | None = None


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
    clip = CLIPTextModel(text_config(len(read_vocabulary(BUILT_IN)), 96, layers=2))
    encoder = T5EncoderModel(t5)
    # T5 starts from long random rows, which in a build's time stay as random as they were.
    nn.init.normal_(encoder.shared.weight, std=_SHORT)
    return nn.ModuleDict({"t5": encoder, "clip": clip})


def _joint(networks: nn.ModuleDict, folder: Path) -> list[JointEncoder]:
    """As Flux.1 reads a text: T5's states, padding among them, and CLIP's pooled one."""
    clip = ReferenceEncoder([_tower("zoo_clip", networks["clip"], BUILT_IN, pools=True)])
    pieces = _pieces(folder)

    def filled(count: int) -> JointEncoder:
        template = Template("", "</s>", (-1,), fill=count, attends=True)
        t5 = LanguageEncoder("zoo_t5", networks["t5"], pieces, template)
        return JointEncoder(clip, t5, pooled_alone, behind=False)

    return [filled(count) for count in _FILLS]


def _tower(key: str, network: nn.Module, vocabulary: Path, **read: Any) -> ClipTower:
    words = read_vocabulary(vocabulary)
    return ClipTower(key, network, words, cast(int, words.eos_token_id), **read)


def _deep(folder: Path) -> nn.ModuleDict:
    count = len(read_vocabulary(BUILT_IN))
    return nn.ModuleDict({"clip": CLIPTextModel(text_config(count, 96, layers=12))})


def _last_but_one(networks: nn.ModuleDict, folder: Path) -> list[ReferenceEncoder]:
    """As SD 2.x reads a text: the last but one layer, normed."""
    tower = _tower("zoo_clip", networks["clip"], BUILT_IN, skip=1, norm=True)
    return [ReferenceEncoder([tower])]


def _two(folder: Path) -> nn.ModuleDict:
    narrow, wide = (len(read_vocabulary(where)) for where in (BUILT_IN, folder))
    pooled = CLIPTextModelWithProjection(text_config(wide, 128, layers=4))
    return nn.ModuleDict({"clip": CLIPTextModel(text_config(narrow, 96)), "wide": pooled})


def _both(networks: nn.ModuleDict, folder: Path) -> list[ReferenceEncoder]:
    """As SDXL reads a text: both last but one layers side by side, and the wide one's pooled."""
    narrow = _tower("zoo_clip", networks["clip"], BUILT_IN, skip=1)
    wide = _tower("zoo_clip_wide", networks["wide"], folder, skip=1)
    return [ReferenceEncoder([narrow, wide])]


T5_AND_CLIP = OwnTexts(_t5_and_clip, _joint, write_pieces)
DEEP_CLIP = OwnTexts(_deep, _last_but_one)
TWO_CLIPS = OwnTexts(_two, _both, lambda texts, folder: write_vocabulary(texts, _MERGES, folder))


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
    """Encoders with readers on top: the head start of a member's own text encoders.

    They tell from the states that a painter will see what a caption says; pooled ones are left out.
    """

    def __init__(self, networks: nn.ModuleDict, port: TextEncoderPort, world: World) -> None:
        super().__init__()
        self.networks, self._port, self._world = networks, port, world
        with torch.no_grad():
            self.readers = Readers(port.encode([""], None).cross.shape[-1])

    def loss(self) -> Loss:
        """The loss of one batch of captions."""
        known = tuple(p for p in self._world.people if p.split != "personal")
        made = captions_without_end(self._world, known, list)

        def loss(random: torch.Generator) -> Tensor:
            texts, labels = next(made)
            rows = torch.randint(len(texts), (_BATCH,), generator=random)
            heads, _ = labels.tensors(rows)
            given = self._port.encode([texts[row] for row in rows.tolist()], None)
            scores, _ = self.readers(given.cross, given.mask)
            return heads_loss(scores, heads)

        return loss
