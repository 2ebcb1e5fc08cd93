"""What the conditions of a measurement are called, for tables and pages; imports nothing."""

CONDITION_TITLES = {
    "none": "no prefix",
    "prefix": "learned prefix",
    "random": "random prefix",
    "description": "description instead of name",
    "negative": "name in the negative prompt",
    "floor": "“a person” instead of name",
}
"""The conditions by name."""

FIGURE_TITLES = {
    "base" if name == "none" else name: title for name, title in CONDITION_TITLES.items()
}
"""The same as figures call them."""

RESEEDED = "another seed"
"""No prefix, but other noise: how much a seed alone changes."""
