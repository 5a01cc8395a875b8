"""The category consistent loss of CCNet: pixels of one class lie close together, class means far apart.

Axes: N frames (B*T), E embedding channels, H height, W width, K classes, P pixels of a clip (T*H*W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import UserError
from ccnet3d.losses.interface import LossInputs, LossValue

__all__ = [
    "FORMS",
    "CategoryConsistentLoss",
    "CategoryConsistentTerms",
    "between_class_penalty",
    "category_consistent_loss",
    "resize_labels",
    "within_class_penalty",
]

FORMS = ("piecewise", "quadratic")


@dataclass(frozen=True)
class CategoryConsistentLoss:
    """Section ``[losses.category_consistent]`` of a recipe; the model needs ``embedding_channels`` for it."""

    weight: float
    """Factor of the loss; the paper's is 1."""
    form: str = "piecewise"
    """Penalty within a class: ``piecewise``, linear for distant pixels, or ``quadratic``."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"losses.category_consistent.form must be one of {FORMS}, got {self.form!r}")

    def __call__(self, inputs: LossInputs) -> LossValue:
        assert inputs.embeddings is not None, "a recipe with this loss has a model with embeddings"
        terms = category_consistent_loss(
            inputs.embeddings,
            resize_labels(inputs.labels, inputs.embeddings.shape[-2:]),
            inputs.logits.shape[1],
            clip_length=inputs.clip_length,
            form=self.form,
        )
        name = "category_consistent"
        logged = {name if key == "total" else f"{name}_{key}": term for key, term in terms._asdict().items()}
        return LossValue(terms.total, logged)


class CategoryConsistentTerms(NamedTuple):
    """The loss and its terms, scalars."""

    total: Tensor
    """``alpha * variance + beta * distance + gamma * norm``."""
    variance: Tensor
    """l_var: how far pixels are from the mean of their class."""
    distance: Tensor
    """l_dis: how close the means of different classes are."""
    norm: Tensor
    """l_reg: the length of the means."""


def category_consistent_loss(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    clip_length: int = 1,
    form: str = "piecewise",
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.001,
    delta_v: float = 0.5,
    delta_d: float = 1.5,
) -> CategoryConsistentTerms:
    """Return the category consistent loss (CCNet, TPAMI 2020, arXiv 1811.11721 v2), computed per clip.

    The paper computes it per image. Here the unit is the clip, which at T=1 is the image: one mean for all frames
    asks a class to have the same embedding over time. If the unit were the batch, unrelated scenes would share a
    mean, and the loss would no longer be the mean of the losses of its equal parts (processes, accumulated steps).

    l_dis has the form of De Brabandere et al. (arXiv 1708.02551), which the paper follows.

    >>> labels = torch.tensor([[[0, 0, 1, 1]]])
    >>> embeddings = labels[:, None] * 4.0  # [N, E, H, W]: pixels on the mean of their class, means 4 apart
    >>> category_consistent_loss(embeddings, labels, num_classes=2)[1:3]
    (tensor(0.), tensor(0.))

    Args:
        embeddings: ``[N, E, H, W]``, frames of a clip one after the other; computed in float32 or wider.
        labels: int64 ``[N, H, W]``, class ids and IGNORE_INDEX.
        num_classes: K.
        clip_length: T, frames of a clip.
        form: of l_var's penalty beyond ``delta_d``, see :func:`within_class_penalty`.
        alpha: weight of l_var.
        beta: weight of l_dis.
        gamma: weight of l_reg.
        delta_v: distance from the mean of its class within which a pixel costs nothing.
        delta_d: half the distance beyond which two means cost nothing.

    Returns:
        Means over the clips. A clip without labeled pixels counts as 0, as does l_dis of a clip with a single class.

    Raises:
        ValueError: shapes that do not match, an unknown form, or not 0 <= delta_v <= delta_d.
    """
    if embeddings.dim() != 4 or labels.shape != (embeddings.shape[0], *embeddings.shape[2:]):
        raise ValueError(
            f"expected embeddings [N, E, H, W] and labels [N, H, W], got {tuple(embeddings.shape)} and "
            f"{tuple(labels.shape)}; resize the labels to the embeddings"
        )
    if clip_length < 1 or embeddings.shape[0] % clip_length:
        raise ValueError(f"expected whole clips of {clip_length} frames, got {embeddings.shape[0]} frames")
    if form not in FORMS or not 0 <= delta_v <= delta_d:
        raise ValueError(
            f"form must be one of {FORMS} and 0 <= delta_v <= delta_d, got {form!r}, {delta_v} and {delta_d}"
        )
    labels = labels.unflatten(0, (-1, clip_length)).flatten(1)  # [N, H, W] -> [B, P]
    labeled = labels != IGNORE_INDEX
    ids = labels.where(labeled, 0)  # void is added as zeros to class 0
    # Autocast lowers the precision of none of the operations below.
    pixels = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    pixels = pixels.unflatten(0, (-1, clip_length)).movedim(2, -1).flatten(1, 3)  # [N, E, H, W] -> [B, P, E]
    pixels = pixels.where(labeled[..., None], 0)

    counts = pixels.new_zeros(len(labels), num_classes).scatter_add(1, ids, labeled.to(pixels.dtype))  # [B, K]
    present = counts > 0
    counts, classes = counts.clamp_min(1), present.sum(1).clamp_min(1)
    index = ids[..., None].expand_as(pixels)
    means = pixels.new_zeros(*counts.shape, pixels.shape[2]).scatter_add(1, index, pixels) / counts[..., None]

    # PyTorch's gradient of a norm is 0 at 0: for a pixel on its mean, for equal means and on the diagonal below.
    penalties = within_class_penalty(
        vector_norm(pixels - means.gather(1, index), dim=-1), form=form, delta_v=delta_v, delta_d=delta_d
    )
    of_classes = torch.zeros_like(counts).scatter_add(1, ids, penalties.where(labeled, 0)) / counts  # [B, K]
    variance = (of_classes.sum(1) / classes).mean()

    pairs = present[:, :, None] & present[:, None] & ~torch.eye(num_classes, dtype=torch.bool, device=labels.device)
    gaps = between_class_penalty(vector_norm(means[:, :, None] - means[:, None], dim=-1), delta_d=delta_d)  # [B, K, K]
    distance = (gaps.where(pairs, 0).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)).mean()

    norm = (vector_norm(means, dim=-1).sum(1) / classes).mean()  # the means of absent classes are 0
    return CategoryConsistentTerms(alpha * variance + beta * distance + gamma * norm, variance, distance, norm)


def within_class_penalty(distance: Tensor, *, form: str, delta_v: float, delta_d: float) -> Tensor:
    """Return phi_var of distances from the mean, in the shape of ``distance``.

    It is 0 up to ``delta_v``, then ``(d - delta_v)^2``. Beyond ``delta_d`` the piecewise form continues as
    ``d - delta_d + (delta_d - delta_v)^2``, so that a distant pixel does not outweigh the rest: the value is continuous
    there, and the slope drops to 1 (from 2 with the paper's deltas). The quadratic form remains a square.
    """
    square = (distance - delta_v).clamp_min(0).square()
    if form == "quadratic":
        return square
    return torch.where(distance <= delta_d, square, distance - delta_d + (delta_d - delta_v) ** 2)


def between_class_penalty(distance: Tensor, *, delta_d: float) -> Tensor:
    """Return phi_dis of distances of two means, in their shape: ``(2 delta_d - d)^2`` up to ``2 delta_d``, then 0."""
    return (2 * delta_d - distance).clamp_min(0).square()


def resize_labels(labels: Tensor, size: torch.Size) -> Tensor:
    """Return labels ``[N, H, W]`` at another (height, width), each the nearest one to the center of its new pixel."""
    # Ids up to 255 are exact in float32, for which interpolation exists.
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
