"""Words that settings, files and the objective share; importing them does not bring torch."""

from __future__ import annotations

from typing import Literal

Kind = Literal["identity", "things", "people"]
KINDS: tuple[Kind, ...] = ("identity", "things", "people")
"""Kinds of examples: prompts that name somebody, name-free scenes, name-free people."""

Target = Literal["description", "person", "empty"]
"""What a name prompt is drawn to: its neutral description, "a person", or the empty prompt."""

PERSON = "a person"
"""What stands for a name whose bearer nothing describes."""

Weighting = Literal["eps", "x0"]
"""Whether errors are measured on the noise (as the paper does) or on the clean latent."""
