"""Command line options for AUTOMATIC1111 and Forge."""

import argparse
import logging
import os


def preload(parser: argparse.ArgumentParser) -> None:
    """Add --apl-dir and --apl-enforce to the webui's options."""
    try:
        parser.add_argument(
            "--apl-dir", metavar="DIR", default=None, help="folder with APL prefix files"
        )
    except argparse.ArgumentError:
        logging.getLogger("apl").error(
            "Two copies of APL Prefix are among the extensions. Fix: remove %s or the other one.",
            os.path.dirname(os.path.abspath(__file__)),
        )
        return
    parser.add_argument(
        "--apl-enforce",
        metavar="NAME",
        default=os.environ.get("APL_ENFORCE"),
        help="anonymise every image with this prefix, whatever a request says",
    )
