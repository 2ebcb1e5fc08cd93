"""Nothing to install: AUTOMATIC1111 and Forge bring torch and safetensors themselves."""

import importlib.util

for package in ("torch", "safetensors"):
    if importlib.util.find_spec(package) is None:
        raise SystemExit(
            f"APL Prefix needs {package}, which this webui should have. Fix: reinstall it."
        )
