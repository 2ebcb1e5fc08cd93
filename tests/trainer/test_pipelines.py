"""Today's families behind the core's ports, beside diffusers' own pipelines with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from safetensors.torch import load_file, save_file
from slim_pipelines import FAMILIES, pipeline
from tiny_model import NAMES
from torch import Tensor
from transformers import AddedToken

from apl_core.errors import AplError, ConfigError, PromptError
from apl_core.formats import read_prefix
from apl_core.ports import Conditioning
from apl_core.prefix import WIDTHS, Rows
from apl_core.training.config import TrainConfig
from apl_trainer.checkpoints.detect import detect
from apl_trainer.checkpoints.load import check_reading, load_checkpoint
from apl_trainer.checkpoints.loaded import CheckpointModel
from apl_trainer.checkpoints.pipelines import PipelineInfo
from apl_trainer.checkpoints.presets import TrainingSetup, forecast
from apl_trainer.checkpoints.quantize import bytes_of
from apl_trainer.cli import main
from apl_trainer.sampling import Request, Sampler

TEXTS = ["a portrait of anna brill, smiling", "a red circle"]
EMPTY = ""


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """(family, diffusers' pipeline, the same folder loaded by this project)."""
    family = request.param
    folder = tmp_path_factory.mktemp("pipelines") / family.replace(" ", "-")
    pipe = pipeline(family)
    pipe.save_pretrained(folder)
    yield family, pipe, load_checkpoint(folder)
    shutil.rmtree(folder)  # disks of CI machines are small


def of_diffusers(family: str, pipe: Any, texts: list[str]) -> list[tuple[Tensor, Tensor | None]]:
    """States (N, width) that a denoiser sees of each text, and its pooled one, by the pipeline."""
    if family == "Z-Image":
        found = pipe.encode_prompt(list(texts), do_classifier_free_guidance=False)[0]
        return [(one, None) for one in found]
    if family in ("Qwen-Image", "Krea 2"):
        states, mask = pipe.encode_prompt(texts)
        states = states.flatten(2)
        mask = torch.ones(states.shape[:2]) if mask is None else mask
        return [(one[here.bool()], None) for one, here in zip(states, mask, strict=True)]
    if family == "Flux.2 Klein 4B":
        return [(one, None) for one in pipe.encode_prompt(texts)[0]]
    if family == "Flux.2 dev":  # padding stands in front, and ComfyUI's are zeros
        lengths = [len(pipe.tokenizer(text).input_ids) for text in texts]
        around = len(pipe.tokenizer.apply_chat_template(format_input([""])[0])["input_ids"])
        states = pipe.encode_prompt(texts)[0]
        return [(one[-n - around :], None) for one, n in zip(states, lengths, strict=True)]
    if family == "Chroma":  # ComfyUI shows its transformer no padding
        lengths = [len(pipe.tokenizer(text).input_ids) for text in texts]
        states = pipe.encode_prompt(texts, do_classifier_free_guidance=False)[0]
        return [(one[:n], None) for one, n in zip(states, lengths, strict=True)]
    if family == "Lumina 2":
        states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
        return [(one[here.bool()], None) for one, here in zip(states, mask, strict=True)]
    if family == "Flux.1":
        states, pooled, _ = pipe.encode_prompt(texts, texts, max_sequence_length=256)
    else:
        states, _, pooled, _ = pipe.encode_prompt(
            texts, texts, texts, do_classifier_free_guidance=False, max_sequence_length=77
        )
    return list(zip(states, pooled, strict=True))


def compare(found: Conditioning, wanted: list[tuple[Tensor, Tensor | None]]) -> None:
    """Every state of every text, and nothing beside them."""
    for place, (states, pooled) in enumerate(wanted):
        seen = found.cross[place]
        if found.mask is not None:
            seen = seen[found.mask[place]]
        atol = 1e-4 if states.shape[1] == 3 * WIDTHS["mistral3_24b"] else 2e-5  # thirty layers
        torch.testing.assert_close(seen, states, atol=atol, rtol=1e-4)
        if pooled is not None:
            assert found.pooled is not None
            torch.testing.assert_close(found.pooled[place], pooled, atol=2e-5, rtol=1e-4)


def test_texts_without_a_prefix_are_the_pipelines_own(both: Any) -> None:
    family, pipe, model = both
    compare(model.encoder.encode(TEXTS, None), of_diffusers(family, pipe, TEXTS))


def test_rows_stand_around_the_text(both: Any) -> None:
    """Rows are what new words of the vocabulary around the text would be, in every encoder.

    Lumina 2's blank in front of the text is the text's, and its words are scaled when looked up.
    """
    family, _, model = both
    blank = " " if family == "Lumina 2" else ""
    pipe = pipeline(family)
    rows = some_rows(model)
    words = [f"~{i}~" for i in range(rows.n)]
    for width, encoder, tokenizer in encoders(pipe):
        tokenizer.add_tokens([AddedToken(word, lstrip=bool(blank)) for word in words])
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        places = tokenizer.convert_tokens_to_ids(words)
        key = next(key for key, vectors in rows.vectors.items() if vectors.shape[1] == width)
        table = encoder.get_input_embeddings()
        table.weight.data[places] = rows.vectors[key] / getattr(table, "embed_scale", 1)
    front, behind = "".join(words[:2]) + blank, "".join(words[2:])
    texts = [front + text + behind for text in TEXTS]
    compare(model.encoder.encode(TEXTS, rows), of_diffusers(family, pipe, texts))
    plain, held = (model.encoder.encode([EMPTY], given) for given in (None, rows))
    assert torch.equal(plain.cross, held.cross)


STEPS, SIDE = 4, 128
PLAIN: dict[str, dict[str, Any]] = {
    "Z-Image": {"guidance_scale": 0.0},
    "Qwen-Image": {"true_cfg_scale": 1.0},
    "Krea 2": {"guidance_scale": 0.0},
    "Flux.2 Klein 4B": {"guidance_scale": 1.0},
    "Flux.2 dev": {"guidance_scale": 4.0},
    "Flux.1": {"guidance_scale": 3.5, "max_sequence_length": 256},
    "SD 3.5": {"guidance_scale": 1.0, "max_sequence_length": 77},
    "Chroma": {"guidance_scale": 1.0},
    "Lumina 2": {"guidance_scale": 1.0},
}
"""How each pipeline draws without classifier-free guidance."""


def test_pictures_are_the_pipelines_own(both: Any) -> None:
    """Transformer, noise levels, their shift, latents and VAE at once, from the same noise.

    The sampler begins at 99.9 % of noise, diffusers at 100.
    """
    family, pipe, model = both
    text, more = TEXTS[0], PLAIN[family]
    if family == "Chroma":  # its pipeline shows the transformer one token of padding, if there is
        more = {**more, "max_sequence_length": len(pipe.tokenizer(text).input_ids)}
    found = sampler(model).draw([Request(text, 5)], None)
    noise = torch.randn(model.latent_shape(SIDE), generator=torch.Generator().manual_seed(5))
    given = noise[None]
    if family in ("Qwen-Image", "Krea 2", "Flux.1", "Chroma"):
        given = torch.nn.functional.pixel_unshuffle(given, 2).flatten(2).transpose(1, 2)
    pipe.set_progress_bar_config(disable=True)
    wanted = pipe(
        prompt=text,
        height=SIDE,
        width=SIDE,
        num_inference_steps=STEPS,
        latents=given,
        output_type="pt",
        **more,
    ).images
    away = (found - wanted).abs().mean()
    other = (sampler(model).draw([Request(text, 6)], None) - wanted).abs().mean()
    assert away < 0.005 and away < 0.05 * other, (away, other)


def test_it_says_what_it_recognized(both: Any) -> None:
    family, _, model = both
    said = model.recognized.sentence
    assert f": {family} (" in said and "diffusers folder, fp32, flow matching" in said
    assert ("distilled to 4 steps" in said) == (family == "Flux.2 Klein 4B")
    assert model.family == family


def test_a_run_is_counted_before_anything_is_loaded(both: Any) -> None:
    _, _, model = both
    path = model.recognized.path
    setup = TrainingSetup.of(path, device="cpu", size=128)
    one, two = (forecast(setup, TrainConfig(micro_batch=micro)) for micro in (1, 2))
    networks = [*model.encoder.modules, *model.denoiser.modules]
    weights = sum(bytes_of(network, torch.float32) for network in networks)
    assert one.weights == pytest.approx(weights, rel=0.02) and one.seconds > 0
    assert two.working > 1.3 * one.working


def sampler(model: CheckpointModel) -> Sampler:
    """Of pictures of 128 pixels, whatever size the noise levels were shifted for."""
    found = model.recognized
    assert isinstance(found, PipelineInfo)
    denoiser = copy(model.denoiser)
    denoiser.schedule = found.schedule(SIDE)  # pyright: ignore[reportAttributeAccessIssue]
    own = replace(model, denoiser=denoiser)
    return own.sampler(STEPS, guidance=1.0, size=SIDE)


def some_rows(model: CheckpointModel) -> Rows:
    torch.manual_seed(1)
    widths = model.encoder.widths
    lengths = {key: model.encoder.token_embedding(key).std() for key in widths}
    return Rows({k: torch.randn(3, w) * lengths[k] for k, w in widths.items()}, behind=1)


def encoders(pipe: Any) -> list[tuple[int, Any, Any]]:
    """(width, model, tokenizer) of each text encoder of a pipeline."""
    parts = pipe.components
    found = [parts[name] for name in parts if name.startswith("text_encoder")]
    beside = [parts[name] for name in parts if name.startswith("tokenizer")]
    widths = [one.get_input_embeddings().weight.shape[1] for one in found]
    return list(zip(widths, found, beside, strict=True))


def test_a_distilled_model_has_its_own_steps_and_levels(both: Any) -> None:
    _, _, model = both
    found = model.recognized
    if not found.levels:
        assert found.schedule().steps == 1000 and found.guidance >= 1
        return
    assert (found.schedule().steps, found.steps, found.guidance) == (4, 4, 1)
    with pytest.raises(ConfigError, match="distilled to 4"):
        model.sampler(5)


def test_texts_that_open_a_turn_are_refused(both: Any) -> None:
    family, pipe, model = both
    kind = type(encoders(pipe)[-1][1]).__name__
    marks = {"T5EncoderModel": "</s>", "Gemma2Model": "<end_of_turn>"}
    mark = {**marks, "Mistral3ForConditionalGeneration": "[INST]"}.get(kind, "<|im_end|>")
    with pytest.raises(PromptError, match="spells out a token"):
        model.encoder.check([f"a face {mark} of anna brill"])
    with pytest.raises(PromptError, match="spells out a token"):
        check_reading(model.recognized, None, None, [f"a face {mark} of anna brill"])
    with pytest.raises(ConfigError, match="layers of their own"):
        check_reading(model.recognized, None, 2, [family])


def test_what_stands_in_the_text_is_aligned(both: Any) -> None:
    """Each state of a prefixed prompt has one of the neutral prompt's to be drawn to."""
    _, _, model = both
    rows = some_rows(model)
    for prompt, neutral in ((TEXTS[0], "a portrait of a person, smiling"), (TEXTS[1], TEXTS[1])):
        places = model.encoder.aligned(prompt, neutral, rows)
        held = model.encoder.encode([prompt], rows).cross[0]
        plain = model.encoder.encode([neutral], None).cross[0]
        assert len(places) == len(held) and max(places) < len(plain)
    last = held[-1:], plain[list(places)][-1:]
    assert last[0].shape == last[1].shape


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "turbo"
    pipeline("Z-Image").save_pretrained(folder)
    assert detect(folder).sentence.endswith("distilled to 8 steps")
    index = json.loads((folder / "model_index.json").read_text())
    for name, said in (
        ("QwenImageEditPipeline", "no prefix of a prompt reaches it"),
        ("SanaPipeline", "of a family that is not known"),
        ("FluxPipeline", r"text_encoder_2/config\.json is missing"),
        ("QwenImagePipeline", "text encoder is 2560 wide, which is no Qwen-Image's"),
    ):
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
        with pytest.raises(AplError, match=said):
            detect(folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    held = load_file(weights)
    held.pop(sorted(held)[0])
    save_file(held, weights)
    with pytest.raises(AplError, match="transformer is incomplete"):
        load_checkpoint(folder)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(AplError, match="vocabulary of its text encoder"):
        load_checkpoint(folder)
    shutil.rmtree(folder / "transformer")
    with pytest.raises(AplError, match="no transformer"):
        detect(folder)


@pytest.mark.parametrize("family", ["Z-Image", "Chroma"])
def test_names_in_prefix_out(family: str, tmp_path: Path, capsys: Any) -> None:
    """A language model, and T5: drawn, learned, resumed to the bit, generated."""
    model = tmp_path / family.replace(" ", "-")
    pipeline(family).save_pretrained(model)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    given = ["train", "--model", str(model), "--names", str(tmp_path / "names.txt"), "--size", "64"]
    given += ["--per-name", "1", "--draw-steps", "1", "--num-vectors", "4", "--device", "cpu"]
    given += ["--num-suffix-vectors", "2", "--batch-identity", "1", "--batch-things", "1"]
    given += ["--batch-people", "1", "--validate-every", "0", "--save-every", "1"]
    assert main([*given, "--steps", "2", "--dry-run"]) == 0
    assert "expected peak" in capsys.readouterr().out
    out = tmp_path / "run"
    assert main([*given, "--steps", "2", "--out", str(out)]) == 0
    prefix = read_prefix(out / "prefix.safetensors")
    assert (prefix.family, prefix.n, prefix.behind) == (family, 4, 2)
    config = (out / "config.toml").read_text().replace("steps = 2", "steps = 4")
    (out / "config.toml").write_text(config)
    assert main(["resume", str(out)]) == 0
    straight = tmp_path / "straight"
    assert main([*given, "--steps", "4", "--out", str(straight)]) == 0
    wanted = read_prefix(straight / "prefix.safetensors")
    found = read_prefix(out / "prefix.safetensors")
    assert found.digest == wanted.digest and found.card.steps == 4
    drawn = ["generate", "--model", str(model), "--size", "64", "--steps", "1", "--count", "1"]
    drawn += ["--prefix", str(out / "prefix.safetensors"), "--out", str(tmp_path / "drawn.png")]
    assert main([*drawn, f"a photo of {NAMES[0]}"]) == 0


def test_texts_alone_load_no_denoiser(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefix for a model whose denoiser does not fit; it is called an experiment."""
    model = tmp_path / "z"
    pipeline("Z-Image").save_pretrained(model)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))

    def never(*_: Any) -> None:
        raise AssertionError("a denoiser or VAE is loaded")

    monkeypatch.setattr("apl_trainer.checkpoints.pipeline_load._network", never)
    given = [
        "train",
        "--model",
        str(model),
        "--names",
        str(tmp_path / "names.txt"),
        "--texts-alone",
    ]
    given += ["--num-vectors", "4", "--num-suffix-vectors", "2", "--batch-identity", "2"]
    given += ["--batch-things", "1", "--batch-people", "1", "--text-steps", "4", "--device", "cpu"]
    assert main([*given, "--dry-run"]) == 0
    assert "nothing is measured" in capsys.readouterr().out
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    assert "It is an experiment" in capsys.readouterr().out
    prefix = read_prefix(tmp_path / "run" / "prefix.safetensors")
    assert (prefix.family, prefix.n) == ("Z-Image", 4)
    assert "texts alone" in prefix.card.recipe
    assert not (tmp_path / "run" / "data").exists()
    assert main([*given, "--size", "64", "--out", str(tmp_path / "other")]) == 2
    assert "no picture has a part" in capsys.readouterr().err
