"""What every meter has in common: it counts one frame after the other, and scores are computed from the counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

__all__ = ["Meter", "check_shapes", "share"]


class Meter(ABC):
    """Counts pixels of one frame after the other, in constant memory.

    A meter remembers what it needs of earlier frames, and no sums: :class:`ccnet3d.metrics.Score` says how the counts
    of all frames become a score.
    """

    needs_image: ClassVar[bool] = False
    """Whether :meth:`update` reads the image."""

    def start_segment(self) -> None:  # noqa: B027  (most meters remember nothing)
        """Start a video, or resume it after a gap: later frames are not compared with earlier ones."""

    @abstractmethod
    def update(self, prediction: Tensor, labels: Tensor, image: Tensor | None = None) -> Tensor:
        """Count the next frame.

        Args:
            prediction: class ids, integers ``[H, W]``.
            labels: class ids and IGNORE_INDEX, of the same shape.
            image: uint8 ``[3, H, W]``, RGB; None where no meter needs it.

        Returns:
            The frame's counts, int64, of one shape for all frames.

        Raises:
            ValueError: shapes that differ.
        """


def check_shapes(prediction: Tensor, labels: Tensor) -> None:
    """Check that a prediction and its labels have one shape.

    Raises:
        ValueError: they differ.
    """
    if prediction.shape != labels.shape:
        raise ValueError(
            f"prediction and labels must have one shape, got {tuple(prediction.shape)} and {tuple(labels.shape)}"
        )


def share(counts: Tensor) -> Tensor:
    """Return the first of two counts as a share of the second, NaN for 0 of 0.

    Args:
        counts: ``[..., 2]``: how many, of how many.

    Returns:
        float64 ``[...]``.

    Example:
        >>> import torch
        >>> share(torch.tensor([[3, 4], [0, 0]])).tolist()
        [0.75, nan]
    """
    some, all_ = counts.double().unbind(-1)
    return some / all_
