"""What training minimises: the weighted sum of a recipe's losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.losses import category_consistent_loss, cross_entropy, lovasz_softmax
from ccnet3d.models import TrainingOutputs
from ccnet3d.training.recipe import LossRecipe


def training_loss(
    outputs: TrainingOutputs, labels: Tensor, recipe: LossRecipe, class_weights: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch of clips, in float32.

    Args:
        outputs: what the model gives for ``[B, T, 3, H, W]``, in any precision.
        labels: int64 ``[B, T, H, W]``, class ids and IGNORE_INDEX.
        recipe: which losses, and their weights.
        class_weights: ``[K]``, of both cross-entropies.

    Returns:
        The scalar to minimise, and its parts by name, before their weights.
    """
    clip_length, num_classes = outputs.logits.shape[1:3]
    labels = labels.flatten(0, 1)
    logits = outputs.logits.flatten(0, 1).float()
    parts = {}
    for name, output in (("cross_entropy", logits), ("auxiliary", outputs.auxiliary.flatten(0, 1).float())):
        parts[name] = cross_entropy(
            output,
            labels,
            class_weights=class_weights,
            label_smoothing=recipe.label_smoothing,
            hard_threshold=recipe.hard_threshold,
            hard_pixels=recipe.hard_pixels,
        )
    total = parts["cross_entropy"] + recipe.auxiliary_weight * parts["auxiliary"]
    if recipe.lovasz_weight:
        parts["lovasz"] = lovasz_softmax(logits, labels)
        total = total + recipe.lovasz_weight * parts["lovasz"]
    if recipe.ccl_weight:
        assert outputs.embeddings is not None, "a recipe with ccl_weight has a model with embeddings"
        embeddings = outputs.embeddings.flatten(0, 1)
        consistency = category_consistent_loss(
            embeddings,
            resize_labels(labels, embeddings.shape[-2:]),
            num_classes,
            clip_length=clip_length,
            form=recipe.ccl_form,
        )
        parts.update({"ccl" if name == "total" else f"ccl_{name}": x for name, x in consistency._asdict().items()})
        total = total + recipe.ccl_weight * consistency.total
    return total, parts


def resize_labels(labels: Tensor, size: torch.Size) -> Tensor:
    """Labels ``[N, H, W]`` at another (height, width), each the one nearest to the centre of its new pixel."""
    # Ids up to 255 are exact in float32, for which interpolation exists.
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
