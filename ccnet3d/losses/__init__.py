"""Training losses: pure functions of logits or embeddings and labels, and the table that recipes choose from."""

from __future__ import annotations

from ccnet3d.losses.category_consistent import (
    FORMS,
    CategoryConsistentLoss,
    CategoryConsistentTerms,
    category_consistent_loss,
)
from ccnet3d.losses.cross_entropy import CrossEntropyLoss, balanced_class_weights, cross_entropy
from ccnet3d.losses.dice import DiceLoss, dice_loss
from ccnet3d.losses.interface import Loss, LossInputs, LossValue
from ccnet3d.losses.lovasz import LovaszLoss, lovasz_softmax
from ccnet3d.losses.table import Losses

__all__ = [
    "FORMS",
    "CategoryConsistentLoss",
    "CategoryConsistentTerms",
    "CrossEntropyLoss",
    "DiceLoss",
    "Loss",
    "LossInputs",
    "LossValue",
    "Losses",
    "LovaszLoss",
    "balanced_class_weights",
    "category_consistent_loss",
    "cross_entropy",
    "dice_loss",
    "lovasz_softmax",
]
