"""The ComfyUI that a probe's arguments name (HOST MODELS WORK), started by the import."""

from __future__ import annotations

import sys
from pathlib import Path

import comfyui_setup

HOST, MODELS, WORK = (Path(argument) for argument in sys.argv[1:4])
comfyui_setup.start(HOST, MODELS)
