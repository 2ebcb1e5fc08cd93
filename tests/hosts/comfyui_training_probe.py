"""Checks of learning inside a real ComfyUI, run by the host's Python.

``venv/bin/python comfyui_training_probe.py HOST MODELS WORK [CHECK ...]`` writes WORK/said.json.
Everything runs inside inference mode, as ComfyUI runs its nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import comfyui_setup
from comfyui_setup import raises

HOST, MODELS, WORK = (Path(argument) for argument in sys.argv[1:4])
WANTED = sys.argv[4:]
comfyui_setup.start(HOST, MODELS)
sys.path.append(str(Path(__file__).parents[1] / "fixtures"))

import comfy.model_sampling
import comfy.samplers
import comfy.sd
import folder_paths
import lesson_digest
import torch
from apl_comfy import nodes_train
from apl_comfy.clips import apply_prefix
from apl_comfy.training import run as training_run
from apl_comfy.training.denoiser import ComfyDenoiser
from apl_comfy.training.encoder import ComfyEncoder
from apl_comfy.training.pictures import LatentSampler
from apl_comfy.training.run import Job, Watcher, new_folder, train
from apl_comfy.training.trainable import trainable
from comfyui_learning import encodes_as_the_host, gradient_against_differences, state, targets, tiny

from apl_core.errors import ConfigError, HostError
from apl_core.formats import read_prefix
from apl_core.objective import per_example_loss
from apl_core.prefix import WIDTHS, Prefix, Rows
from apl_core.training import batches, material
from apl_core.training.config import PRESETS, TrainConfig, preset
from apl_core.training.frozen import frozen
from apl_core.training.loop import Trainer
from apl_core.training.people import ListedPerson, people_in

batches.CAPTIONS = 6  # what errors are counted in takes no minute then

TEXTS = ["a photo of Ada Lovelace", "a (red:1.3) house", "word " * 90]


@cache
def sd15() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the random SD 1.5 checkpoint."""
    path = folder_paths.get_full_path_or_raise("checkpoints", "random_sd15.safetensors")
    return comfy.sd.load_checkpoint_guess_config(path)[:3]


@cache
def sdxl() -> tuple[Any, Any]:
    """MODEL and CLIP of the random SDXL parts."""
    names = ("random_clip_l.safetensors", "random_clip_g.safetensors")
    paths = [folder_paths.get_full_path_or_raise("text_encoders", name) for name in names]
    clip = comfy.sd.load_clip(paths, None, comfy.sd.CLIPType.STABLE_DIFFUSION)
    unet = folder_paths.get_full_path_or_raise("diffusion_models", "random_sdxl.safetensors")
    return comfy.sd.load_diffusion_model(unet), clip


