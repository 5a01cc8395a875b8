"""The table of losses: what a recipe can put into ``[losses.NAME]``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ccnet3d.errors import UserError
from ccnet3d.losses.category_consistent import CategoryConsistentLoss
from ccnet3d.losses.cross_entropy import CrossEntropyLoss
from ccnet3d.losses.dice import DiceLoss
from ccnet3d.losses.interface import Loss
from ccnet3d.losses.lovasz import LovaszLoss

__all__ = ["Losses"]


@dataclass(frozen=True)
class Losses:
    """The losses of a recipe; the training objective is their weighted sum.

    A new loss is a file with its section, a :class:`ccnet3d.losses.Loss`, and a field here.

    >>> list(Losses(lovasz=LovaszLoss(weight=0.5)).active())
    ['cross_entropy', 'lovasz']
    """

    cross_entropy: CrossEntropyLoss = field(default_factory=CrossEntropyLoss)
    lovasz: LovaszLoss | None = None
    category_consistent: CategoryConsistentLoss | None = None
    dice: DiceLoss | None = None

    def __post_init__(self) -> None:
        for name, loss in self._given().items():
            if not loss.weight >= 0:
                raise UserError(f"losses.{name}.weight must be at least 0, got {loss.weight}")
        if not self.active():
            raise UserError(
                f"every loss has weight 0; give one of {', '.join(f.name for f in fields(self))} a weight above 0"
            )

    def active(self) -> dict[str, Loss]:
        """Return the losses with a weight above 0, by name."""
        return {name: loss for name, loss in self._given().items() if loss.weight}

    def _given(self) -> dict[str, Loss]:
        return {f.name: loss for f in fields(self) if (loss := getattr(self, f.name)) is not None}
