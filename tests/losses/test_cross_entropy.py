from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses import balanced_class_weights, cross_entropy, dice_loss, lovasz_softmax


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])
def test_cross_entropy_is_torchs(batch, weights, smoothing: float) -> None:
    logits, labels = batch
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
    loss = cross_entropy(logits, labels, class_weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_nothing_labelled_gives_zero_and_finite_gradients(batch) -> None:
    logits, labels = batch
    void = torch.full_like(labels, IGNORE_INDEX)
    losses = [
        cross_entropy(logits, void),
        cross_entropy(logits, void, label_smoothing=0.1),
        cross_entropy(logits, void, hard_pixels=5),
        lovasz_softmax(logits, void),
        dice_loss(logits, void),
    ]
    for loss in losses:
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, logits)[0] == 0).all()


@pytest.mark.parametrize(("threshold", "pixels"), [(0.0, 7), (0.3, 1), (0.3, 30), (0.9, 10**6)])
def test_hard_pixels_by_a_loop(batch, threshold: float, pixels: int) -> None:
    logits, labels = batch
    log_probabilities = logits.detach().log_softmax(1)
    certainties = sorted(
        math.exp(log_probabilities[n, labels[n, h, w], h, w])
        for n, h, w in torch.nonzero(labels != IGNORE_INDEX).tolist()
    )
    below = [p for p in certainties if p <= threshold]
    kept = max(below, certainties[:pixels], key=len)
    expected = sum(-math.log(p) for p in kept) / len(kept)
    loss = cross_entropy(logits, labels, hard_threshold=threshold, hard_pixels=pixels)
    assert loss.item() == pytest.approx(expected)


def test_smoothing_does_not_change_which_pixels_are_hard(batch) -> None:
    logits, labels = batch
    certainty = logits.detach().softmax(1).gather(1, labels.clamp_max(3)[:, None])[:, 0]
    hardest = certainty[labels != IGNORE_INDEX].sort().values[6]
    easy_as_void = labels.where(certainty <= hardest, IGNORE_INDEX)
    expected = F.cross_entropy(logits, easy_as_void, ignore_index=IGNORE_INDEX, label_smoothing=0.2)
    torch.testing.assert_close(cross_entropy(logits, labels, label_smoothing=0.2, hard_pixels=7), expected)


def test_balanced_class_weights() -> None:
    weights = balanced_class_weights(torch.tensor([900, 90, 10, 0]), 1.1)
    raw = [1 / math.log(1.1 + p) for p in (0.9, 0.09, 0.01, 0.0)]
    assert weights.tolist() == pytest.approx([4 * w / sum(raw) for w in raw])
    with pytest.raises(ValueError, match="must be above 1, got 1"):
        balanced_class_weights(torch.ones(3), 1.0)
