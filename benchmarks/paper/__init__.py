"""The paper's five experiments as one command, on a pocket model."""
