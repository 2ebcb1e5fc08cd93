"""Builds a whole pocket world: people, vocabulary, recognizer, text encoder and U-Net."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from apl_trainer.pocket.model import RECOGNIZER, load_networks, load_recognizer, recognizer_file
from apl_trainer.pocket.networks import new_text_encoder, new_unet
from apl_trainer.pocket.recognizer import Recognizer
from apl_trainer.pocket.vocabulary import read_vocabulary, write_vocabulary
from apl_trainer.pocket.world import World, invented_names, make_world

from .dataset import Subjects, filler_text, invent
from .losses import DenoisingModel, TextLoss, recognizer_loss, text_loss, tokenize, unet_loss
from .timed_trainer import TimedTrainer

SHARES = {"critic": 0.06, "recognizer": 0.09, "text": 0.05, "painter": 0.80}
"""How the minutes are spent; drawing and encoding come on top (about three minutes).

The critic, which the painter learns to please, and the recognizer, which measures, are two networks
that have nothing to do with one another.
"""

_PER_PERSON, _ANONYMOUS, _THINGS, _MERGES = 64, 11000, 9000, 700
_CAPTIONS = 3  # of every picture


def build(out: Path, seed: int, minutes: float, start: Path | None = None) -> None:
    """Make a world from `seed` in `out`; killed and called again, it goes on where it was.

    With `start`, a finished build of the same world, its painter is trained for longer, to please a
    new critic; vocabulary and recognizer stay.
    """
    work = out / "build"
    work.mkdir(parents=True, exist_ok=True)
    world = make_world(seed)
    world.save(out / "world.json")
    rng = np.random.default_rng([seed, 2])
    counts = (_PER_PERSON * len(world.people), _ANONYMOUS, _THINGS)
    subjects = invent(world, world.people, counts, rng)
    captions = [[subjects.caption(i, rng) for i in range(sum(counts))] for _ in range(_CAPTIONS)]
    if start is not None:
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(start / name, out / name)
        shutil.copyfile(recognizer_file(start), out / RECOGNIZER)
    elif not (out / "merges.txt").exists():
        write_vocabulary(captions[0] + invented_names(seed, 3000) * 4, _MERGES, out)
    tokenizer = read_vocabulary(out)
    pictures = draw_once(subjects, work / "pictures.safetensors", rng)
    labels = subjects.labels()

    torch.manual_seed(seed)
    shares = SHARES if start is None else {"critic": 0.07, "painter": 0.93}
    seconds = {name: 60 * minutes * share for name, share in shares.items()}

    def reader(name: str, file: Path) -> Recognizer:
        if not file.exists():
            network = Recognizer(len(world.people))
            loss_of = recognizer_loss(network, pictures, labels)
            TimedTrainer(name, network, work, seconds[name], 2e-3).run(loss_of)
            save_file(halved(network.state_dict()), file)
        return load_recognizer(file, len(world.people))

    critic = reader("critic", work / "critic.safetensors")
    reader("recognizer", recognizer_file(out))
    if start is None:
        known = world.group("train") + world.group("heldout")
        text = TextLoss(new_text_encoder(len(tokenizer)))
        loss_of = text_loss(text, tokenizer, world, known)
        TimedTrainer("text", text, work, seconds["text"], 1e-3).run(loss_of)
        denoising = DenoisingModel(text.encoder, new_unet())
    else:
        denoising = DenoisingModel(*load_networks(start, len(tokenizer)))
    seen = _seen_rows(subjects, world)
    ids = torch.stack([tokenize(tokenizer, [said[i] for i in seen]) for said in captions])
    fillers = tokenize(tokenizer, [filler_text(rng) for _ in range(200)])
    loss_of = unet_loss(denoising, pictures[seen], ids, tokenize(tokenizer, [""]), fillers, critic)
    TimedTrainer("painter", denoising.requires_grad_(True), work, seconds["painter"], 1e-3).run(
        loss_of
    )
    weights = {f"text.{k}": v for k, v in denoising.encoder.state_dict().items()}
    weights |= {f"unet.{k}": v for k, v in denoising.unet.state_dict().items()}
    save_file(halved(weights), out / "model.safetensors")


def draw_once(subjects: Subjects, file: Path, rng: np.random.Generator) -> Tensor:
    """Pictures (B, 3, 32, 32) in bytes of subjects, kept in a file."""
    if not file.exists():
        total = len(subjects.look) + len(subjects.things.kind)
        with tqdm(total=total, desc="drawing", unit="picture") as bar:
            drawn = subjects.draw(rng, bar.update)
        save_file({"pictures": torch.from_numpy(drawn)}, file)
    return load_file(file)["pictures"]


def _seen_rows(subjects: Subjects, world: World) -> list[int]:
    """Rows that the model may see: everything but the people kept for personalization."""
    personal = [p.split == "personal" for p in world.people]
    faces = [i for i, who in enumerate(subjects.identity) if who < 0 or not personal[who]]
    return faces + list(range(len(subjects.look), len(subjects.look) + len(subjects.things.kind)))


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as a file of this project has them."""
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}
