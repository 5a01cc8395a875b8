"""Criss-cross attention, confusion matrices and losses as plain loops over scalars."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def cross_of(t: int, h: int, w: int, size: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield the cross of (t, h, w): itself, then the other positions along time, height and width."""
    yield t, h, w
    yield from ((i, h, w) for i in range(size[0]) if i != t)
    yield from ((t, i, w) for i in range(size[1]) if i != h)
    yield from ((t, h, i) for i in range(size[2]) if i != w)


def criss_cross_loop(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute 3D criss-cross attention of ``[B, T, H, W, D]`` position by position, differentiable."""
    batch, *size = query.shape[:4]
    rows = []
    for b in range(batch):
        for t in range(size[0]):
            for h in range(size[1]):
                for w in range(size[2]):
                    cross = list(cross_of(t, h, w, (size[0], size[1], size[2])))
                    scores = torch.stack([query[b, t, h, w] @ key[b, i, j, k] for i, j, k in cross])
                    weights = scores.softmax(0)
                    rows.append(sum(weights[n] * value[b, i, j, k] for n, (i, j, k) in enumerate(cross)))
    return torch.stack(rows).view(batch, *size, -1)


def criss_cross_2d(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute 2D criss-cross attention of ``[B, D, H, W]`` (channels first), after CCNet's figure 3.

    One softmax over concatenated column and row scores, with the position itself masked in its column.
    """
    column = torch.einsum("bdhw,bdiw->bhwi", query, key)
    row = torch.einsum("bdhw,bdhj->bhwj", query, key)
    height = query.shape[2]
    column = column - torch.diag(torch.full((height,), math.inf)).nan_to_num(0, posinf=math.inf)[None, :, None, :]
    weights = torch.cat([column, row], dim=-1).softmax(-1)
    from_column = torch.einsum("bhwi,bdiw->bdhw", weights[..., :height], value)
    from_row = torch.einsum("bhwj,bdhj->bdhw", weights[..., height:], value)
    return from_column + from_row


def confusion_loop(prediction: Tensor, labels: Tensor, num_classes: int, ignored: int) -> list[list[int]]:
    """Count pixels by true and predicted class, one at a time."""
    counts = [[0] * num_classes for _ in range(num_classes)]
    for truth, predicted in zip(labels.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if truth != ignored:
            counts[truth][predicted] += 1
    return counts


def jaccard_loss_of_errors(errors: Tensor, truth: Tensor) -> Tensor:
    """Compute the Lovasz extension of the Jaccard loss from its definition, a telescoping sum over sorted errors.

    ``sum_i errors[i] * (loss(first i) - loss(first i - 1))`` with loss(S) = 1 - |truth minus S| / |truth or S|.
    """

    def loss(wrong: set[int]) -> float:
        positives = {i for i, positive in enumerate(truth.tolist()) if positive}
        return 1 - len(positives - wrong) / len(positives | wrong)

    total = errors.sum() * 0
    wrong: set[int] = set()
    for i in sorted(range(len(errors)), key=lambda i: -errors[i].item()):
        total = total + errors[i] * (loss(wrong | {i}) - loss(wrong))
        wrong.add(i)
    return total


def dice_loss_loop(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """1 minus the soft Dice coefficient of ``[N, K, H, W]`` and ``[N, H, W]``, one class and pixel after another."""
    num_classes = logits.shape[1]
    overlap, squares = ([logits.sum() * 0 for _ in range(num_classes)] for _ in range(2))
    pixels = [0] * num_classes
    for n in range(labels.shape[0]):
        for h in range(labels.shape[1]):
            for w in range(labels.shape[2]):
                truth = int(labels[n, h, w])
                if truth == ignored:
                    continue
                exponentials = [logits[n, k, h, w].exp() for k in range(num_classes)]
                pixels[truth] += 1
                for k in range(num_classes):
                    probability = exponentials[k] / sum(exponentials)
                    squares[k] = squares[k] + probability * probability
                    if k == truth:
                        overlap[k] = overlap[k] + probability
    losses = [1 - 2 * overlap[k] / (squares[k] + pixels[k]) for k in range(num_classes) if pixels[k]]
    return torch.stack(losses).mean()
