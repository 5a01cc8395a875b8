"""What every loss of a recipe receives and returns.

Axes: N frames (B*T), K classes, H height, W width, E embedding channels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Loss", "LossInputs", "LossValue"]


class LossInputs(NamedTuple):
    """One part of a training step: outputs of the model, labels, and what a loss may depend on."""

    logits: Tensor
    """float32 ``[N, K, H, W]``, frames of a clip one after the other."""
    auxiliary: Tensor
    """float32 ``[N, K, H, W]``, logits of the auxiliary classifier."""
    labels: Tensor
    """int64 ``[N, H, W]``, class ids and IGNORE_INDEX."""
    embeddings: Tensor | None = None
    """``[N, E, h, w]`` at the attention's stride; None for a model without embeddings."""
    clip_length: int = 1
    """T, frames of a clip."""
    class_weights: Tensor | None = None
    """``[K]``, see ``Recipe.class_balance_offset``; None for uniform weights."""
    parts: int = 1
    """Parts of the step, over all processes, of which this is one."""


class LossValue(NamedTuple):
    """The value of a loss, before its weight."""

    value: Tensor
    """Scalar to minimize."""
    logged: dict[str, Tensor]
    """Scalars to log, by name."""


class Loss(Protocol):
    """A loss of a recipe: a frozen dataclass whose fields are the options of its section."""

    @property
    def weight(self) -> float:
        """Factor of the value in the sum; 0 switches the loss off."""
        ...

    def __call__(self, inputs: LossInputs) -> LossValue: ...
