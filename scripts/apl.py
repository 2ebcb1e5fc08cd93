"""Entry point for AUTOMATIC1111 and Forge: the script "APL" in txt2img and img2img."""

import os
import sys
from pathlib import Path

import modules.scripts as webui_scripts
from modules.shared import cmd_opts

import apl_hosting

ROOT = Path(__file__).resolve().parent.parent

try:
    apl_hosting.load(ROOT / "apl_core", "apl_core")
    apl_hosting.load(ROOT / "a1111_extension", "apl_a1111")
    from apl_a1111 import generation, panel, register

    HOST = register.start()
except Exception as error:
    enforced = getattr(cmd_opts, "apl_enforce", None) or os.environ.get("APL_ENFORCE")
    if enforced:  # the webui would go on and draw bare images
        sys.exit(f"The prefix {enforced!r} is enforced and APL Prefix cannot start: {error}")
    raise


class AnonymizeFaces(webui_scripts.Script):
    """The accordion and the start of every request; the work is done in `apl_a1111`."""

    def title(self):
        return generation.TITLE

    def show(self, is_img2img):
        return webui_scripts.AlwaysVisible

    def ui(self, is_img2img):
        return panel.build(self, HOST)

    def process(self, p, *args):
        generation.begin(HOST, p, *args)

    def postprocess_image(self, p, pp, *args):
        generation.count(HOST, p)
