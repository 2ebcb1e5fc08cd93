"""`python -m apl_trainer` is `apl`, also under torchrun."""

from .cli import script

if __name__ == "__main__":
    script()
