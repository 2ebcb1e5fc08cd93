# pyright: reportMissingImports=false
"""The node that compares the faces of two pictures."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from .identity import compare, face_reader
from .nodes_prefix import CATEGORY, found_by

FOLDER = "apl_faces"


class IdentityCheck(io.ComfyNode):
    """How alike two faces are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="APL_IdentityCheck",
            display_name="APL Identity Check",
            category=CATEGORY,
            **found_by("compare faces"),
            description="Compares the largest faces of two pictures. Needs the package facexlib "
            "and its weights; see the help page.",
            is_output_node=True,
            is_experimental=True,
            inputs=[
                io.Image.Input("image", tooltip="One picture, for example without the prefix."),
                io.Image.Input("other", tooltip="The other picture, for example with it."),
            ],
            outputs=[
                io.Float.Output(
                    "similarity",
                    display_name="similarity",
                    tooltip="Cosine of the face embeddings: 1 same face, about 0 strangers; NaN "
                    "without a face in both.",
                ),
                io.Int.Output(
                    "faces", display_name="faces", tooltip="Faces found in both pictures together."
                ),
                io.String.Output("text", display_name="text", tooltip="The same in words."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, other: Tensor) -> io.NodeOutput:
        """Compare the first pictures of both batches."""
        with torch.inference_mode(False):
            reader = face_reader(Path(folder_paths.models_dir, FOLDER))
            found = compare(reader, image[0].clone(), other[0].clone())
        return io.NodeOutput(
            found.similarity, sum(found.faces), found.text, ui=ui.PreviewText(found.text)
        )
