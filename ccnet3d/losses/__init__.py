"""Training losses."""

from ccnet3d.losses.category_consistent import CategoryConsistentLoss, category_consistent_loss
from ccnet3d.losses.segmentation import balanced_class_weights, cross_entropy, lovasz_softmax

__all__ = [
    "CategoryConsistentLoss",
    "balanced_class_weights",
    "category_consistent_loss",
    "cross_entropy",
    "lovasz_softmax",
]
