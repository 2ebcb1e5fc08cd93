"""Command line options for AUTOMATIC1111 and Forge."""

import argparse
import json
import logging
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BUILTIN = "extensions-builtin"


def preload(parser: argparse.ArgumentParser) -> None:
    """Add --apl-dir and --apl-enforce to the webui's options; SystemExit if that cannot hold."""
    try:
        parser.add_argument(
            "--apl-dir", metavar="DIR", default=None, help="folder with APL prefix files"
        )
    except argparse.ArgumentError:
        logging.getLogger("apl").error(
            "Two copies of APL Prefix are among the extensions. Fix: remove %s or the other one.",
            HERE,
        )
        return
    parser.add_argument(
        "--apl-enforce",
        metavar="NAME",
        default=os.environ.get("APL_ENFORCE"),
        help="anonymize every image with this prefix, whatever a request says",
    )
    options, _ = parser.parse_known_args()
    name = options.apl_enforce or os.environ.get("APL_ENFORCE")
    if name and (reason := _switched_off(options)):
        raise SystemExit(
            f"The prefix {name!r} is enforced and APL Prefix is switched off by {reason}. "
            "Fix: switch it on, or start without enforcing."
        )
    if name and not _builtin() and not any(one.startswith("--apl-enforce") for one in sys.argv):
        logging.getLogger("apl").warning(
            "APL_ENFORCE alone does not keep a later start without APL Prefix from drawing bare. "
            "Fix: start with --apl-enforce %s.",
            name,
        )


def _builtin() -> bool:
    """Whether this clone lies where the webui preloads everything, whatever is switched off."""
    return os.path.basename(os.path.dirname(HERE)) == BUILTIN


def _switched_off(options: argparse.Namespace) -> str:
    """What keeps the webui from loading this clone, which it may preload all the same."""
    try:
        with open(options.ui_settings_file, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError, AttributeError):
        settings = {}
    ours = {"all"} if _builtin() else {"all", "extra"}
    for which in ours:
        if getattr(options, f"disable_{which}_extensions", False):
            return f"--disable-{which}-extensions"
    if settings.get("disable_all_extensions") in ours:
        return "the setting disable_all_extensions"
    if os.path.basename(HERE) in settings.get("disabled_extensions", []):
        return "the setting disabled_extensions"
    return ""
