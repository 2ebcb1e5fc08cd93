"""Errors of the project: every one says what was asked, what was found and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class AplError(Exception):
    """A failure that a user can act on; `str()` gives it as one readable paragraph."""

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(asked, found, fix)
        self.asked = asked
        self.found = found
        self.fix = fix

    def __str__(self) -> str:
        return f"{_bare(self.asked)}: {_sentence(self.found)} Fix: {_sentence(self.fix)}"


class PrefixFileError(AplError):
    """A prefix or its file is missing, broken, or not what it claims to be."""


class FitError(AplError):
    """A prefix belongs to other text encoders than the loaded checkpoint has."""


class PromptError(AplError):
    """A text and a prefix do not go into one chunk together."""


class LibraryError(AplError):
    """A name leads to no prefix inside the configured folders."""


class RunError(AplError):
    """A training run or its folder cannot go on."""


class HostError(AplError):
    """Something in the host stands in the way of applying the prefix."""


class ConfigError(AplError):
    """A configuration is wrong; `problems` holds every single finding."""

    def __init__(
        self, asked: str, found: str, fix: str, problems: Sequence[ConfigError] = ()
    ) -> None:
        super().__init__(asked, found, fix)
        self.args = (asked, found, fix, tuple(problems))  # what pickle hands back to __init__
        self.problems: tuple[ConfigError, ...] = tuple(problems) or (self,)

    @classmethod
    def of(cls, asked: str, problems: Sequence[ConfigError]) -> ConfigError:
        """One error for one or more findings, so that all of them are shown at once."""
        if not problems:
            raise ValueError("a ConfigError needs at least one problem")
        if len(problems) == 1:
            return problems[0]
        return cls(asked, f"{len(problems)} problems", "correct each of them", problems)

    def __str__(self) -> str:
        if self.problems == (self,):
            return super().__str__()
        lines = [f"{_bare(self.asked)}: {_bare(self.found)}", *map(str, self.problems)]
        return "\n  - ".join(lines)


def _bare(text: str) -> str:
    return text.strip().rstrip(".:;,")


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", "…")) else text.rstrip(":;,") + "."
