"""What a backend of criss-cross attention is; :mod:`ccnet3d.attention.backends` lists the existing ones.

Axes: B batch, T time, H height, W width, D query/key channels, Dv value channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Backend", "ComposedBackend", "FusedBackend"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The fields that both kinds of backends share."""

    name: str
    """Value of the argument ``backend`` that selects it."""
    description: str
    why_unavailable: Callable[[], str | None] = lambda: None
    """Return why it cannot run on this machine, or None if it can."""
    why_unsupported: Callable[[Tensor], str | None] = lambda _: None
    """Return why it cannot compute with the device and dtype of a query, or None if it can."""
    auto_devices: tuple[str, ...] | None = None
    """Device types for which ``"auto"`` considers it; None for all."""


@dataclass(frozen=True, kw_only=True)
class ComposedBackend(Backend):
    """A backend of standard operators: exportable, and every transformation and derivative of PyTorch works."""

    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Map query, key and value to the output ``[B, T, H, W, Dv]``."""


@dataclass(frozen=True, kw_only=True)
class FusedBackend(Backend):
    """A backend with a backward pass of its own, which PyTorch sees as one operator (:mod:`..custom_op`)."""

    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """Map query, key and value to the output ``[B, T, H, W, Dv]`` and the log-sum-exp of every position's scores,
    ``[B, T, H, W]``."""
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Map the output's gradient, query, key, value, output and log-sum-exp to the gradients of query, key and value."""
    backward_needs_output: bool = False
    """Whether ``backward`` reads the output; where it does not, it receives None and the output is not kept."""
