"""What a prefix file may be at most; the encoders, widths and rows stand in `prefix.py`."""

FILE_BYTES = 16 * 1024 * 1024
HEADER_BYTES = 1024 * 1024
"""A header, without the long foreign values of its metadata, which are passed over."""

WHOLE_HEADER_BYTES = 8 * 1024 * 1024
"""A header with all of them: thumbnails, trainers' settings, lists of tags."""

VALUE_BYTES = 64 * 1024
"""UTF-8 bytes of one metadata key or value."""

FOREIGN_BYTES = 4 * 1024
"""A longer value of metadata that is none of ours is passed over."""

SAMPLE_BYTES = 256 * 1024
"""What is looked at of either end of a header that cannot be read, to tell what the file is."""

HEADER_PARTS = 32 * 1024
"""Brackets and colons in a header: enough for a checkpoint, few enough to parse at once."""

STRINGS = 48 * 1024
"""Quotation marks that open or close a string in a header of which values are passed over; fewer
where there are many backslashes as well, for the time that both take together."""

ESCAPES = 512 * 1024
"""Backslashes in such a header: lists of tags are JSON inside JSON."""

NUMBER_DIGITS = 400
"""Digits in a row in a header: Python's integers take quadratic time to read."""

DIMENSIONS = 8
"""Dimensions of a tensor."""
