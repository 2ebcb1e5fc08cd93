"""Our training step beside the textual inversion of other trainers, each a program of its own.

Every program runs twice on one random SD 1.5 of the published size, or on an SDXL of its widths and
fewer layers, and on the same pictures, for a few steps and for more: what the longer run needs more
of the processor is the cost of its steps, whatever a program does before and behind them. Memory is
the most that the longer run held.

Peers are looked for in a folder, each with the interpreter of its own environment:

    diffusers/examples/textual_inversion/textual_inversion.py   venv-diffusers/bin/python
    sd-scripts/train_textual_inversion.py                       venv-kohya/bin/python
    OneTrainer/scripts/train.py                                 venv-onetrainer/bin/python

kohya's script takes an SDXL of all its layers only, and is not run on this one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apl_core.atomic import write_text
from apl_core.errors import AplError
from apl_trainer.report.page import Table

from .peers_materials import Materials
from .train import Say

Command = Callable[[Materials, Path, int, int, int], Sequence[object]]
"""Arguments of a program: materials, a folder to write in, steps, batch, size."""


@dataclass(frozen=True)
class Program:
    """A trainer: its command, and its script and interpreter in the folder of peers.

    It runs in `folder`, the script's own by default. Without a script it is one of ours, in this
    environment.
    """

    title: str
    command: Command
    script: str = ""
    python: str = ""
    folder: str = ""

    def ready(self, peers: Path) -> bool:
        """Whether it lies there."""
        return not self.script or all((peers / one).exists() for one in (self.script, self.python))

    def start(self, peers: Path) -> tuple[list[str], Path]:
        """How its command line begins, and the folder that it runs in."""
        if not self.script:
            return [sys.executable], Path.cwd()
        script = peers / self.script
        folder = peers / self.folder if self.folder else script.parent
        return [str(peers / self.python), str(script)], folder


def _apl_train(given: Materials, out: Path, steps: int, size: int) -> Sequence[object]:
    return (
        *("-m", "apl_trainer", "train", "--model", given.model, "--data", given.dataset),
        *("--out", out / "run", "--steps", steps, "--size", size),
        *("--device", "cpu", "--validate-every=0"),
    )


def _ours(given: Materials, out: Path, steps: int, batch: int, size: int) -> Sequence[object]:
    kinds = {"identity": max(batch // 3, 1), "things": batch // 3}
    kinds["people"] = batch - sum(kinds.values())
    sized = [f"--batch-{kind}={count}" for kind, count in kinds.items()]
    kept = f"--target-cache={4 * batch}"  # before the first step, in both runs
    return *_apl_train(given, out, steps, size), *sized, kept


def _paper(given: Materials, out: Path, steps: int, batch: int, size: int) -> Sequence[object]:
    return *_apl_train(given, out, steps, size), "--recipe", "paper"


def _diffusers(given: Materials, out: Path, steps: int, batch: int, size: int) -> Sequence[object]:
    return (
        *("--pretrained_model_name_or_path", given.model, "--train_data_dir", given.pictures),
        *("--placeholder_token", "[apl]", "--initializer_token", "person"),
        *("--resolution", size, "--train_batch_size", batch, "--max_train_steps", steps),
        *("--output_dir", out, "--logging_dir", "logs", "--lr_warmup_steps", 0),
    )


def _kohya(given: Materials, out: Path, steps: int, batch: int, size: int) -> Sequence[object]:
    return (
        *("--pretrained_model_name_or_path", given.model, "--train_data_dir", given.kohya),
        *("--tokenizer_cache_dir", given.tokenizers, "--output_dir", out, "--output_name", "x"),
        *("--resolution", f"{size},{size}", "--train_batch_size", batch),
        *("--max_train_steps", steps, "--token_string", "apl", "--init_word", "person"),
        *("--use_object_template", "--cache_latents", "--sdpa", "--mixed_precision", "no"),
        *("--max_data_loader_n_workers", 0, "--save_model_as", "safetensors"),
    )


def _onetrainer(given: Materials, out: Path, steps: int, batch: int, size: int) -> Sequence[object]:
    write_text(out / "prompts.txt", "a photo of <apl>\n")
    write_text(out / "samples.json", "[]")
    whole, off = {"weight_dtype": "FLOAT_32"}, {"train": False, "gradient_checkpointing": False}
    words = {"prompt_source": "concept", "prompt_path": str(out / "prompts.txt")}
    concept = {"name": "apl", "path": str(given.pictures), "text": words}
    # as many samples an epoch as a batch has: an epoch is a step
    concept |= {"balancing": batch, "balancing_strategy": "SAMPLES"}
    settings = {
        "training_method": "EMBEDDING",
        "model_type": _MODEL_TYPES[given.family],
        "base_model_name": str(given.model),
        "output_model_destination": str(out / "embedding.safetensors"),
        "workspace_dir": str(out / "workspace"),
        "cache_dir": str(out / "cache"),
        "concepts": [concept],
        "epochs": steps,
        "batch_size": batch,
        "resolution": str(size),
        "train_device": "cpu",
        "dataloader_threads": 1,
        "train_dtype": "FLOAT_32",
        "aspect_ratio_bucketing": False,
        "learning_rate": 0.0003,
        "learning_rate_warmup_steps": 0,
        "tensorboard": False,
        "offline_mode": True,
        "sample_after_unit": "NEVER",
        "sample_definition_file_name": str(out / "samples.json"),
        "backup_after_unit": "NEVER",
        "unet": whole | off,
        "text_encoder": whole | off,
        "text_encoder_2": whole | off,
        "vae": whole,
        "embedding": {"placeholder": "<apl>", "initial_embedding_text": "person"},
    }
    file = out / "settings.json"
    write_text(file, json.dumps(settings))
    return "--preset-path", file, "--config-path", file  # of a preset's, nothing is migrated


_MODEL_TYPES = {"sd15": "STABLE_DIFFUSION_15", "sdxl": "STABLE_DIFFUSION_XL_10_BASE"}
_DIFFUSERS = "diffusers/examples/textual_inversion/textual_inversion"

PROGRAMS: Mapping[str, Program] = {
    "ours": Program("ours", _ours),
    "paper": Program("the paper's step", _paper),
    "diffusers": Program(
        "diffusers' example", _diffusers, f"{_DIFFUSERS}.py", "venv-diffusers/bin/python"
    ),
    "kohya": Program(
        "kohya's sd-scripts",
        _kohya,
        "sd-scripts/train_textual_inversion.py",
        "venv-kohya/bin/python",
    ),
    "onetrainer": Program(
        "OneTrainer",
        _onetrainer,
        "OneTrainer/scripts/train.py",
        "venv-onetrainer/bin/python",
        "OneTrainer",
    ),
}
"""All that are compared, ours first."""

PROGRAMS_XL: Mapping[str, Program] = {
    **{name: one for name, one in PROGRAMS.items() if name != "kohya"},
    "diffusers": replace(PROGRAMS["diffusers"], script=f"{_DIFFUSERS}_sdxl.py"),
}
"""The same on SDXL."""

FAMILIES = {"sd15": PROGRAMS, "sdxl": PROGRAMS_XL}


@dataclass(frozen=True)
class Spent:
    """What a program took: seconds of the processor and GiB at most."""

    seconds: float
    gib: float


def spend(program: Program, peers: Path, given: Materials, run: tuple[int, int, int]) -> Spent:
    """Run a program for (steps, batch, size); AplError with the end of what it said."""
    steps, batch, size = run
    start, root = program.start(peers)
    with tempfile.TemporaryDirectory(prefix="apl-peers-") as folder:
        out = Path(folder)
        words = [str(word) for word in program.command(given, out, steps, batch, size)]
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(root),
        }
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        command = [sys.executable, "-c", _WATCH, str(out / "usage.json"), *start, *words]
        with (out / "said.txt").open("w+", encoding="utf-8") as said:
            done = subprocess.run(
                command, stdout=said, stderr=subprocess.STDOUT, env=env, cwd=root, check=False
            )
            said.seek(0)
            if done.returncode != 0:
                raise AplError(
                    f"run {program.title} for {steps} steps",
                    f"it ended with {done.returncode}: {said.read()[-1500:]}",
                    "see what it said; docs/training.md names the versions that were tried",
                )
        seconds, kib = json.loads((out / "usage.json").read_text(encoding="utf-8"))
    return Spent(seconds, kib / 2**20)


_WATCH = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss], file)
sys.exit(done.returncode)
"""
"""A small process that starts a program: what one holds counts from what its parent held on."""


