"""Anonymity and fidelity, measured together."""
