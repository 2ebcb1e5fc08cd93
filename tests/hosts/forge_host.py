"""A real Forge, reForge or Forge Neo, on the CPU: what is different from starting an A1111."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import a1111_host
import host_server
from a1111_host import Webui

WRITER = Path(__file__).with_name("forge_checkpoint.py")
THIN = Path(__file__).with_name("neo_thin.py")
MODULES = {"text_encoder": "qwen3_4b.safetensors", "VAE": "ae.safetensors"}
"""Files of a Z-Image beside its transformer, by their folder in Neo."""

TOO_MUCH = ["forge_legacy_preprocessors", "sd_forge_controlnet"]
"""Built-in extensions that have nothing to do with us and want packages from the network."""


def installed() -> Path | None:
    """Forge with a virtual environment of its own, if there is one."""
    return a1111_host.installed("forge")


def models(name: str, host: Path, file: str = "random.safetensors") -> Path:
    """A folder with the random checkpoint and the vocabulary, written by the host of that name."""
    env = a1111_host.environment(host)
    return host_server.written(name, WRITER, host, env, file, file)


def sdxl(name: str, host: Path) -> Path:
    """A random checkpoint of SDXL, written by the host of that name."""
    file = "sdxl.safetensors"
    return models(name, host, file) / file


@dataclass
class Forge(Webui):
    """One running Forge; leave it as a context manager to stop the process."""

    name: ClassVar[str] = "Forge"
    options: ClassVar[Sequence[str]] = (
        *("--skip-torch-cuda-test", "--always-cpu", "--skip-version-check"),
        *("--no-hashing", "--no-download-sd-model", "--api"),
    )

    pasting: ClassVar[dict[str, Any]] = {"styles": []}  # its API fails on every infotext without

    def __enter__(self) -> Forge:
        self.data.mkdir(parents=True, exist_ok=True)
        if "--gradio-allowed-path" not in self.arguments:
            # with a data folder elsewhere Forge does not let its page load its own scripts
            self.arguments = ("--gradio-allowed-path", str(self.source), *self.arguments)
        settings = self.data / "config.json"
        if not settings.exists():
            settings.write_text(json.dumps({"disabled_extensions": TOO_MUCH, **self.settings()}))
        super().__enter__()
        return self

    def settings(self) -> dict[str, Any]:
        """Its settings at the first start."""
        return {}

    def random(self) -> Path:
        """The folder with the random checkpoint."""
        return models(self.name.lower(), self.source)


@dataclass
class ReForge(Webui):
    """One running reForge: A1111's page and text side over ComfyUI's networks."""

    name: ClassVar[str] = "reForge"
    options: ClassVar[Sequence[str]] = (
        *("--skip-torch-cuda-test", "--always-cpu", "--skip-version-check", "--no-hashing"),
        *("--skip-prepare-environment", "--no-download-sd-model", "--api"),
    )

    def __enter__(self) -> ReForge:
        self.data.mkdir(parents=True, exist_ok=True)
        settings = self.data / "config.json"
        if not settings.exists():  # its own way to show latents asks the network for a file
            settings.write_text(json.dumps({"show_progress_type": self.quick_preview}))
        super().__enter__()
        return self

    def random(self) -> Path:
        """The folder with the random checkpoint."""
        return models("reforge", self.source)


@dataclass
class Neo(Forge):
    """One running Forge Neo."""

    name: ClassVar[str] = "Neo"
    options: ClassVar[Sequence[str]] = (
        *("--skip-torch-cuda-test", "--cpu", "--skip-version-check"),
        *("--skip-prepare-environment", "--no-hashing", "--api"),
    )
    quick_preview: ClassVar[str] = "RGB"

    def settings(self) -> dict[str, Any]:
        """It has no --ckpt; the version of the settings; the clip skip that others begin with."""
        source = (self.source / "modules" / "launch_utils.py").read_text()
        version = re.search(r'VERSION_UID.*= "(.*)"', source)
        assert version
        return {
            "sd_model_checkpoint": "first.safetensors",
            "VERSION_UID": version[1],
            "CLIP_stop_at_last_layers": 1,
        }

    def choosing(self, checkpoint: Path) -> list[str]:
        return []


@dataclass
class ZImage(Neo):
    """Neo whose checkpoints are a thin Z-Image; "with_clip" is one of SD 1.x."""

    beside: ClassVar[Sequence[Path]] = (THIN,)

    def __enter__(self) -> ZImage:
        checkpoints = self.data / "models" / "Stable-diffusion"
        checkpoints.mkdir(parents=True, exist_ok=True)
        file = models("neo", self.source) / "random.safetensors"
        (checkpoints / "with_clip.safetensors").symlink_to(file)
        for folder, name in MODULES.items():
            (self.data / "models" / folder).mkdir(parents=True, exist_ok=True)
            (self.data / "models" / folder / name).symlink_to(self.random() / name)
        super().__enter__()
        return self

    def settings(self) -> dict[str, Any]:
        """Text encoder and VAE are files of their own."""
        files = [str(self.data / "models" / folder / name) for folder, name in MODULES.items()]
        return {**super().settings(), "forge_additional_modules": sorted(files)}

    def random(self) -> Path:
        """The folder with transformer, text encoder and VAE."""
        env = a1111_host.environment(self.source)
        file = "random.safetensors"
        return host_server.written("neo", THIN, self.source, env, file, file)