def rows(*keys: str, count: int = 4, behind: int = 2) -> Rows:
    """Random live rows."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        return Rows(
            {key: torch.randn((count, WIDTHS[key]), generator=generator) * 0.02 for key in keys},
            behind,
        )


def check_gradient_against_finite_differences_sd15() -> None:
    model, clip, _ = sd15()
    gradient_against_differences(model, clip, rows("clip_l"), TEXTS[:2])


def check_gradient_against_finite_differences_sdxl() -> None:
    gradient_against_differences(*sdxl(), rows("clip_l", "clip_g"), TEXTS[1:2])


def check_encodes_as_the_host_sd15() -> None:
    clip, live = sd15()[1], rows("clip_l")
    encodes_as_the_host(clip, clip, [*TEXTS, ""], None)
    patched = apply_prefix(clip, Prefix(live.vectors, live.behind))
    encodes_as_the_host(clip, patched, [*TEXTS, ""], live)


def check_encodes_as_the_host_sdxl() -> None:
    clip, live = sdxl()[1], rows("clip_l", "clip_g")
    patched = apply_prefix(clip, Prefix(live.vectors, live.behind))
    encodes_as_the_host(clip, patched, TEXTS[:2], live)


def check_predicts_the_networks_own_noise() -> None:
    model, clip, _ = sd15()
    clip.load_model()  # as training does: another check's prefix may still be on the network
    encoder, denoiser = ComfyEncoder(clip), ComfyDenoiser(model, 4)
    conditioning = encoder.encode(TEXTS[:2], None)
    x_t = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    t = torch.tensor([3, 700])
    found = denoiser.predict_noise(x_t, t, conditioning)
    raw = model.model.diffusion_model(x_t, t.float(), context=conditioning.cross)
    torch.testing.assert_close(found, raw, atol=1e-3, rtol=1e-3)


def check_training_leaves_the_host_as_it_was() -> None:
    model, clip, vae = sd15()
    networks = (model.model, clip.cond_stage_model, vae.first_stage_model)
    sampler = LatentSampler(model, clip, vae, (64, 64), 2, 5.0)
    before, picture = state(*networks), sampler.paint("a cat", 3)
    shown: list[int] = []
    watcher = Watcher(lambda done, *_: shown.append(done), 15)
    done = train(tiny(), model, clip, vae, new_folder(WORK, "one"), watcher)
    assert done.prefix.n == 4 and done.prefix.behind == 2
    assert len(done.losses) == 3 and shown[-1] == 15
    assert done.pictures.shape == (6, 64, 64, 3)
    assert not torch.equal(done.pictures[0], done.pictures[3])
    assert "Ada" not in (WORK / "one" / "prefix.safetensors").read_bytes().decode("latin-1")
    assert state(*networks) == before
    assert torch.equal(sampler.paint("a cat", 3), picture)


def check_the_same_job_learns_the_same_prefix() -> None:
    done = train(tiny(), *sd15(), new_folder(WORK, "two"), Watcher(lambda *_: None, 15))
    assert done.prefix.digest == read_prefix(WORK / "one" / "prefix.safetensors").digest


def check_connected_pictures_and_a_prefix_to_go_on_from() -> None:
    pixels = torch.rand((1, 96, 64, 3))
    start = Prefix(rows("clip_l").vectors, 2)
    job = tiny()
    pictures = [(pixels, "Ada Lovelace at sea"), (pixels, "a ship")]
    given = Job(**{**vars(job), "pictures": pictures, "start": start, "others": []})
    config = TrainConfig.from_mapping(
        {
            "num_vectors": 4,
            "num_suffix_vectors": 2,
            "steps": 1,
            "target_cache": 3,
            "lr_warmup_steps": 1_000_000,
        }
        | {"batch_identity": 1, "batch_things": 2, "batch_people": 0}
    )
    given = Job(**{**vars(given), "config": config})
    done = train(given, *sd15(), new_folder(WORK, "four"), Watcher(lambda *_: None, 1))
    torch.testing.assert_close(done.prefix.vectors["clip_l"], start.vectors["clip_l"])


def check_a_stopped_graph_keeps_what_is_learned() -> None:
    model, clip, vae = sd15()
    networks = (model.model, clip.cond_stage_model)
    before = state(*networks)
    folder = new_folder(WORK, "five")

    def stop(done: int, *_: Any) -> None:
        if done == 12 + 2:
            comfy.model_management.interrupt_current_processing()

    job = tiny(steps=50, save_every=1, validate_every=0)
    with raises(comfy.model_management.InterruptProcessingException):
        train(job, model, clip, vae, folder, Watcher(stop, 62))
    assert folder.prefix.exists()
    assert [row["step"] for row in folder.rows()] == [1, 2]
    assert state(*networks) == before


def check_a_failure_in_the_middle_leaves_the_host_as_it_was() -> None:
    model, clip, vae = sd15()
    networks = (model.model, clip.cond_stage_model)
    before = state(*networks)

    def fail(done: int, *_: Any) -> None:
        if done == 12 + 1:
            raise torch.cuda.OutOfMemoryError("as a GPU would say")

    with raises(torch.cuda.OutOfMemoryError):
        train(tiny(), model, clip, vae, new_folder(WORK, "six"), Watcher(fail, 15))
    assert state(*networks) == before
    assert not any(p.grad is not None for n in networks for p in n.parameters())


def interrupted_at(network: Any, run: Any, backward: bool) -> tuple[int, int]:
    """Interrupt in the third block that is passed; blocks passed in all, and blocks there are."""
    passed: list[int] = []

    def count(*_: Any) -> None:
        passed.append(1)
        if len(passed) == 3:
            comfy.model_management.interrupt_current_processing()

    def look(_: Any, __: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if backward and found.requires_grad:
            found.register_hook(count)
        if not backward:
            count()

    lists = [one for one in network.modules() if isinstance(one, torch.nn.ModuleList)]
    blocks = [block for one in lists for block in one]
    handles = [block.register_forward_hook(look) for block in blocks]
    try:
        run()
    except comfy.model_management.InterruptProcessingException:
        return len(passed), len(blocks)
    finally:
        for handle in handles:
            handle.remove()
    raise AssertionError("nobody heard of the interrupt")


def check_an_interrupt_is_heard_between_blocks_forward_and_backward() -> None:
    model, clip, _ = sd15()
    encoder, denoiser = ComfyEncoder(clip), ComfyDenoiser(model, 2)
    networks = clip.cond_stage_model, model.model
    with trainable(model, clip), frozen([*encoder.modules, *denoiser.modules]), torch.enable_grad():
        given = targets(encoder, denoiser, TEXTS[:2], (4, 8, 8))
        live = {key: one.requires_grad_() for key, one in rows("clip_l").vectors.items()}

        def run() -> None:
            per_example_loss(encoder, denoiser, given, Rows(live, 2)).sum().backward()

        for network in networks:
            for backward in (False, True):
                passed, blocks = interrupted_at(network, run, backward)
                assert passed <= 4 < blocks, (type(network), backward, passed, blocks)
        run()  # and nothing is left of it


def check_of_five_names_one_is_kept_for_choosing_the_step() -> None:
    people = [ListedPerson(name, "") for name in ("Ada", "Alan", "Kurt", "Emmy", "Grace")]
    job = tiny(steps=6, validate_every=1, learning_rate=0.5, patience=0)
    job = Job(**{**vars(job), "people": people, "preview_every": 0})
    folder = new_folder(WORK, "validated")
    said: list[str] = []
    material.KEPT_NAMED = material.KEPT_FREE = 3  # 24 of each take minutes
    try:
        done = train(job, *sd15(), folder, Watcher(lambda *_: None, 18, said.append))
    finally:
        material.KEPT_NAMED = material.KEPT_FREE = 24
    assert len(said) == 6 and said[0].startswith("step 1: name left "), said
    rows = {row["step"]: row for row in folder.rows() if "score" in row}
    card = done.prefix.card
    assert len(rows) == 6 and rows[card.steps]["score"] < rows[1]["score"]
    assert card.figures["name_left"] == rows[card.steps]["name_left"]
    assert card.names_trained == 4
    assert set(card.figures) >= {"name_left", "name_left_off"}
    assert not folder.previews.exists() or not list(folder.previews.iterdir())


class Recorded(Exception):
    """The trainer is there; nobody wants it to run."""


@contextmanager
def recorded() -> Iterator[list[Trainer]]:
    """The trainers that runs would have begun with."""
    made: list[Trainer] = []
    real = training_run.learner

    def record(*given: Any, **more: Any) -> Trainer:
        made.append(real(*given, **more))
        raise Recorded

    training_run.learner = record
    try:
        yield made
    finally:
        training_run.learner = real


def check_the_lessons_are_those_of_the_plain_learner() -> None:
    config = TrainConfig.from_mapping(lesson_digest.SETTINGS)
    people = people_in(lesson_digest.NAMES)
    job = Job(config, people, [], [], (64, 64), lesson_digest.PER_NAME, 1, 5.0)
    with recorded() as made, raises(Recorded):
        train(job, *sd15(), new_folder(WORK, "lessons"), Watcher(lambda *_: None, 16))
    digest = lesson_digest.digest(made[0])
    assert digest == (WORK / "lessons.txt").read_text(), digest


def check_prompts_of_the_users_own_are_drawn_and_learned() -> None:
    with recorded() as made, raises(Recorded):
        train(tiny(), *sd15(), new_folder(WORK, "own"), Watcher(lambda *_: None, 15))
    random = torch.Generator().manual_seed(0)
    for kind, text in (("things", "a cat"), ("people", "a woman")):
        shown = [one.text for one in made[0].source.material.pictures if one.kind == kind]
        assert shown[0] == text and len(shown) == 4, shown
        learned = [example.prompt for example in made[0].source.draw(kind, 200, random)]
        assert 60 < learned.count(text) < 180, learned


OLD = (
    "model clip vae names things people target run_name vectors behind steps rate batch "
    "micro_batch seed width height pictures_per_name picture_steps cfg preview_every prefix "
    "images texts"
)
"""The inputs of version 0.1: a saved workflow holds the values of its widgets in this order."""

WIDGETS = {
    "STRING": "names things people run_name",
    "COMBO": "target preset",
    "INT": "vectors behind steps batch micro_batch seed width height pictures_per_name "
    "picture_steps preview_every text_steps",
    "FLOAT": "rate cfg",
}


def check_inputs_are_only_appended() -> None:
    inputs = nodes_train.TrainPrefix.define_schema().inputs
    assert " ".join(one.id for one in inputs) == f"{OLD} preset text_steps"
    kinds = {name: kind for kind, names in WIDGETS.items() for name in names.split()}
    found = {one.id: one.get_io_type() for one in inputs if one.id in kinds}
    assert found == kinds, found


def node(**more: Any) -> dict[str, Any]:
    """The node's widgets as they are when it is new."""
    inputs = nodes_train.TrainPrefix.define_schema().inputs
    return {one.id: one.default for one in inputs if hasattr(one, "default")} | more


