from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from metrics.counting import class_scores_of, counts_of, score_of
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.metrics import BoundaryIou

VOID = IGNORE_INDEX


def band_loop(region: list[list[bool]], distance: int) -> set[tuple[int, int]]:
    """Return the pixels of a region whose square neighborhood is not entirely in the region and in the image."""
    height, width = len(region), len(region[0])

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and region[y][x]

    reach = range(-distance, distance + 1)
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        if region[y][x] and not all(inside(y + dy, x + dx) for dy in reach for dx in reach)
    }


def counts_loop(prediction: Tensor, labels: Tensor, classes: int, distance: int) -> list[list[int]]:
    counts = []
    for k in range(classes):
        regions = [
            [[here == k and label != VOID for here, label in zip(*rows, strict=True)]
             for rows in zip(ids.tolist(), labels.tolist(), strict=True)]
            for ids in (prediction, labels)
        ]  # fmt: skip
        bands = [band_loop(region, distance) for region in regions]
        counts.append([len(bands[0] & bands[1]), len(bands[0] | bands[1])])
    return counts


def counts_opencv(prediction: Tensor, labels: Tensor, classes: int) -> list[list[int]]:
    """Count as the code of the paper does: the mask less its erosion, with zeros around the image."""
    diagonal = math.sqrt(labels.shape[0] ** 2 + labels.shape[1] ** 2)
    steps = max(round(0.02 * diagonal), 1)
    counts = []
    for k in range(classes):
        bands = []
        for ids in (prediction, labels):
            mask = ((ids == k) & (labels != VOID)).numpy().astype(np.uint8)
            padded = np.pad(mask, 1)
            for _ in range(steps):
                padded = cv2.erode(padded, np.ones((3, 3), np.uint8))
            bands.append((mask - padded[1:-1, 1:-1]).astype(bool))
        counts.append([int((bands[0] & bands[1]).sum()), int((bands[0] | bands[1]).sum())])
    return counts


def random_frame(seed: int, height: int, width: int, block: int) -> tuple[Tensor, Tensor]:
    """Return blocks of 3 of 4 classes, shifted slightly in the prediction, with void over some of the labels."""
    generator = torch.Generator().manual_seed(seed)
    shape = -(-height // block), -(-width // block)
    blocks = torch.randint(0, 3, shape, generator=generator).repeat_interleave(block, 0).repeat_interleave(block, 1)
    labels = blocks[:height, :width].clone()
    prediction = labels.roll((seed % 3, 2 * seed % 5), (0, 1)).clone()
    prediction[torch.rand(labels.shape, generator=generator) < 0.01] = 1
    labels[height // 3 : height // 2, width // 2 : width // 2 + block // 2] = VOID
    return prediction, labels


@pytest.mark.parametrize("distance", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_against_a_loop(distance: int, seed: int) -> None:
    prediction, labels = random_frame(seed, 17, 23, 7)
    meter = BoundaryIou(4, distance / math.hypot(17, 23))
    counts = meter.update(prediction.to(torch.uint8), labels)
    assert counts.tolist() == counts_loop(prediction, labels, 4, distance)
    assert counts.dtype == torch.long
    assert 0 < counts[:, 0].sum() < counts[:, 1].sum()


@pytest.mark.parametrize(("height", "width", "block"), [(90, 120, 25), (360, 480, 60), (31, 500, 30), (5, 4, 3)])
def test_against_erosions_by_opencv(height: int, width: int, block: int) -> None:
    for seed in range(3):
        prediction, labels = random_frame(seed, height, width, block)
        assert BoundaryIou(4).update(prediction, labels).tolist() == counts_opencv(prediction, labels, 4)


def test_by_hand() -> None:
    """A square of 6 x 6 in the corner of 8 x 8, predicted one pixel further left: bands one pixel wide."""
    labels, prediction = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[1:7, 1:7] = 1
    prediction[1:7, 0:6] = 1
    # Of the two outlines of 20 pixels, the upper and lower sides share 5 pixels each, the left and right sides none.
    assert BoundaryIou(2).update(prediction, labels)[1].tolist() == [10, 30]
    assert BoundaryIou(2).update(labels, labels)[1].tolist() == [20, 20]
    # Around the square, class 0 is one pixel wide, all of it near the contour: as its mask IoU.
    assert BoundaryIou(2).update(prediction, labels)[0].tolist() == [22, 34]


def test_the_border_of_the_image_is_a_contour() -> None:
    labels = torch.zeros(100, 100, dtype=torch.long)
    assert BoundaryIou(1).update(labels, labels).tolist() == [[100**2 - 94**2] * 2]  # round(0.02 * 141.4) is 3


def test_void_is_no_class_on_either_side() -> None:
    labels = torch.zeros(60, 60, dtype=torch.long)
    labels[20:40, 20:40] = VOID
    for predicted_in_void in (0, 1, 2):
        prediction = torch.where(labels == VOID, predicted_in_void, 0)
        counts = BoundaryIou(3).update(prediction, labels).tolist()
        assert counts[1:] == [[0, 0], [0, 0]]
        assert counts[0] == [60**2 - 56**2 + 24**2 - 20**2] * 2  # inside of the border, around void
    assert BoundaryIou(3).update(labels * 0, torch.full_like(labels, VOID)).sum() == 0


def test_frames_are_pooled_and_classes_averaged() -> None:
    frames = [random_frame(seed, 40, 50, 12) for seed in range(4)]
    counts = torch.stack(counts_of(BoundaryIou(4), [frames])).sum(0).tolist()
    truth = [both / either for both, either in counts[:3]]
    classes = class_scores_of("boundary_iou", BoundaryIou(4), frames)
    assert classes[:3] == pytest.approx(truth)
    assert math.isnan(classes[3])
    assert score_of("boundary_iou", BoundaryIou(4), [frames]) == pytest.approx(sum(truth) / 3)
    assert math.isnan(score_of("boundary_iou", BoundaryIou(3), []))
    only_labeled = torch.zeros(20, 20, dtype=torch.long), torch.ones(20, 20, dtype=torch.long)
    assert class_scores_of("boundary_iou", BoundaryIou(3), [only_labeled])[:2] == [0, 0]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="distance must be a share of the diagonal between 0 and 1, got 2"):
        BoundaryIou(3, 2)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3, 2\)"):
        BoundaryIou(3).update(torch.zeros(2, 3), torch.zeros(3, 2))
