"""A prefix measured on a real checkpoint: what is drawn, and what the readers make of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from apl_core.example_kinds import PERSON
from apl_core.prefix import Prefix

from ..checkpoints.loaded import CheckpointModel
from ..prompts import SLOT, PromptSource, generator, number
from ..readers.available import Readers
from ..readers.protocols import FaceReader, Faces
from ..sampling import Request
from ..statistics import Mean, mean
from .conditions import Condition, EvalPrompt, EvalPrompts, baselines, random_rows, reseeded
from .figures import changes, likeness, read_faces, text_fit
from .gallery import People, pictures_of_people, read_people
from .image_cache import ImageCache, ImageSet
from .matches import GalleryFaces, Matches, Sightings, accepted
from .titles import CONDITION_TITLES

GALLERY_PROMPT = "a close-up portrait of {}"
GROUPS = ("trained", "heldout")

Tell = Callable[[str, int, int], object]


@dataclass(frozen=True)
class EvaluationPlan:
    """Who is measured how: names, pictures a name, name-free prompts a kind, and the drawing."""

    trained: tuple[str, ...]
    heldout: tuple[str, ...]
    descriptions: Mapping[str, str]
    seeds: int
    free: int
    gallery: int
    seed: int
    negative: str
    steps: int
    guidance: float
    size: int
    batch: int

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody."""
        return self.trained + self.heldout

    def questions(self, book: PromptSource) -> EvalPrompts:
        """Prompts and seeds; they depend on the seed, the name and the book alone."""
        free = {
            kind: tuple(
                EvalPrompt(
                    SLOT,
                    book.general(kind, generator(self.seed, *told)),
                    number(self.seed, *told, "noise"),
                )
                for told in (("evaluate", kind, i) for i in range(self.free))
            )
            for kind in ("people", "things")
        }
        named = [
            tuple(self._question(book, name, i) for name in names for i in range(self.seeds))
            for names in (self.trained, self.heldout)
        ]
        return EvalPrompts(named[0], named[1], free["people"], free["things"])

    def portraits(self) -> list[EvalPrompt]:
        """Pictures for the gallery: other seeds than those that are measured."""
        return [
            EvalPrompt(GALLERY_PROMPT, name, number(self.seed, "gallery", name, i))
            for name in self.names
            for i in range(self.gallery)
        ]

    def _question(self, book: PromptSource, name: str, i: int) -> EvalPrompt:
        told = "evaluate", name, i
        template = book.named(generator(self.seed, *told))
        described = self.descriptions.get(name, "")
        return EvalPrompt(template, name, number(self.seed, *told, "noise"), {}, described)


@dataclass(frozen=True)
class CheckpointEvaluation:
    """What was measured: figures with intervals, the pictures, and whom they are of."""

    plan: EvaluationPlan
    asked: EvalPrompts
    image_sets: Mapping[str, ImageSet]
    titles: Mapping[str, str]
    figures: Mapping[str, Mean]
    people: People | None
    lacking: tuple[str, ...]
    sightings: Sightings | None = None