def check_the_node_learns_by_the_recipe() -> None:
    own = {"micro_batch", "save_every"}
    for key in PRESETS:
        found, wanted = nodes_train._config(node(preset=key), None), preset(key)
        names = {f.name for f in fields(wanted)}
        apart = {name for name in names if getattr(found, name) != getattr(wanted, name)}
        assert apart == own, apart
    small = nodes_train._config(node(batch=12, steps=7, rate=1.5, vectors=8, behind=3), None)
    assert small.batch == 12 and small.batch_identity > small.batch_things > 0
    said = {"steps": 7, "learning_rate": 1.5, "num_vectors": 8, "num_suffix_vectors": 3}
    kinds = {f"batch_{kind}": count for kind, count in small.counts.items()}
    given = {**said, **kinds, "max_steps": 0, "micro_batch": 2, "save_every": 10}
    assert small == replace(preset("standard"), **given)
    old = node()
    del old["preset"]  # a workflow of before has none
    assert nodes_train._config(old, None) == nodes_train._config(node(preset="standard"), None)


def check_a_rate_of_before_is_refused() -> None:
    for rate in (0.002, 0.03):
        with raises(ConfigError, "take the recipe's own"):
            nodes_train._config(node(rate=rate), None)


def check_models_that_draw_from_a_picture_are_refused() -> None:
    known = comfy.model_sampling
    kinds = [(known.ModelSamplingDiscrete, known.IMG_TO_IMG)]
    if hasattr(known, "IMG_TO_IMG_FLOW"):
        kinds.append((known.ModelSamplingFlux, known.IMG_TO_IMG_FLOW))
    for kind in kinds:
        model = sd15()[0].clone()
        model.add_object_patch("model_sampling", type("FromAPicture", kind, {})())
        with raises(HostError, "connect a text-to-image model"):
            ComfyDenoiser(model, 1)


