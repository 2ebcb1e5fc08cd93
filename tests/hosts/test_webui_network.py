"""Forge and Neo, real: what their network is called with, behind its own batching."""

from __future__ import annotations

import a1111_expected
import pytest
import torch
from a1111_expected import PREFIXES, Reference
from a1111_host import Webui
from a1111_kinds import KINDS


@pytest.fixture(scope="module")
def reference(a_forge: Webui, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Conditioning of every kind, by plain transformers."""
    return a1111_expected.reference(a_forge, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_network_itself_is_called_with_it(
    a_forge: Webui, reference: Reference, prefix: str
) -> None:
    """Forge batches positive and negative prompts late; this looks behind that."""
    a_forge.probe()
    a_forge.draw(KINDS["long"].prompt, True, prefix)
    called = torch.cat(a_forge.seen("unet"))
    want = reference[prefix, "long"][0]
    assert len(called) == 2 and called.shape[1] % want.shape[1] == 0
    assert all(torch.equal(one, want[0].repeat(len(one) // want.shape[1], 1)) for one in called)
