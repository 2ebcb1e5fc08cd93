"""`apl import`: the files of a model as ComfyUI has them, made into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import arguments
from .common import Verbs, verb


def add(verbs: Verbs) -> None:
    """Add `import`."""
    made = verb(
        verbs,
        "import",
        run_import,
        "make a folder that every command takes out of a model's files: transformer, text "
        "encoders, VAE, or one file with all of them",
        "apl import z_image.safetensors --text-encoder qwen_3_4b.safetensors --vae ae.safetensors "
        "--tokenizer ComfyUI/comfy/text_encoders/qwen25_tokenizer --out z-image",
    )
    made.add_argument("network", type=Path, metavar="FILE", help="the transformer's safetensors")
    made.add_argument(
        "--text-encoder",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a text encoder's safetensors; once for each that FILE does not bring",
    )
    made.add_argument("--vae", type=Path, metavar="FILE", help="the VAE's, if FILE brings none")
    made.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="the tokenizer of the language model or T5 (ComfyUI has them in comfy/text_encoders; "
        "files of Gemma and Mistral bring it)",
    )
    made.add_argument(
        "--out", type=arguments.out_folder, metavar="DIR", required=True, help="a new folder"
    )


def run_import(given: argparse.Namespace) -> int:
    """Write the folder, and say what to do with it."""
    from apl_core.errors import ConfigError

    from ..checkpoints.detect import detect
    from ..checkpoints.import_files import Files, import_files

    if given.out.exists():
        raise ConfigError(f"write to {given.out}", "it is there already", "name a new folder")
    files = Files(given.network, given.text_encoder, given.vae, given.tokenizer)
    import_files(files, given.out, print)
    print(detect(given.out).sentence)
    print(f"learn a prefix with: apl train --model {given.out} --names FILE --out DIR")
    return 0
