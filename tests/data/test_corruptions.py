from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import draw_scene
from PIL import Image

from ccnet3d.data import CORRUPTIONS, SEVERITIES, check_corruption, corrupt_frame
from ccnet3d.errors import UserError

NAMES = ("noise", "blur", "jpeg", "occlusion", "drop")


def gray_frame(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_names_and_severities() -> None:
    assert tuple(CORRUPTIONS) == NAMES
    assert SEVERITIES == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(48, 64), (23, 17), (1, 1)])
def test_a_corrupted_frame_has_the_shape_and_can_be_written_to(name: str, size: tuple[int, int]) -> None:
    """PyTorch warns of arrays that cannot be written to."""
    frame = draw_scene(1)[0][: size[0], : size[1]].copy()
    original = frame.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for severity in SEVERITIES:
            for seed in range(10):
                corrupted = corrupt_frame(frame, name, severity, (0, seed))
                assert (corrupted.shape, corrupted.dtype) == (frame.shape, np.uint8)
                torch.from_numpy(corrupted)
    assert np.array_equal(frame, original)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_determines_the_draws(name: str) -> None:
    frame = draw_scene(1)[0]
    drawn = [corrupt_frame(frame, name, 3, (0, index)).tobytes() for index in range(30)]
    np.random.seed(1)  # noqa: NPY002  # the global generator has no influence
    assert [corrupt_frame(frame, name, 3, (0, index)).tobytes() for index in reversed(range(30))] == drawn[::-1]
    # noise and occlusion always differ; a frame is blurred or dropped, or stays as it is
    distinct = {"noise": (30, 30), "occlusion": (28, 30), "blur": (8, 22), "drop": (2, 2), "jpeg": (1, 1)}
    fewest, most = distinct[name]
    assert fewest <= len(set(drawn)) <= most
    if name != "jpeg":
        assert [corrupt_frame(frame, name, 3, (1, index)).tobytes() for index in range(30)] != drawn


@pytest.mark.parametrize("name", NAMES)
def test_damage_grows_with_the_severity(name: str) -> None:
    """By the mean absolute error over many draws, on smooth random colors: JPEG would denoise a noisy frame."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    frame = np.array(Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC))
    errors = [
        np.mean([np.abs(frame - corrupt_frame(frame, name, s, (0, seed)).astype(float)).mean() for seed in range(60)])
        for s in SEVERITIES
    ]
    assert errors[0] > 0
    assert all(later > 1.05 * earlier for earlier, later in pairwise(errors)), errors


@pytest.mark.parametrize(("severity", "deviation"), [(1, 5), (2, 10), (3, 15), (4, 20), (5, 30)])
def test_standard_deviation_of_noise(severity: int, deviation: float) -> None:
    frame = gray_frame(128, 100, 100)
    noise = corrupt_frame(frame, "noise", severity, (0, 0)).astype(float) - frame
    rounded = math.sqrt(deviation**2 + 1 / 12)  # rounding adds the variance of a uniform distribution of width 1
    assert noise.std() == pytest.approx(rounded, rel=0.03)
    assert abs(noise.mean()) < 0.02 * deviation


def test_noise_is_clipped() -> None:
    assert corrupt_frame(gray_frame(255), "noise", 5, (0, 0)).min() > 255 - 6 * 30  # nothing wraps around
    assert corrupt_frame(gray_frame(0), "noise", 5, (0, 0)).max() < 6 * 30


@pytest.mark.parametrize(("severity", "percent"), [(1, 0.5), (2, 1), (3, 1.5), (4, 2), (5, 3)])
def test_every_second_frame_is_blurred_by_up_to_a_share_of_its_height(severity: int, percent: float) -> None:
    """A Gaussian of standard deviation s changes a step edge from 0 to 255 by 255 s sqrt(2 / pi) per row, in total."""
    frame = gray_frame(0, 400, 100)
    frame[:, 50:] = 255
    totals = np.array(
        [
            np.abs(corrupt_frame(frame, "blur", severity, (0, seed))[200, :, 0] - frame[200, :, 0].astype(float)).sum()
            for seed in range(200)
        ]
    )
    assert (totals > 0).mean() == pytest.approx(0.5, abs=0.1)
    deviations = totals[totals > 0] / (255 * math.sqrt(2 / math.pi))
    largest = percent / 100 * 400
    assert 0.9 * largest < deviations.max() < 1.1 * largest
    assert deviations.mean() == pytest.approx(largest / 2, rel=0.2)


@pytest.mark.parametrize(("severity", "quality"), [(1, 40), (2, 25), (3, 15), (4, 10), (5, 7)])
def test_quality_of_jpeg(severity: int, quality: int) -> None:
    """A flat gray block has one coefficient, 8 (v - 128), rounded to a multiple of the quantization step.

    The step of the JPEG standard's luminance table is 16, scaled by 50 / quality as libjpeg does below quality 50.
    """
    step = (16 * (5000 // quality) + 50) // 100
    assert step == {40: 20, 25: 32, 15: 53, 10: 80, 7: 114}[quality]
    for value in range(10, 250, 7):
        steps = 8 * (value - 128) / step
        if abs(steps % 1 - 0.5) < 0.01:
            continue  # halfway between two multiples
        expected = min(255, max(0, 128 + round(steps) * step / 8))
        corrupted = corrupt_frame(gray_frame(value, 16, 16), "jpeg", severity, (0, 0))
        assert np.abs(corrupted - expected).max() <= 1, value


def test_one_block_covers_a_sixteenth() -> None:
    for seed in range(20):
        covered = corrupt_frame(gray_frame(10, 41, 62), "occlusion", 1, (0, seed))[..., 0] == 127
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        assert (len(rows), len(columns)) == (11, 16)  # 41 / 4 and 62 / 4, rounded up
        assert covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert covered.sum() == 11 * 16


@pytest.mark.parametrize("severity", SEVERITIES)
def test_share_of_occluded_pixels(severity: int) -> None:
    """The blocks start at 31 x 46 positions with equal probability; count those that cover each pixel."""
    hits = np.zeros((40, 60))
    for top in range(31):
        for left in range(46):
            hits[top : top + 10, left : left + 15] += 1
    uncovered = (1 - hits / (31 * 46)) ** severity
    frame = gray_frame(10, 40, 60)
    covered = np.mean(
        [corrupt_frame(frame, "occlusion", severity, (0, seed))[..., 0] == 127 for seed in range(400)], axis=0
    )
    assert covered.mean() == pytest.approx(1 - uncovered.mean(), rel=0.02)
    assert np.abs(covered - (1 - uncovered)).max() < 0.15  # in every pixel


@pytest.mark.parametrize("severity", SEVERITIES)
def test_share_of_dropped_frames(severity: int) -> None:
    frame = gray_frame(10, 4, 4)
    frames = [corrupt_frame(frame, "drop", severity, (0, seed)) for seed in range(1000)]
    dropped = [not corrupted.any() for corrupted in frames]
    assert all(np.array_equal(corrupted, frame) for corrupted, gone in zip(frames, dropped, strict=True) if not gone)
    assert np.mean(dropped) == pytest.approx(severity / 10, abs=0.04)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("fog", 1, "there is no corruption 'fog'; choose from noise, blur, jpeg, occlusion, drop"),
        ("noise", 0, "the severity must be 1 to 5, got 0"),
        ("noise", 6, "the severity must be 1 to 5, got 6"),
    ],
)
def test_unknown_corruptions_and_severities(name: str, severity: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_corruption(name, severity)
    with pytest.raises(UserError, match=message):
        corrupt_frame(gray_frame(0), name, severity, (0, 0))
