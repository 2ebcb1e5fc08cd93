"""A run's curves and previews for TensorBoard, where it is installed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from apl_core.errors import AplError
from apl_core.training.callbacks import Event, Previewed, Stepped, Validated


class TensorBoardCallback:
    """A callback that writes TensorBoard's event files into a run's folder `tensorboard`.

    A context manager; AplError if the package tensorboard is missing. A resumed run goes on in the
    same curves: TensorBoard shows of a step what was written last.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise AplError(
                "write TensorBoard's files",
                "the package tensorboard is not installed",
                "pip install tensorboard, or leave --tensorboard out",
            ) from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> TensorBoardCallback:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def __call__(self, event: Event) -> None:
        """Write one event."""
        if isinstance(event, Stepped):
            scalars = {
                "loss": event.loss,
                "learning_rate": event.learning_rate,
                "seconds": event.seconds,
            }
            scalars |= {f"loss/{kind}": loss for kind, loss in event.losses.items()}
        elif isinstance(event, Validated):
            scalars = {"validation/score": event.score}
            scalars |= {f"validation/{name}": value for name, value in event.figures.items()}
        elif isinstance(event, Previewed):
            picture = np.asarray(Image.open(event.path).convert("RGB"))
            self._writer.add_image("preview", picture, event.step, dataformats="HWC")
            return
        else:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, event.step)