class CheckpointEvaluator:
    """Measures a prefix on a checkpoint into a folder; killed and called again it goes on."""

    def __init__(
        self,
        model: CheckpointModel,
        prefix: Prefix,
        plan: EvaluationPlan,
        book: PromptSource,
        readers: Readers,
        gallery: Path | None,
        out: Path,
    ) -> None:
        self.plan, self.readers, self.gallery_folder = plan, readers, gallery
        self.asked = plan.questions(book)
        asked = [q.request().prompt for q in (*self.asked.named, *self.asked.free)]
        model.encoder.check([*asked, *plan.descriptions.values(), plan.negative])
        self.conditions = self._conditions(model, prefix)
        sampler = model.sampler(plan.steps, plan.guidance, plan.size, plan.batch)
        recipe = f"{digest_of(model)} {plan.steps} {plan.guidance} {plan.size}"
        self.room = ImageCache(sampler, out / "pictures", recipe, plan.size, plan.batch)
        self.image_sets = self._rolls()

    def draw(self, tell: Tell, rank: int = 0, of: int = 1) -> int:
        """Draw this rank's share; returns how many pictures are left to others."""
        image_sets = list(self.image_sets.values())
        total, done = sum(map(len, image_sets)), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            tell("drawing", done, -(-total // of))

        self.room.draw(image_sets, advance, rank, of)
        return sum(len(self.room.missing(image_set)) for image_set in image_sets) if of > 1 else 0

    def measure(self, tell: Tell) -> CheckpointEvaluation:
        """Let the readers look at all pictures."""
        faces, clip, plan = self.readers.faces, self.readers.clip, self.plan
        gallery = self._gallery(faces) if faces is not None else None
        people = None if gallery is None else People.of(gallery.faces, gallery.names)
        sightings = None if gallery is None else Sightings(gallery, {}, self.readers.same)
        figures: dict[str, Mean] = {}
        for done, (name, condition) in enumerate(self.conditions.items(), 1):
            prompts, title = condition.prompts_of(self.asked), "base" if name == "none" else name
            parts = _groups(prompts, self.image_sets[name])
            if faces is not None and people is not None and sightings is not None:
                seen = {
                    group: read_faces(faces, image_set)
                    for group, (_, image_set) in parts.items()
                    if group != "things"
                }
                figures |= _identity(title, parts, seen, people)
                figures |= _matched(name, title, parts, seen, sightings)
            if clip is not None:
                for group, (questions, image_set) in parts.items():
                    who = [q.subject for q in questions] if group in GROUPS else None
                    texts = [q.request(PERSON if who else None).prompt for q in questions]
                    figures[f"{title}.clip_score.{group}"] = text_fit(clip, image_set, texts, who)
            tell("reading", done, len(self.conditions) + 1)
        if plan.free:
            count = 2 * plan.free
            free = {
                name: self.image_sets[name].cut(len(self.image_sets[name]) - count)
                for name in ("prefix", "random", "reseeded")
            }
            plain = self.image_sets["none"].cut(len(self.image_sets["none"]) - count)
            figures |= changes(plain, dict(free), clip, clip)
        if sightings is not None and sightings.same is not None:
            figures |= accepted(sightings.gallery, sightings.same)
        tell("reading", len(self.conditions) + 1, len(self.conditions) + 1)
        titles = {name: condition.title for name, condition in self.conditions.items()}
        return CheckpointEvaluation(
            plan,
            self.asked,
            self.image_sets,
            titles,
            figures,
            people,
            self.readers.lacking,
            sightings,
        )

    def _conditions(self, model: CheckpointModel, prefix: Prefix) -> dict[str, Condition]:
        others = baselines(random_rows(model.encoder, prefix.n, prefix.behind))
        learned = Condition(CONDITION_TITLES["prefix"], prefix.rows(), free=True, brief=False)
        found = {"none": others.pop("none"), "prefix": learned, **others}
        if not all(q.description for q in self.asked.named):
            del found["description"]  # it would ask for the name itself
        if self.readers.faces is None and self.readers.clip is None:  # nobody reads these
            found = {name: c for name, c in found.items() if c.free}
        return found

    def _rolls(self) -> dict[str, ImageSet]:
        image_sets: dict[str, ImageSet] = {}
        for name, condition in self.conditions.items():
            prompts = condition.prompts_of(self.asked)
            requests = [_away_from(self.plan.negative, r) for r in condition.requests(self.asked)]
            image_sets[name] = self.room.image_set(
                name, _labels(prompts)[: len(requests)], requests, condition.rows
            )
        if self.plan.free:
            again = [replace(r, negative=self.plan.negative) for r in reseeded(self.asked)]
            labels = _labels(replace(self.asked, trained=(), heldout=()))
            image_sets["reseeded"] = self.room.image_set("reseeded", labels, again, None)
        if self.readers.faces is not None and self.gallery_folder is None:
            portraits = self.plan.portraits()
            requests = [q.request(negative=self.plan.negative) for q in portraits]
            labels = [f"gallery-{i:05d}" for i in range(len(portraits))]
            image_sets["gallery"] = self.room.image_set("gallery", labels, requests, None)
        return image_sets

    def _gallery(self, faces: FaceReader) -> GalleryFaces:
        if self.gallery_folder is None:
            drawn = self.image_sets["gallery"]
            names = [q.subject for q in self.plan.portraits()]
            return GalleryFaces(read_faces(faces, drawn), tuple(names), drawn.files)
        pictures = pictures_of_people(self.gallery_folder, self.plan.names)
        names, files = zip(*pictures, strict=True)
        return GalleryFaces(read_people(faces, files), names, files)


Part = tuple[Sequence[EvalPrompt], ImageSet]


def _groups(prompts: EvalPrompts, image_set: ImageSet) -> dict[str, Part]:
    """The questions and pictures of each group that has any."""
    found: dict[str, Part] = {}
    start = 0
    for group in (*GROUPS, "people", "things"):
        questions: tuple[EvalPrompt, ...] = getattr(prompts, group)
        end = start + len(questions)
        if questions and end <= len(image_set):
            found[group] = questions, image_set.cut(start, end)
        start = end
    return found


def _identity(
    title: str, parts: Mapping[str, Part], seen: Mapping[str, Faces], people: People
) -> dict[str, Mean]:
    found: dict[str, Mean] = {}
    named = [group for group in GROUPS if group in parts]
    for group in named:
        who = [q.subject for q in parts[group][0]]
        if people.gallery is None:
            figures = {"face_found": _shown(seen[group], who)}
        else:
            figures = likeness(seen[group], who, people.gallery)
        found |= {f"{title}.{key}.{group}": value for key, value in figures.items()}
    everyone = [q.subject for group in named for q in parts[group][0]]
    if named:
        found[f"{title}.face_found"] = _shown(Faces.join([seen[g] for g in named]), everyone)
    if "people" in parts:
        found[f"{title}.face_found.people"] = _shown(seen["people"])
    return found


def _matched(
    name: str,
    title: str,
    parts: Mapping[str, Part],
    seen: Mapping[str, Faces],
    sightings: Sightings,
) -> dict[str, Mean]:
    """Keep what the report shows; the share called the person named, at a published threshold."""
    found: dict[str, Mean] = {}
    for group in (group for group in GROUPS if group in parts):
        questions, image_set = parts[group]
        who = [q.subject for q in questions]
        matches = Matches.of(seen[group], who, image_set.files, sightings.gallery)
        sightings.matches[name, group] = matches
        if sightings.same is not None:
            found[f"{title}.identity_same.{group}"] = matches.same(sightings.same)
    return found


def _shown(faces: Faces, who: Sequence[str] | None = None) -> Mean:
    return mean(faces.found.cpu().float().numpy(), who)


def _labels(prompts: EvalPrompts) -> list[str]:
    return [
        f"{group}-{i:05d}"
        for group in (*GROUPS, "people", "things")
        for i in range(len(getattr(prompts, group)))
    ]


def _away_from(negative: str, request: Request) -> Request:
    parts = [part for part in (request.negative, negative) if part]
    return replace(request, negative=", ".join(parts))


@torch.no_grad()
def digest_of(model: CheckpointModel) -> str:
    """Tells models apart that draw other pictures: from a few of each tensor's weights."""
    state = hashlib.sha256()
    towers = getattr(model.encoder, "towers", ())
    for module in (*model.denoiser.modules, model.latents.vae, *model.encoder.modules):
        for name, value in sorted(module.state_dict().items()):
            few = value.flatten()[:: max(value.numel() // 64, 1)][:64]
            state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            state.update(few.float().cpu().numpy().tobytes())
    state.update(
        f"{model.recognized.prediction} {[getattr(t, 'skip', 0) for t in towers]}".encode()
    )
    return state.hexdigest()[:32]
