"""Command line options for AUTOMATIC1111 and Forge."""

import argparse
import os


def preload(parser: argparse.ArgumentParser) -> None:
    """Add --apl-dir and --apl-enforce to the webui's options."""
    parser.add_argument(
        "--apl-dir", metavar="DIR", default=None, help="folder with APL prefix files"
    )
    parser.add_argument(
        "--apl-enforce",
        metavar="NAME",
        default=os.environ.get("APL_ENFORCE"),
        help="anonymise every image with this prefix, whatever a request says",
    )
