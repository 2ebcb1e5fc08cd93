"""GET /apl/prefixes and GET /apl/status."""

import importlib
import os
import secrets
from typing import Any

from apl_core.errors import AplError
from apl_core.trace import FILE

from . import config, gate
from .hosts import Host, faces, report
from .refusal import public
from .webui import loaded_model, module


def register(host: Host, app: Any) -> None:
    """Add the routes, behind the webui's `--api-auth` where it has one."""
    dependencies = _login()

    def prefixes() -> list[dict[str, Any]]:
        return [_entry(host, name) for name in config.library().names()]

    def status() -> dict[str, Any]:
        return _status(host)

    for path, endpoint in (("/apl/prefixes", prefixes), ("/apl/status", status)):
        app.add_api_route(path, endpoint, methods=["GET"], dependencies=dependencies)


def _entry(host: Host, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    try:
        prefix = config.library().load(name)
        entry |= {
            "hash": prefix.short_digest,
            "family": prefix.family,
            "vectors": prefix.n,
            "behind": prefix.behind,
            "title": prefix.card.title,
        }
        model = loaded_model()
        if model is not None:
            entry["fit"] = public(report(host, prefix, model, fingerprints=True).sentence)
        entry["usable"] = True
    except AplError as error:
        entry |= {"usable": False, "problem": public(str(error))}
    return entry


def _status(host: Host) -> dict[str, Any]:
    model = loaded_model()
    status: dict[str, Any] = {
        "host": host.name,
        **_enforced(),
        "trace": bool(os.environ.get(FILE)),
        **host.tally.facts(),
        "on_by_default": config.on_by_default(),
        "default_prefix": config.default_prefix(),
        "checkpoint": model.sd_checkpoint_info.name_for_extra if model is not None else None,
    }
    try:
        found = [] if model is None else faces(host, model, fingerprints=False)
        status["encoders"] = {face.key: face.width for face in found}
    except AplError as error:
        status["encoders"] = {}
        status["problem"] = public(str(error))
    return status


def _enforced() -> dict[str, Any]:
    """Which prefixes are enforced: those that the process holds; the digest is the first's."""
    closed = gate.running()
    if closed is None:
        return {"enforced": None, "digest": None, "hash": None, "usable": None}
    first = next(iter(closed.prefixes.values()))
    said = {"enforced": first.name, "digest": first.digest, "hash": first.digest[:10]}
    if len(closed.prefixes) > 1:
        said["enforced"] = config.enforced() or first.name
    families = {
        one.family: {"prefix": one.name, "hash": one.digest[:10], "digest": one.digest}
        for one in closed.prefixes.values()
    }
    return {**said, "usable": True, "families": families}


def _login() -> list[Any]:
    pairs = getattr(module("shared").cmd_opts, "api_auth", None)
    if not pairs:
        return []
    fastapi = importlib.import_module("fastapi")
    basic = importlib.import_module("fastapi.security").HTTPBasic()
    known = dict(pair.split(":", 1) for pair in pairs.split(","))

    def check(given: Any = fastapi.Depends(basic)) -> None:  # noqa: B008
        expected = known.get(given.username)
        if expected is None or not secrets.compare_digest(
            given.password.encode(), expected.encode()
        ):
            raise fastapi.HTTPException(
                401, "Incorrect user name or password", {"WWW-Authenticate": "Basic"}
            )

    return [fastapi.Depends(check)]
