from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from metrics.counting import score_of
from torch import Tensor

from ccnet3d.metrics import Flicker, flicker_mask


def flicker(videos: list[list[Tensor]]) -> float:
    return score_of("flicker", Flicker(), [[(prediction, prediction) for prediction in video] for video in videos])


def flicker_loop(videos: list[list[Tensor]]) -> float:
    """By definition: every three frames, every pixel."""
    flickers = pixels = 0
    for video in videos:
        for t in range(1, len(video) - 1):
            for y in range(video[t].shape[0]):
                for x in range(video[t].shape[1]):
                    before, now, after = (int(video[t + step][y, x]) for step in (-1, 0, 1))
                    pixels += 1
                    flickers += before == after and now != before
    return flickers / pixels if pixels else math.nan


def pixel(*classes: int) -> list[Tensor]:
    """A video of one pixel."""
    return [torch.tensor([[c]]) for c in classes]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ((0, 0, 0, 0), 0.0),
        ((0, 1, 0), 1.0),
        ((0, 1, 1), 0.0),  # a change that stays
        ((0, 1, 2), 0.0),  # a change to a third class
        ((0, 1, 1, 0), 0.0),  # back, but two frames later
        ((0, 1, 0, 1, 0), 1.0),
        ((0, 0, 1, 0, 0, 0), 1 / 4),
        ((255, 0, 255), 1.0),
    ],
)
def test_hand_cases(classes: tuple[int, ...], expected: float) -> None:
    assert flicker([pixel(*classes)]) == expected


def test_pixels_are_pooled_over_frames_and_videos_and_no_triple_crosses_a_gap() -> None:
    still = [torch.zeros(2, 3, dtype=torch.uint8)] * 3  # 6 pixels that stay
    assert flicker([pixel(0, 1, 0), still]) == 1 / 7
    assert flicker([pixel(0, 1), pixel(0, 0, 0)]) == 0.0


def test_without_three_frames_there_is_no_score() -> None:
    assert math.isnan(flicker([]))
    assert math.isnan(flicker([pixel(0, 1), pixel(0)]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.long])
def test_is_the_loop_by_definition(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    videos = [
        [torch.randint(0, 3, (4, 5), generator=generator).to(dtype) for _ in range(frames)] for frames in (7, 2, 1, 5)
    ]
    expected = flicker_loop(videos)
    assert 0.05 < expected < 0.5
    assert flicker(videos) == expected


def test_a_change_of_size_is_refused() -> None:
    meter = Flicker()
    meter.update(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"one size, got \(2, 3\) and \(3, 2\); call start_segment\(\) between"):
        meter.update(torch.zeros(3, 2, dtype=torch.long))


def test_flicker_of_one_frame_as_tensors_and_arrays() -> None:
    frames = torch.randint(0, 2, (3, 4, 5), generator=torch.Generator().manual_seed(1))
    before, last, now = frames
    expected = [[bool(before[y, x] == now[y, x] and last[y, x] != now[y, x]) for x in range(5)] for y in range(4)]
    assert flicker_mask(before, last, now).tolist() == expected
    of_arrays = flicker_mask(*(frame.numpy() for frame in frames))
    assert isinstance(of_arrays, np.ndarray)
    assert of_arrays.tolist() == expected
