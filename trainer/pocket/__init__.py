"""The pocket model: an embedded text-to-image world in which identity can be measured."""

from pathlib import Path

BUILT_IN = Path(__file__).parent / "weights"
"""Folder of the pocket model that the repository carries."""
