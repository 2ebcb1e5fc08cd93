"""What a prefix file may be at most; the encoders, widths and rows stand in `prefix.py`."""

FILE_BYTES = 16 * 1024 * 1024
HEADER_BYTES = 1024 * 1024
VALUE_BYTES = 64 * 1024
"""UTF-8 bytes of one metadata key or value."""

HEADER_PARTS = 32 * 1024
"""Brackets and colons in a header: enough for a checkpoint, few enough to parse at once."""

NUMBER_DIGITS = 400
"""Digits in a row in a header: Python's integers take quadratic time to read."""

DIMENSIONS = 8
"""Dimensions of a tensor."""
