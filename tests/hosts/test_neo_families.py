"""Forge Neo's language models and T5: every token is as transformers' own model has it."""

from __future__ import annotations

import a1111_host
import webui_hosts


def test_every_token_is_as_transformers_has_it() -> None:
    neo = webui_hosts.INSTALLED["neo"]
    found = a1111_host.checks(neo, "neo_families_probe.py", neo, a1111_host.REPOSITORY)
    assert [name for name, holds in found.items() if not holds] == []
    assert len(found) > 200
