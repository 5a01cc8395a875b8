from __future__ import annotations

import math

import pytest
import torch
from reference.loops import confusion_loop
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.metrics import (
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_iou,
    pixel_accuracy,
)


def random_pair(seed: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (3, 17, 11), generator=generator)
    prediction = torch.where(torch.rand(labels.shape, generator=generator) < 0.6, labels, labels.roll(1))
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE_INDEX
    return prediction.to(torch.uint8), labels


@pytest.mark.parametrize("seed", range(3))
def test_against_a_loop_and_torchmetrics(seed: int) -> None:
    prediction, labels = random_pair(seed, 5)
    confusion = confusion_matrix(prediction, labels, 5)
    assert confusion.tolist() == confusion_loop(prediction, labels, 5, IGNORE_INDEX)
    oracle = MulticlassJaccardIndex(5, average=None, ignore_index=IGNORE_INDEX)(prediction, labels)
    torch.testing.assert_close(class_iou(confusion).float(), oracle)
    macro = MulticlassJaccardIndex(5, average="macro", ignore_index=IGNORE_INDEX)(prediction, labels)
    assert mean_iou(confusion).item() == pytest.approx(macro.item())
    of_classes = MulticlassAccuracy(5, average=None, ignore_index=IGNORE_INDEX)(prediction, labels)
    torch.testing.assert_close(class_accuracy(confusion).float(), of_classes)
    of_pixels = MulticlassAccuracy(5, average="micro", ignore_index=IGNORE_INDEX)(prediction, labels)
    assert pixel_accuracy(confusion).item() == pytest.approx(of_pixels.item())
    weighted = MulticlassJaccardIndex(5, average="weighted", ignore_index=IGNORE_INDEX)(prediction, labels)
    assert frequency_weighted_iou(confusion).item() == pytest.approx(weighted.item())


def test_accuracies_where_a_class_is_not_labeled() -> None:
    # Class 1 is predicted and never labeled, class 2 is in neither.
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    accuracy = class_accuracy(confusion)
    assert accuracy[0] == 0.75
    assert accuracy[1:].isnan().all()
    assert pixel_accuracy(confusion) == 0.75
    assert frequency_weighted_iou(confusion) == 0.75
    nothing = torch.zeros(2, 3, 3, dtype=torch.long)
    assert pixel_accuracy(nothing).isnan().all()
    assert frequency_weighted_iou(nothing).isnan().all()


def test_a_class_in_neither_is_left_out_and_one_in_either_counts() -> None:
    labels, prediction = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2])
    confusion = confusion_matrix(prediction, labels, 4)
    iou = class_iou(confusion).tolist()
    assert iou[:3] == [1.0, 0.5, 0.0]
    assert math.isnan(iou[3])
    assert mean_iou(confusion).item() == 0.5
    assert math.isnan(mean_iou(torch.zeros(4, 4)))


def test_void_never_counts() -> None:
    labels = torch.full((4, 4), IGNORE_INDEX)
    assert confusion_matrix(torch.zeros(4, 4), labels, 3).sum() == 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        confusion_matrix(torch.zeros(2), torch.zeros(3), 2)
    with pytest.raises(ValueError, match="labels must contain class ids 0 to 1, got 0 to 2"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="prediction must contain class ids 0 to 1"):
        confusion_matrix(torch.tensor([0, 5]), torch.tensor([0, 1]), 2)
