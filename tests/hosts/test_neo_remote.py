"""Neo, real: its "API" mode, in which a service on the network would draw the picture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from a1111_host import Refused, Webui
from conftest import enforcing

MAN = "a photo of a man"
MODE = "/sdapi/v1/options"


@pytest.fixture
def remote(neo: Webui) -> Iterator[Webui]:
    """Neo in this mode, without a key: it asks nobody."""
    neo.post(MODE, {"forge_model_mode": "api"})
    yield neo
    neo.post(MODE, {"forge_model_mode": "local"})


def test_what_is_to_be_anonymous_is_not_drawn_there(remote: Webui) -> None:
    asked = ((MAN, True, "front"), (f"{MAN} <apl:front>",), (MAN, True, "no such prefix"))
    for prompt, *args in asked:
        with pytest.raises(Refused, match=r"service on the network|no such prefix") as caught:
            remote.draw(prompt, *args)
        assert caught.value.status == 422
    with pytest.raises(Refused, match="service on the network"):
        remote.draw(MAN, styles=["anonymous"])
    with pytest.raises(Refused, match="API Key is not configured"):  # nothing is asked of us
        remote.draw(MAN)


def test_nothing_is_drawn_there_for_an_operator(tmp_path_factory: pytest.TempPathFactory) -> None:
    with enforcing("neo", tmp_path_factory, "--nowebui") as operated:
        assert operated.draw(MAN).images
        operated.post(MODE, {"forge_model_mode": "api"})
        with pytest.raises(Refused, match="where no prefix can be put in") as caught:
            operated.draw(MAN)
        assert caught.value.status == 422