def check_what_is_missing_is_said() -> None:
    model, clip, vae = sd15()
    watcher = Watcher(lambda *_: None, 1)
    for given, said in (
        ((model, None, vae), "no CLIP is connected"),
        ((model, clip, None), "no VAE is connected"),
        ((None, clip, vae), "set text_steps to learn on texts alone"),
    ):
        with raises(HostError, said):
            train(tiny(), *given, new_folder(WORK, "missing"), watcher)


def check_weights_without_gradients_are_told() -> None:
    clip = sd15()[1]

    def detached(_: Any, __: Any, outputs: Any) -> Any:
        return tuple(one.detach() if isinstance(one, torch.Tensor) else one for one in outputs)

    handle = clip.cond_stage_model.clip_l.transformer.register_forward_hook(detached)
    try:
        with raises(HostError, "load files with fp8, fp16 or bf16 weights"):
            folder = new_folder(WORK, "packed")
            job = tiny(steps=0, text_steps=1)
            train(job, None, clip, None, folder, Watcher(lambda *_: None, 1))
    finally:
        handle.remove()


def check_a_distilled_model_learns_at_the_levels_that_it_samples_at() -> None:
    with recorded() as made, raises(Recorded):
        job = replace(tiny(), cfg=1.0, steps=4)
        train(job, *sd15(), new_folder(WORK, "few"), Watcher(lambda *_: None, 1))
    sampling = sd15()[0].get_model_object("model_sampling")
    wanted = comfy.samplers.calculate_sigmas(sampling, "normal", 4)[:-1].flip(0)
    found = made[0].model.denoiser.schedule.alphas_cumprod
    torch.testing.assert_close(found, 1 / (1 + wanted.square()))


if __name__ == "__main__":
    checks = comfyui_setup.checks_in(sys.modules[__name__])
    with torch.inference_mode():
        some = {name: check for name, check in checks.items() if name in (WANTED or checks)}
        comfyui_setup.report(some, WORK / "said.json")
