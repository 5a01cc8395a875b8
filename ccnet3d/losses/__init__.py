"""Training losses."""

from ccnet3d.losses.segmentation import balanced_class_weights, cross_entropy, lovasz_softmax

__all__ = ["balanced_class_weights", "cross_entropy", "lovasz_softmax"]