def run(
    out: Path,
    peers: Path,
    size: int,
    batch: int,
    steps: Sequence[int],
    say: Say,
    family: str = "sd15",
) -> dict[str, dict[str, float]]:
    """Measure all that lie in `peers`; writes figures.json into `out` and says a table."""
    out.mkdir(parents=True, exist_ok=True)
    few, many = steps
    given = Materials.made(out / "materials", size, family)
    found: dict[str, dict[str, float]] = {}
    for name, program in FAMILIES[family].items():
        if not program.ready(peers):
            say(f"{program.title}: not in {peers}")
            continue
        samples = 1 if name == "paper" else batch
        short, long = (spend(program, peers, given, (n, batch, size)) for n in (few, many))
        seconds = (long.seconds - short.seconds) / ((many - few) * samples)
        found[name] = {"seconds_per_sample": seconds, "peak_gib": long.gib, "batch": samples}
        say(f"{program.title}: {seconds:.2f} s a sample, {long.gib:.1f} GiB")
        write_text(out / "figures.json", json.dumps(found, indent=1) + "\n")
    say(table(found, size, family).text())
    shutil.rmtree(out / "materials")
    return found


def table(found: Mapping[str, Mapping[str, float]], size: int, family: str = "sd15") -> Table:
    """A line for each program; ratios are to our step with kept predictions."""
    base = found["ours"]["seconds_per_sample"]
    rows = [
        [
            PROGRAMS[name].title,
            f"{one['batch']:.0f}",
            f"{one['seconds_per_sample']:.2f}",
            f"{one['seconds_per_sample'] / base:.2f}",
            f"{one['peak_gib']:.1f}",
        ]
        for name, one in found.items()
    ]
    model = {"sd15": "Random SD 1.5", "sdxl": "Random SDXL of fewer layers"}[family]
    about = f"{model}, {size} x {size}, fp32, one thread: processor seconds a sample."
    columns = ("program", "batch", "seconds", "of ours", "GiB at most")
    return Table("A training step and its peers", about, columns, rows)
