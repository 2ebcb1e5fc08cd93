"""Learning a prefix on the checkpoint that A1111 has loaded; imported when a run starts."""
