"""What the pocket world's three networks learn from: one loss per network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from apl_trainer.pocket.eval_prompts import UNKNOWN
from apl_trainer.pocket.networks import SCHEDULE, WIDTH, to_latents, to_pictures
from apl_trainer.pocket.recognizer import KINDS, Reading, Recognizer, broken_pictures, head_sizes
from apl_trainer.pocket.world import OFFSETS, Person, World

from .dataset import Labels, invent

Loss = Callable[[torch.Generator], Tensor]
Read = TypeVar("Read")
LENGTH = 77
_BATCH = 64
_READING = 8.0  # weight of the mean over twenty heads beside that of identity
_LOOKS = 16  # places that the readers of a text encoder look at
_RENEWED = 40  # batches until other captions are made up
_HIGH, _OFTEN = 600, 0.35  # this share of noise levels is drawn above: there the prompt decides
_SEEN = 0.3  # weight of what the critic sees
_SHARP = 8.0  # most weight of an error where there is little noise


def heads_loss(scores: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the heads that have a label in this batch."""
    losses = [
        F.cross_entropy(scores[name], label, ignore_index=UNKNOWN)
        for name, label in labels.items()
        if name in scores and bool((label != UNKNOWN).any())
    ]
    return torch.stack(losses).mean()


def recognizer_loss(model: nn.Module, pictures: Tensor, labels: Labels) -> Loss:
    """Read augmented pictures (N, 3, 32, 32) in bytes; a fifth of each batch is broken ones."""
    destroyed = torch.from_numpy(
        broken_pictures(
            (pictures[::5].permute(0, 2, 3, 1).float() / 255).numpy(), np.random.default_rng(7)
        )
    ).permute(0, 3, 1, 2)
    broken = KINDS.index("broken")

    def loss(random: torch.Generator) -> Tensor:
        rows = torch.randint(len(pictures), (2 * _BATCH,), generator=random)
        clean = pictures[rows].float() / 255
        bad = destroyed[torch.randint(len(destroyed), (_BATCH // 2,), generator=random)]
        heads, _ = labels.tensors(rows)
        reading: Reading = model(_roughen(torch.cat([clean, bad]), random))
        n = len(clean)
        seen = {k: v[:n] for k, v in reading.scores.items() if k != "identity"}
        known = _READING * heads_loss(seen, heads)
        kind = torch.full((len(bad),), broken)
        known = known + F.cross_entropy(reading.scores["kind"][n:], kind) / 4
        return known + F.cross_entropy(
            reading.scores["identity"][:n], heads["identity"], ignore_index=UNKNOWN
        )

    return loss


def _roughen(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Shift, blur and noise pictures a little, as sampling does to what it draws."""
    dx, dy = (int(i) for i in torch.randint(-2, 3, (2,), generator=random))
    pictures = torch.roll(pictures, (dy, dx), (2, 3))
    strength = torch.rand(len(pictures), 3, 1, 1, generator=random)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.lerp(pictures, blurred, strength[:, :1, :, :].reshape(-1, 1, 1, 1) * 0.7)
    noise = torch.randn(pictures.shape, generator=random)
    return (pictures + noise * 0.07 * strength[:, 1:2]).clamp(0, 1)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str], length: int = LENGTH) -> Tensor:
    """Token ids (B, length): BOS, at most length - 2 text tokens, EOS, padded with EOS."""
    encoded = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True)
    return torch.tensor(encoded.input_ids)


class Readers(nn.Module):
    """Attention readers on top of a text encoder, which are thrown away after training.

    They look at all tokens, as a U-Net's cross-attention does: readers at EOS alone made an encoder
    that copies raw names there in its first layer, past what any prefix can do. `more` numbers are
    read besides the heads.
    """

    def __init__(self, width: int, more: int = 0) -> None:
        super().__init__()
        self.sizes = {k: n for k, n in head_sizes(0).items() if k != "identity"}
        self.more = more
        self.looks = nn.Linear(width, _LOOKS)
        self.heads = nn.Linear(_LOOKS * width, sum(self.sizes.values()) + more)

    def forward(
        self, states: Tensor, mask: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Scores by head and other numbers (B, more), read off states (B, N, width) in a mask."""
        looks = self.looks(states)
        if mask is not None:
            looks = looks.masked_fill(~mask[..., None], -torch.inf)
        out = self.heads((looks.softmax(1).transpose(1, 2) @ states).flatten(1))
        *scores, more = out.split([*self.sizes.values(), self.more], 1)
        return dict(zip(self.sizes, scores, strict=True)), more


class TextLoss(nn.Module):
    """A text encoder with readers on top.

    CLIP's text encoder learns from pictures which looks go with which words before any diffusion
    model sees it. Here it gets the same head start.
    """

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.readers = Readers(WIDTH, OFFSETS)

    def loss(self, ids: Tensor, heads: dict[str, Tensor], offsets: Tensor) -> Tensor:
        """Read labels off the states (B, N, 128), each reader from where it looks."""
        scores, found = self.readers(self.encoder(ids).last_hidden_state)
        total = heads_loss(scores, heads)
        shift = (found - offsets)[heads["identity"] != UNKNOWN]
        return total + 0.2 * shift.square().mean() if len(shift) else total


def captions_without_end(
    world: World, people: tuple[Person, ...], read: Callable[[list[str]], Read]
) -> Iterator[tuple[Read, Labels]]:
    """Captions, made up and `read`, and their labels, for one batch after the other.

    Others take their place every now and then; nothing needs drawing.
    """
    rng = np.random.default_rng(3)

    def pool() -> tuple[Read, Labels]:
        subjects = invent(world, people, (6 * len(people), 600, 600), rng)
        labels = subjects.labels()
        return read([subjects.caption(i, rng) for i in range(len(labels))]), labels

    current = pool()
    for batch in itertools.count(1):
        if batch % _RENEWED == 0:
            current = pool()
        yield current


def text_loss(
    model: TextLoss, tokenizer: CLIPTokenizer, world: World, people: tuple[Person, ...]
) -> Loss:
    """Read what a caption says."""
    made = captions_without_end(world, people, lambda texts: tokenize(tokenizer, texts))

    def loss(random: torch.Generator) -> Tensor:
        ids, labels = next(made)
        rows = torch.randint(len(labels), (_BATCH,), generator=random)
        batch = ids[rows]
        longest = int((batch != cast(int, tokenizer.eos_token_id)).sum(1).max())
        extra = int(torch.randint(1, 9, (1,), generator=random))
        heads, offsets = labels.tensors(rows)
        return model.loss(batch[:, : min(longest + extra, LENGTH)], heads, offsets)

    return loss


class DenoisingModel(nn.Module):
    """The text encoder and the U-Net, trained together."""

    def __init__(self, encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.encoder, self.unet = encoder, unet

    def forward(self, x_t: Tensor, t: Tensor, chunks: Sequence[Tensor]) -> Tensor:
        """Predicted clean latents (B, 48, 8, 8); the ids of each chunk are (B, N)."""
        states = torch.cat([self.encoder(ids).last_hidden_state for ids in chunks], 1)
        return self.unet(x_t, t, states).sample


def seen_difference(critic: Recognizer, predicted: Tensor, latents: Tensor) -> Tensor:
    """Mean squared distance of two pictures' features, scaled to length 1 at every place (LPIPS's
    form, arXiv 1801.03924, with equal weights)."""
    with torch.no_grad():
        wanted = [F.normalize(m, dim=1) for m in critic.maps(to_pictures(latents))]
    found = critic.maps(to_pictures(predicted))
    far = [
        (F.normalize(m, dim=1) - w).square().sum(1).mean()
        for m, w in zip(found, wanted, strict=True)
    ]
    return torch.stack(far).mean()


def unet_loss(
    denoising: DenoisingModel,
    pictures: Tensor,
    captions: Tensor,
    empty: Tensor,
    fillers: Tensor,
    critic: Recognizer,
) -> Loss:
    """Predict the clean latent; a tenth of the captions is dropped, a few batches are long.

    `captions` (V, N, 77) holds V captions of each picture, `empty` (1, 77) no words; in a long
    batch a chunk of `fillers` (F, 77) stands before the caption's chunk, as in long prompts. Most
    batches hold captions of one length, cut off a little behind it, which saves half of the time.
    Where there is little noise an error counts by the signal-to-noise ratio (cf. arXiv
    2303.09556), or fine lines are never drawn. What the frozen `critic` sees counts as well (cf.
    arXiv 2401.00110): eyes, brows and noses are a few pixels, and a mean of faces is no face.
    """
    end = int(empty[0, -1])
    lengths = (captions != end).sum(2) + 1
    edges = (0, 14, 20, 28, 40, LENGTH)
    buckets = [
        ((lengths > low) & (lengths <= high)).nonzero() for low, high in itertools.pairwise(edges)
    ]
    buckets = [b for b in buckets if len(b) >= _BATCH]
    shares = torch.tensor([float(len(b)) for b in buckets])

    def loss(random: torch.Generator) -> Tensor:
        bucket = buckets[int(torch.multinomial(shares, 1, generator=random))]
        picked = bucket[torch.randint(len(bucket), (_BATCH,), generator=random)]
        rows, ids = picked[:, 1], captions[picked[:, 0], picked[:, 1]]
        latents = to_latents(pictures[rows].float() / 255)
        noise = torch.randn(latents.shape, generator=random)
        t = torch.randint(SCHEDULE.steps, (_BATCH,), generator=random)
        high = torch.randint(_HIGH, SCHEDULE.steps, (_BATCH,), generator=random)
        t = torch.where(torch.rand(_BATCH, generator=random) < _OFTEN, high, t)
        longest = int(lengths[picked[:, 0], rows].max())
        ids[torch.rand(_BATCH, generator=random) < 0.1] = empty
        chunks, form = [ids], float(torch.rand(1, generator=random))
        if form < 0.05:
            front = torch.randint(len(fillers), (_BATCH,), generator=random)
            chunks = [fillers[front], ids]
        elif form < 0.85:
            chunks = [ids[:, : longest + int(torch.randint(1, 9, (1,), generator=random))]]
        predicted = denoising(SCHEDULE.q_sample(latents, noise, t), t, chunks)
        each = (predicted - latents).square().flatten(1).mean(1)
        alpha, sigma = SCHEDULE.coefficients(t, each)
        error = (each * (alpha / sigma).square().clamp(1, _SHARP)).mean()
        return error + _SEEN * seen_difference(critic, predicted, latents)

    return loss
