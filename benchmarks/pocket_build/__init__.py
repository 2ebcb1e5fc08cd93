"""Builds pocket worlds: the networks, what they learn from, and the card of what they draw."""
