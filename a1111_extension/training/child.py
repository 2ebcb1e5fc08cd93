"""The process that learns on a copy of a checkpoint: `python child.py RUNFOLDER`.

It runs the trainer of this clone with the webui's Python, where the trainer is not installed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Do the run that was ordered in a folder."""
    sys.path[0] = str(ROOT)  # it was this file's folder, whose modules have names of others
    import apl_hosting

    del sys.path[0]
    for folder, name in (("apl_core", "apl_core"), ("trainer", "apl_trainer")):
        apl_hosting.load(ROOT / folder, name)
    from apl_trainer.ui import worker_main

    return worker_main.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
