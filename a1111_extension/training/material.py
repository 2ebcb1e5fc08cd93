"""What a run in the webui learns from: pictures that the frozen model itself makes.

The target of the objective is a prediction of the frozen model, so its own pictures do; none of
anybody is needed. Latents are made once per run and kept in its folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from apl_core import atomic
from apl_core.captions import Names
from apl_core.errors import ConfigError, RunError
from apl_core.example_kinds import PERSON, Kind
from apl_core.metadata import printable
from apl_core.objective import Example
from apl_core.ports import DenoiserPort, TextEncoderPort
from apl_core.prefix import Rows
from apl_core.training.people import ListedPerson

FRAMES = ("a photo of {}", "a close-up photo of {}", "a portrait of {}", "{}")
THINGS = (
    *("a photo of a dog", "a red bicycle leaning on a wall", "a bowl of fruit on a table"),
    *("a city street at night", "a mountain lake", "a black cat on a sofa", "a wooden house"),
    *("an old car", "a bouquet of flowers", "a sailing boat at sea"),
)
PEOPLE = (
    *("a photo of a man with short grey hair and a beard", "a portrait of a young woman"),
    *("an old woman with glasses", "a man in a blue suit", "a girl with red hair, smiling"),
    *("a photo of a boy playing football", "a close-up photo of a bald man"),
    *("a woman with long black hair in a garden", "a group of friends at a table"),
)


class LatentSource:
    """A Source over kept latents: the same generator gives the same examples."""

    def __init__(self, prompts: Sequence[tuple[Kind, str, str]], latents: Tensor) -> None:
        self._kept = list(zip(prompts, latents, strict=True))

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        mine = [(prompt, latent) for prompt, latent in self._kept if prompt[0] == kind]
        picks = torch.randint(len(mine), (count,), generator=random).tolist()
        return [Example(kind, mine[i][1], mine[i][0][1], mine[i][0][2]) for i in picks]


def prompts_of(people: Sequence[ListedPerson], target: str) -> list[tuple[Kind, str, str]]:
    """(kind, prompt, neutral prompt) of all that is learned from."""
    found: list[tuple[Kind, str, str]] = [
        ("identity", prompt, neutral)
        for person in people
        for prompt, neutral in named_prompts(person, target)
    ]
    everybody = Names([p.name for p in people])  # a name may be a word of our own prompts
    free: dict[Kind, Sequence[str]] = {"things": THINGS, "people": PEOPLE}
    for kind, texts in free.items():
        found.extend((kind, text, text) for text in texts if not everybody.find(text))
    return found


def named_prompts(person: ListedPerson, target: str) -> list[tuple[str, str]]:
    """(name prompt, its neutral prompt) in every frame; ConfigError for a missing description."""
    if target == "description" and not person.description:
        raise ConfigError(
            f"learn the description of {printable(person.name, 80)!r}",
            "it has none",
            f"write `{printable(person.name, 80)} = a woman with short gray hair` in the list of "
            "names, or leave the target at person",
        )
    stand_in = person.description if target == "description" else PERSON
    return [
        (frame.format(person.name), "" if target == "empty" else frame.format(stand_in))
        for frame in FRAMES
    ]


def make_latents(
    path: Path,
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    prompts: Sequence[tuple[Kind, str, str]],
    shape: tuple[int, int, int],
    tell: Callable[[int, int], None],
    steps: int,
) -> Tensor:
    """Latents (N, C, H, W) of the prompts' pictures, from `path` if a run has made them before."""
    if path.is_file():
        latents = load_file(path)["latents"]
        if len(latents) != len(prompts):
            raise RunError(
                f"go on in {path.parent.name}",
                f"it holds {len(latents)} pictures for {len(prompts)} prompts: another version of "
                "the extension began it",
                "start a new run with the same names",
            )
        return latents
    made: list[Tensor] = []
    for number, (_, prompt, _) in enumerate(prompts):
        made.append(sample(encoder, denoiser, [prompt], shape, number, None, steps).cpu())
        tell(number + 1, len(prompts))
    latents = torch.cat(made)
    atomic.write_bytes(path, save({"latents": latents}))
    return latents


@torch.no_grad()
def sample(
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    texts: Sequence[str],
    shape: tuple[int, int, int],
    seed: int,
    rows: Rows | None,
    steps: int,
    guidance: float = 7.0,
) -> Tensor:
    """Latents (B, C, H, W) by DDIM without noise (arXiv 2010.02502, eq. 12) and guidance."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn((len(texts), *shape), generator=random).to(denoiser.device)
    positive, negative = encoder.encode(texts, rows), encoder.encode([""] * len(texts), None)
    kept = denoiser.schedule.alphas_cumprod.to(x.device)
    times = torch.linspace(len(kept) - 1, 0, steps + 1).round().long().tolist()
    for now, after in itertools.pairwise(times):
        t = torch.full((len(texts),), now, device=x.device)
        bare = denoiser.predict_noise(x, t, negative)
        eps = bare + guidance * (denoiser.predict_noise(x, t, positive) - bare)
        clean = (x - (1 - kept[now]).sqrt() * eps) / kept[now].sqrt()
        x = kept[after].sqrt() * clean + (1 - kept[after]).sqrt() * eps
    return x.float()
