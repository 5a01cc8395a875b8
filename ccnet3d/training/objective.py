"""The training objective: the weighted sum of a recipe's losses."""

from __future__ import annotations

import torch
from torch import Tensor

from ccnet3d.losses import Losses, LossInputs
from ccnet3d.models import TrainingOutputs

__all__ = ["training_loss"]


def training_loss(
    outputs: TrainingOutputs, labels: Tensor, losses: Losses, class_weights: Tensor | None = None, parts: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch of clips, in float32.

    >>> outputs = TrainingOutputs(torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 2, 3, 4, 4), None)  # [B, T, K, H, W]
    >>> total, logged = training_loss(outputs, torch.zeros(1, 2, 4, 4, dtype=torch.long), Losses())
    >>> list(logged)
    ['cross_entropy', 'auxiliary']

    Args:
        outputs: the model's outputs for ``[B, T, 3, H, W]``, in any precision.
        labels: int64 ``[B, T, H, W]``, class ids and IGNORE_INDEX.
        losses: the losses and their weights.
        class_weights: ``[K]``; None for uniform weights.
        parts: parts of the step, over all processes, of which this batch is one.

    Returns:
        The scalar to minimize, and the scalars to log by name, before their weights.
    """
    inputs = LossInputs(
        outputs.logits.flatten(0, 1).float(),  # [B, T, K, H, W] -> [N, K, H, W]
        outputs.auxiliary.flatten(0, 1).float(),
        labels.flatten(0, 1),
        None if outputs.embeddings is None else outputs.embeddings.flatten(0, 1),
        clip_length=outputs.logits.shape[1],
        class_weights=class_weights,
        parts=parts,
    )
    total = torch.zeros((), device=labels.device)
    logged: dict[str, Tensor] = {}
    for loss in losses.active().values():
        value, scalars = loss(inputs)
        total = total + loss.weight * value
        logged.update(scalars)
    return total, logged
