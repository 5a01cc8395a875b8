from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reference.loops import jaccard_loss_of_errors

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses import balanced_class_weights, cross_entropy, lovasz_softmax


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, :2] = IGNORE_INDEX
    return logits, labels


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


def test_lovasz_is_the_extension_of_the_jaccard_loss(batch) -> None:
    logits, labels = batch
    labelled = labels != IGNORE_INDEX
    probabilities = logits.float().softmax(1).movedim(1, -1)[labelled]
    expected = []
    for class_id in range(4):
        truth = labels[labelled] == class_id
        expected.append(jaccard_loss_of_errors((truth.float() - probabilities[:, class_id]).abs(), truth))
    mine, truth = lovasz_softmax(logits, labels), torch.stack(expected).mean()
    torch.testing.assert_close(mine, truth)
    torch.testing.assert_close(torch.autograd.grad(mine, logits)[0], torch.autograd.grad(truth, logits)[0])


def test_lovasz_of_a_hard_prediction_is_one_minus_miou(batch) -> None:
    _, labels = batch
    prediction = torch.randint(0, 4, labels.shape, generator=torch.Generator().manual_seed(2))
    logits = 100.0 * F.one_hot(prediction, 4).movedim(-1, 1).float()
    labelled = labels != IGNORE_INDEX
    iou = []
    for class_id in range(4):
        truth, predicted = (labels == class_id) & labelled, (prediction == class_id) & labelled
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


def test_balanced_class_weights() -> None:
    weights = balanced_class_weights(torch.tensor([900, 90, 10, 0]), 1.1)
    raw = [1 / math.log(1.1 + p) for p in (0.9, 0.09, 0.01, 0.0)]
    assert weights.tolist() == pytest.approx([4 * w / sum(raw) for w in raw])
    with pytest.raises(ValueError, match="must be above 1, got 1"):
        balanced_class_weights(torch.ones(3), 1.0)
