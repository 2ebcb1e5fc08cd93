"""Test extension for A1111: what no request can do to a webui in operator mode."""

from fastapi import Body
from modules import script_callbacks, sd_models, shared


def _routes(_demo, app):
    @app.post("/probe/disabled")
    def disable(names: list = Body(...)):  # noqa: B008
        """Past every lock, as a defect of the host would."""
        shared.opts.data["disabled_extensions"] = names

    @app.post("/probe/misfit")
    def misfit(name: str = Body(...)):
        """Let the checkpoint of this name count as one of another family."""
        from apl_a1111 import hosts

        original = getattr(hosts.A1111.key, "__wrapped__", hosts.A1111.key)

        def key(host, engine):
            loaded = sd_models.model_data.sd_model.sd_checkpoint_info.name_for_extra
            return "clip_h" if loaded == name else original(host, engine)

        key.__wrapped__ = original
        hosts.A1111.key = key


script_callbacks.on_app_started(_routes)
