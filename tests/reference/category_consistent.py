"""The category consistent loss from its definition, differentiable, in loops over clips, classes and pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def category_consistent_loop(
    embeddings: Tensor,
    labels: Tensor,
    *,
    clip_length: int,
    form: str,
    ignored: int,
    delta_v: float = 0.5,
    delta_d: float = 1.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return l_var, l_dis and l_reg of ``[N, E, H, W]`` and ``[N, H, W]``, each the mean over the clips."""
    clips = []
    for first in range(0, len(labels), clip_length):
        of_class: dict[int, list[Tensor]] = {}
        for n in range(first, first + clip_length):
            for h in range(labels.shape[1]):
                for w in range(labels.shape[2]):
                    if labels[n, h, w] != ignored:
                        of_class.setdefault(int(labels[n, h, w]), []).append(embeddings[n, :, h, w])
        zero = embeddings.sum() * 0
        means = [sum(pixels) / len(pixels) for pixels in of_class.values()]
        variances = [
            sum(phi_var(length(pixel - mean), form, delta_v, delta_d) for pixel in pixels) / len(pixels)
            for pixels, mean in zip(of_class.values(), means, strict=True)
        ]
        gaps = [
            phi_dis(length(means[a] - means[b]), delta_d)
            for a in range(len(means))
            for b in range(len(means))
            if a != b
        ]
        norms = [length(mean) for mean in means]
        clips.append([sum(terms, zero) / max(1, len(terms)) for terms in (variances, gaps, norms)])
    variance, distance, norm = (torch.stack(terms).mean() for terms in zip(*clips, strict=True))
    return variance, distance, norm


def length(vector: Tensor) -> Tensor:
    """Return the length, with gradient 0 for a zero vector: the pixel of a one-pixel class does not move."""
    square = (vector * vector).sum()
    return square.sqrt() if square > 0 else square


def phi_var(distance: Tensor, form: str, delta_v: float, delta_d: float) -> Tensor:
    if distance <= delta_v:
        return distance * 0
    if distance <= delta_d or form == "quadratic":
        return (distance - delta_v) ** 2
    return distance - delta_d + (delta_d - delta_v) ** 2


def phi_dis(distance: Tensor, delta_d: float) -> Tensor:
    return (2 * delta_d - distance) ** 2 if distance <= 2 * delta_d else distance * 0
