from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference.loops import jaccard_loss_of_errors

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses import lovasz_softmax


def test_lovasz_is_the_extension_of_the_jaccard_loss(batch) -> None:
    logits, labels = batch
    labeled = labels != IGNORE_INDEX
    probabilities = logits.float().softmax(1).movedim(1, -1)[labeled]
    expected = []
    for class_id in range(4):
        truth = labels[labeled] == class_id
        expected.append(jaccard_loss_of_errors((truth.float() - probabilities[:, class_id]).abs(), truth))
    mine, truth = lovasz_softmax(logits, labels), torch.stack(expected).mean()
    torch.testing.assert_close(mine, truth)
    torch.testing.assert_close(torch.autograd.grad(mine, logits)[0], torch.autograd.grad(truth, logits)[0])


def test_lovasz_of_a_hard_prediction_is_one_minus_miou(batch) -> None:
    _, labels = batch
    prediction = torch.randint(0, 4, labels.shape, generator=torch.Generator().manual_seed(2))
    logits = 100.0 * F.one_hot(prediction, 4).movedim(-1, 1).float()
    labeled = labels != IGNORE_INDEX
    iou = []
    for class_id in range(4):
        truth, predicted = (labels == class_id) & labeled, (prediction == class_id) & labeled
        iou.append((truth & predicted).sum() / (truth | predicted).sum())
    assert lovasz_softmax(logits, labels).item() == pytest.approx(1 - torch.stack(iou).mean().item(), abs=1e-6)


def test_lovasz_of_a_sample_is_near_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 80, 80, generator=generator)
    labels = torch.randint(0, 3, (2, 80, 80), generator=generator)
    torch.manual_seed(0)
    sampled = torch.stack([lovasz_softmax(logits, labels, max_pixels=2000) for _ in range(20)])
    assert sampled.std() > 0
    assert sampled.mean().item() == pytest.approx(lovasz_softmax(logits, labels).item(), abs=0.01)
