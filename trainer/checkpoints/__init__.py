"""Real checkpoints: recognised, read offline, and put behind the core's ports."""
