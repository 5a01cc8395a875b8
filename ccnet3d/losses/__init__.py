"""Training losses."""

from __future__ import annotations

from ccnet3d.losses.category_consistent import (
    FORMS,
    CategoryConsistentLoss,
    category_consistent_loss,
)
from ccnet3d.losses.segmentation import (
    balanced_class_weights,
    cross_entropy,
    lovasz_softmax,
)

__all__ = [
    "FORMS",
    "CategoryConsistentLoss",
    "balanced_class_weights",
    "category_consistent_loss",
    "cross_entropy",
    "lovasz_softmax",
]
