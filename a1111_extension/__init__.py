"""APL Prefix in AUTOMATIC1111 and Forge; loaded as `apl_a1111` by scripts/apl.py."""
