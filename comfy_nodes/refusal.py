# pyright: reportMissingImports=false
"""How operator mode says no: a graph of one node that fails ComfyUI's own validation, in words."""

from __future__ import annotations

from comfy_api.latest import io


class Refusal(Exception):
    """A whole sentence that says why a graph is not run."""


class Refused(io.ComfyNode):
    """Stands for a graph that this server does not run; its validation gives the reason."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="APL_Refused",
            display_name="APL Refused",
            category="APL",
            description="Made by the server itself, where an operator enforces a prefix and a "
            "graph holds something that the prefix cannot reach.",
            inputs=[io.String.Input("refused", tooltip="Why the graph is not run.")],
            is_output_node=True,
            is_deprecated=True,
        )

    @classmethod
    def validate_inputs(cls, refused: str | None) -> bool:
        """Refusal with the reason, always: the page shows what is raised here at once."""
        raise Refusal(refused or "this graph is not run")

    @classmethod
    def execute(cls, refused: str) -> io.NodeOutput:
        """Nothing comes here; validation has refused."""
        raise Refusal(refused)
