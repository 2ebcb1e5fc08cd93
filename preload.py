"""Command line options for AUTOMATIC1111 and Forge."""

import argparse
import json
import logging
import os

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
        help="anonymise every image with this prefix, whatever a request says",
    )
    options, _ = parser.parse_known_args()
    if options.apl_enforce and (reason := _switched_off(options)):
        raise SystemExit(
            f"The prefix {options.apl_enforce!r} is enforced and APL Prefix is switched off by "
            f"{reason}. Fix: switch it on, or start without enforcing."
        )


def _switched_off(options: argparse.Namespace) -> str:
    """What keeps the webui from loading this clone, which it may preload all the same."""
    try:
        with open(options.ui_settings_file, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError, AttributeError):
        settings = {}
    ours = {"all"} if os.path.basename(os.path.dirname(HERE)) == BUILTIN else {"all", "extra"}
    for which in ours:
        if getattr(options, f"disable_{which}_extensions", False):
            return f"--disable-{which}-extensions"
    if settings.get("disable_all_extensions") in ours:
        return "the setting disable_all_extensions"
    if os.path.basename(HERE) in settings.get("disabled_extensions", []):
        return "the setting disabled_extensions"
    return ""
