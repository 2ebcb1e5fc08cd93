"""Load the A1111 package as the webui does."""

from pathlib import Path

import apl_hosting

apl_hosting.load(Path(__file__).parents[2] / "a1111_extension", "apl_a1111")
