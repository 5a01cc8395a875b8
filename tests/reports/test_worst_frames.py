from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from ccnet3d.data import DataSource, LabelledSequences
from ccnet3d.evaluation import evaluate_masks
from ccnet3d.metrics import mean_iou
from ccnet3d.reports.worst_frames import WorstFrames

MISTAKES = [5, 40, 0, 300, 2, 120, 300, 7, 0, 33, 90]
"""Wrong pixels in the mask of each frame of the split ``train``; some frames have equal numbers."""


@pytest.fixture
def dataset(yard: Path) -> LabelledSequences:
    return DataSource(yard).open("train")


def mask_of(dataset: LabelledSequences, index: int) -> np.ndarray:
    """The label with its number of wrong pixels in the first rows, and a class where the label is void."""
    mask = dataset.read_label(index).numpy().astype(np.uint8)
    mask[mask == 255] = 2
    mask[2:].flat[: MISTAKES[index]] = 1
    return mask


def watched(dataset: LabelledSequences, worst: WorstFrames) -> list[float]:
    """Every frame's mIoU."""
    result = evaluate_masks(lambda segment: (mask_of(dataset, i) for i in segment), dataset, on_frame=worst)
    return mean_iou(result.confusions).tolist()


def decoded(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == {"data:image/png": "PNG", "data:image/jpeg": "JPEG"}[kind]
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("count", [0, 1, 4, 20])
def test_the_lowest_are_kept_in_order(dataset: LabelledSequences, count: int) -> None:
    worst = WorstFrames(count)
    scores = watched(dataset, worst)
    order = sorted(range(11), key=lambda i: (scores[i], i))[:count]
    strips = worst.strips(dataset)
    assert [strip.miou for strip in strips] == [scores[i] for i in order]
    assert [(s.frame.sequence, s.frame.number) for s in strips] == [
        (dataset.frames[i].sequence, dataset.frames[i].number) for i in order
    ]


def test_pictures_are_of_the_frame_its_label_and_mask(dataset: LabelledSequences) -> None:
    worst = WorstFrames(1)
    scores = watched(dataset, worst)
    index = scores.index(min(scores))
    (strip,) = worst.strips(dataset)
    assert list(strip.pictures) == ["image", "label", "prediction", "error"]
    labels, mask = dataset.read_label(index).numpy(), mask_of(dataset, index)
    palette = np.array([*dataset.spec.palette, *[(0, 0, 0)] * 253])
    np.testing.assert_array_equal(decoded(strip.pictures["label"]), palette[labels])
    np.testing.assert_array_equal(decoded(strip.pictures["prediction"]), palette[mask])
    error = decoded(strip.pictures["error"])
    assert {tuple(c) for c in error[labels == 255].tolist()} == {(128, 134, 142)}
    assert {tuple(c) for c in error[(labels != 255) & (mask == labels)].tolist()} == {(54, 96, 84)}
    assert {tuple(c) for c in error[(labels != 255) & (mask != labels)].tolist()} == {(255, 112, 67)}
    photo = decoded(strip.pictures["image"]).astype(int)
    assert np.abs(photo - dataset.read_image(index).permute(1, 2, 0).numpy()).mean() < 12  # of a noisy JPEG
    confusion = torch.tensor([[((labels == i) & (mask == j)).sum() for j in range(3)] for i in range(3)])
    hits = confusion.diag()
    assert strip.iou == pytest.approx((hits / (confusion.sum(0) + confusion.sum(1) - hits)).tolist())


def test_without_camera_pictures_and_smaller(dataset: LabelledSequences) -> None:
    worst = WorstFrames(1)
    watched(dataset, worst)
    (strip,) = worst.strips(dataset, images=False, max_width=32)
    assert list(strip.pictures) == ["label", "prediction", "error"]
    colors = {tuple(color) for color in decoded(strip.pictures["label"]).reshape(-1, 3).tolist()}
    assert decoded(strip.pictures["label"]).shape == (24, 32, 3)
    assert colors <= {*dataset.spec.palette, (0, 0, 0)}  # no mixtures


def test_unlabeled_frames_are_not_kept() -> None:
    worst = WorstFrames(2)
    worst(0, np.zeros((2, 2), np.uint8), torch.zeros(3, 3, dtype=torch.long))
    assert worst._kept == []


def test_processes_together_equal_one(dataset: LabelledSequences, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = WorstFrames(3)
    watched(dataset, alone)
    expected = [(strip.frame, strip.miou) for strip in alone.strips(dataset)]
    shares = [WorstFrames(3), WorstFrames(3)]
    for number, worst in enumerate(shares):
        evaluate_masks(
            lambda segment: (mask_of(dataset, i) for i in segment), dataset, on_frame=worst, segments=[number]
        )
    kept = [list(worst._kept) for worst in shares]
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", lambda parts, _: parts.__setitem__(slice(None), kept))
    for worst in shares:
        worst.gather()
        assert [(strip.frame, strip.miou) for strip in worst.strips(dataset)] == expected
