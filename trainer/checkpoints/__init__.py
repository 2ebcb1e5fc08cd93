"""Real checkpoints: recognized, read offline, and put behind the core's ports."""
