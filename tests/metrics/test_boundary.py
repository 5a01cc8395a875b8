from __future__ import annotations

import math
import sys

import pytest
import torch
from metrics.counting import class_scores_of, score_of
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import UserError
from ccnet3d.metrics import BoundaryF, boundary_f

VOID = IGNORE_INDEX


def boundary_loop(region: list[list[bool]]) -> list[tuple[int, int]]:
    """Return the pixels that differ from their right, lower or lower right neighbor, as DAVIS defines boundaries."""
    height, width = len(region), len(region[0])
    found = []
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(j < height and i < width and region[j][i] != region[y][x] for j, i in others):
                found.append((y, x))
    return found


def near_loop(these: list[tuple[int, int]], those: list[tuple[int, int]], reach: int) -> int:
    return sum(any((y - j) ** 2 + (x - i) ** 2 <= reach**2 for j, i in those) for y, x in these)


def f_loop(prediction: Tensor, labels: Tensor, k: int, reach: int) -> float:
    """Return the F-score of a class by definition; NaN if it has no boundary."""
    known = (labels != VOID).tolist()
    regions = [
        [[here == k and ok for here, ok in zip(*rows, strict=True)] for rows in zip(ids.tolist(), known, strict=True)]
        for ids in (prediction, labels)
    ]
    predicted, true = map(boundary_loop, regions)
    if not predicted and not true:
        return math.nan
    if not predicted or not true:
        return 0.0
    precision = near_loop(predicted, true, reach) / len(predicted)
    recall = near_loop(true, predicted, reach) / len(true)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def random_frame(seed: int, height: int = 17, width: int = 23) -> tuple[Tensor, Tensor]:
    """Return blocks of 3 of 4 classes, shifted slightly in the prediction, with void over some of the labels."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 3, (5, 6), generator=generator).repeat_interleave(4, 0).repeat_interleave(5, 1)
    labels = blocks[:height, :width].clone()
    prediction = labels.roll((seed % 3, 2 * seed % 5), (0, 1)).clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.05] = VOID
    labels[3:7, 8:12] = VOID
    prediction[torch.rand(labels.shape, generator=generator) < 0.03] = 1
    return prediction, labels


@pytest.mark.parametrize("tolerance", [0.001, 0.05, 0.1])
def test_against_a_loop(tolerance: float) -> None:
    metric = BoundaryF(4, tolerance)
    frames, per_frame = [], []
    for seed in range(5):
        prediction, labels = random_frame(seed)
        reach = math.ceil(tolerance * math.sqrt(17**2 + 23**2))
        truth = [f_loop(prediction, labels, k, reach) for k in range(4)]
        assert boundary_f(metric.update(prediction.to(torch.uint8), labels)).tolist() == pytest.approx(
            truth, nan_ok=True
        )
        per_frame.append(truth)
        frames.append((prediction, labels))
    means = torch.tensor(per_frame, dtype=torch.double).nanmean(0)
    classes, score = class_scores_of("boundary_f", metric, frames), score_of("boundary_f", metric, [frames])
    assert classes == pytest.approx(means.tolist(), nan_ok=True)
    assert math.isnan(classes[3])
    assert score == pytest.approx(means[:3].mean().item())
    assert 0 < score < 1


def test_by_hand() -> None:
    """A step in the middle of 1 x 8 pixels, predicted two pixels further right: 2 pixels of tolerance reach it."""
    labels, prediction = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]]), torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1]])
    assert BoundaryF(2, 0.2).update(prediction, labels).tolist() == [[1, 1, 1, 1]] * 2
    assert BoundaryF(2, 0.1).update(prediction, labels).tolist() == [[1, 0, 1, 0]] * 2
    assert score_of("boundary_f", BoundaryF(2, 0.1), [[(prediction, labels)]]) == 0
    assert score_of("boundary_f", BoundaryF(2, 0.1), [[(prediction, labels), (labels, labels)]]) == 0.5


def test_what_is_predicted_in_void_does_not_matter() -> None:
    prediction, labels = random_frame(3)
    other = torch.where(labels == VOID, 2, prediction)
    assert not torch.equal(other, prediction)
    assert torch.equal(BoundaryF(3).update(prediction, labels), BoundaryF(3).update(other, labels))
    assert BoundaryF(3).update(prediction, torch.full_like(labels, VOID)).sum() == 0


def test_a_perfect_prediction_and_a_class_on_one_side_only() -> None:
    _, labels = random_frame(1)
    assert score_of("boundary_f", BoundaryF(3), [[(labels.masked_fill(labels == VOID, 0), labels)]]) == 1
    other = torch.zeros(6, 6, dtype=torch.long), torch.eye(6, dtype=torch.long)
    classes = class_scores_of("boundary_f", BoundaryF(3), [other])
    assert classes[:2] == [0, 0]
    assert math.isnan(classes[2])
    assert math.isnan(score_of("boundary_f", BoundaryF(3), []))


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="tolerance must be a share of the diagonal between 0 and 1, got 5"):
        BoundaryF(3, 5)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3, 2\)"):
        BoundaryF(3).update(torch.zeros(2, 3), torch.zeros(3, 2))
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r'scipy, which is not installed: pip install "ccnet3d\[evaluate\]"'):
        BoundaryF(3)
