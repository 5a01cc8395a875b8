"""The Dice loss against a loop over pixels and cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reference.loops import dice_loss_loop

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses import dice_loss

CERTAIN = 200.0
"""A logit beyond which the softmax of the other classes is 0 in float32."""


def certain_logits(prediction: torch.Tensor, num_classes: int = 4) -> torch.Tensor:
    """Return logits ``[N, K, H, W]`` whose softmax is 1 at the predicted class, for ``[N, H, W]``."""
    return CERTAIN * F.one_hot(prediction, num_classes).movedim(-1, 1).float()


def test_value_and_gradient_equal_the_loop(batch) -> None:
    logits, labels = batch
    labels[labels == 3] = 1  # a class that is absent, but has probability
    mine, truth = dice_loss(logits, labels), dice_loss_loop(logits, labels, IGNORE_INDEX)
    assert mine.dtype == torch.float64
    torch.testing.assert_close(mine, truth)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (mine, truth)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0
    assert (gradients[0][0, :, :2] == 0).all()  # void


def test_gradcheck(batch) -> None:
    logits, labels = batch
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, labels), (logits,))


def test_a_perfect_prediction_costs_nothing(batch) -> None:
    _, labels = batch
    assert dice_loss(certain_logits(labels.where(labels != IGNORE_INDEX, 3)), labels).item() == 0


def test_a_disjoint_prediction_costs_one(batch) -> None:
    _, labels = batch
    assert dice_loss(certain_logits((labels + 1) % 4), labels).item() == 1


def test_by_hand() -> None:
    # Class 0 is predicted at both of its pixels and at one of class 1: 2 * 2 / (3 + 2). Class 1: 2 * 1 / (1 + 2).
    labels = torch.tensor([[[0, 0, 1, 1, IGNORE_INDEX]]])
    prediction = torch.tensor([[[0, 0, 0, 1, 2]]])
    assert dice_loss(certain_logits(prediction), labels).item() == pytest.approx(1 - (4 / 5 + 2 / 3) / 2)
    # Even probabilities of 1/4, and two pixels of each class: 2 * (2 / 4) / (4 / 16 + 2).
    assert dice_loss(torch.zeros(1, 4, 1, 5), labels).item() == pytest.approx(1 - 1 / 2.25)


def test_void_pixels_may_be_anything(batch) -> None:
    logits, labels = batch
    spoiled = logits.detach().clone()
    spoiled[0, :, :2] = math.inf
    spoiled.requires_grad_()
    mine, truth = dice_loss(spoiled, labels), dice_loss(logits, labels)
    torch.testing.assert_close(mine, truth)
    torch.testing.assert_close(torch.autograd.grad(mine, spoiled)[0], torch.autograd.grad(truth, logits)[0])


@pytest.mark.parametrize("predicted", [0, 1], ids=["right", "wrong"])
def test_gradients_of_certain_predictions_are_finite(predicted: int) -> None:
    labels = torch.zeros(1, 2, 3, dtype=torch.long)
    logits = certain_logits(torch.full_like(labels, predicted)).requires_grad_()
    assert torch.autograd.grad(dice_loss(logits, labels), logits)[0].isfinite().all()


def test_half_precision_is_computed_in_float32(batch) -> None:
    logits, labels = batch
    half = logits.detach().bfloat16()
    loss = dice_loss(half, labels)
    assert loss.dtype == torch.float32
    assert loss == dice_loss(half.float(), labels)
