"""Compare intervals and tests with SciPy's, and scores of weighted frames with evaluations of repeated frames."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from evaluation.samples import random_evaluation, with_counts, with_frames, without_extras

from ccnet3d.evaluation import Evaluation
from ccnet3d.evaluation.resampling import compare, confidence_intervals, scores_of, weighted_scores


def own_scores(evaluation: Evaluation) -> dict[str, float]:
    table = evaluation.to_table()
    own = {name: value for name, value in table.items() if isinstance(value, float)} | table["consistency"]
    return own | {f"iou {name}": value for name, value in table["per_class_iou"].items()}


def test_weights_of_one_give_the_evaluations_own_scores() -> None:
    evaluation = random_evaluation(0)
    assert scores_of(evaluation) == pytest.approx(own_scores(evaluation), rel=1e-12)
    assert evaluation.scores == pytest.approx({k: v for k, v in own_scores(evaluation).items() if k[:4] != "iou "})
    assert list(scores_of(without_extras(evaluation))) == [
        "miou", "per_frame_miou", "video_miou", "pixel_accuracy", "class_accuracy", "frequency_weighted_iou",
        "iou a", "iou b", "iou c",
    ]  # fmt: skip


def test_a_weighted_frame_is_a_repeated_one() -> None:
    evaluation = random_evaluation(1)
    weights = [2, 0, 1, 3, 1, 0, 0, 0, 0, 1, 1, 4]  # nothing of the second video
    positions = [p for p, weight in enumerate(weights) for _ in range(weight)]
    repeated = with_frames(evaluation, positions, [evaluation.frames[p].sequence for p in positions])
    ones = torch.ones(1, 3).double()
    mine = weighted_scores(evaluation, torch.tensor([weights]).double(), ones)
    assert {name: value.item() for name, value in mine.items()} == pytest.approx(own_scores(repeated), rel=1e-12)


def test_a_weighted_video_is_a_repeated_one() -> None:
    evaluation = random_evaluation(2)
    frames = torch.tensor([[2] * 5 + [0] * 4 + [1] * 3]).double()
    mine = weighted_scores(evaluation, frames, torch.tensor([[2, 0, 1]]).double())
    positions = [*range(5), *range(5), *range(9, 12)]
    repeated = with_frames(evaluation, positions, ["one"] * 5 + ["two"] * 5 + ["three"] * 3)
    assert {name: value.item() for name, value in mine.items()} == pytest.approx(own_scores(repeated), rel=1e-12)


def test_intervals_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    evaluation = random_evaluation(3, (20, 15, 25))
    frame_miou = (evaluation.confusions.double().diagonal(dim1=1, dim2=2) / (
        evaluation.confusions.sum(1) + evaluation.confusions.sum(2) - evaluation.confusions.diagonal(dim1=1, dim2=2)
    )).mean(1).numpy()  # fmt: skip
    truth = stats.bootstrap((frame_miou,), np.mean, n_resamples=20_000, method="percentile", rng=5)
    width = truth.confidence_interval.high - truth.confidence_interval.low
    mine = confidence_intervals(evaluation, "frames")["per_frame_miou"]
    assert mine == pytest.approx(tuple(truth.confidence_interval), abs=0.06 * width)

    def pooled_miou(positions: np.ndarray) -> float:
        return with_frames(evaluation, list(positions), ["one"] * len(positions)).miou

    truth = stats.bootstrap(
        (np.arange(60),), pooled_miou, n_resamples=2000, method="percentile", vectorized=False, rng=5
    )
    mine = confidence_intervals(evaluation, "frames")["miou"]
    width = truth.confidence_interval.high - truth.confidence_interval.low
    assert mine == pytest.approx(tuple(truth.confidence_interval), abs=0.1 * width)


def test_intervals_over_videos_are_of_their_scores() -> None:
    evaluation = random_evaluation(4, (6, 6))
    low, high = confidence_intervals(evaluation, "videos")["video_miou"]
    single = [with_frames(evaluation, list(range(s, s + 6)), ["x"] * 6).miou for s in (0, 6)]
    # Of two videos, one is drawn twice in half of the samples.
    assert (low, high) == pytest.approx((min(single), max(single)), rel=1e-12)
    assert confidence_intervals(evaluation, "videos") == confidence_intervals(evaluation, "videos")


def test_one_unit_has_no_interval() -> None:
    evaluation = random_evaluation(5, (7,))
    assert set(confidence_intervals(evaluation, "videos").values()) == {None}
    assert None not in confidence_intervals(evaluation, "frames").values()
    assert set(confidence_intervals(random_evaluation(5, (1,)), "frames").values()) == {None}


def test_a_class_that_is_nowhere_has_no_interval() -> None:
    evaluation = random_evaluation(6)
    confusions = evaluation.confusions.clone()
    confusions[:, 2] = confusions[:, :, 2] = 0
    evaluation = with_counts(evaluation, confusion=confusions)
    intervals = confidence_intervals(evaluation, "frames")
    assert intervals["iou c"] is None
    low, high = intervals["miou"]
    assert low < evaluation.miou < high
    difference = compare(evaluation, evaluation)["iou c"]
    assert math.isnan(difference.value)
    assert (difference.intervals["frames"], difference.p_values["frames"]) == (None, None)


def test_p_values_are_scipys() -> None:
    """SciPy computes all 2^12 exchanges, ours are a sample of them."""
    stats = pytest.importorskip("scipy.stats")
    first, second = random_evaluation(7), random_evaluation(8, skill=3.15)
    counts = torch.cat([first.confusions, second.confusions]).double()

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        pooled = [counts[torch.from_numpy(np.moveaxis(side, axis, -1).astype(int))].sum(-3) for side in (a, b)]
        hits = [side.diagonal(dim1=-2, dim2=-1) for side in pooled]
        iou = [hit / (side.sum(-1) + side.sum(-2) - hit) for hit, side in zip(hits, pooled, strict=True)]
        return (iou[1].mean(-1) - iou[0].mean(-1)).numpy()

    truth = stats.permutation_test(
        (np.arange(12), np.arange(12, 24)), difference, permutation_type="samples", vectorized=True, n_resamples=5000
    )
    mine = compare(first, second)["miou"]
    assert mine.value == pytest.approx(truth.statistic, rel=1e-10)
    assert 0.02 < truth.pvalue < 0.8
    assert mine.p_values["frames"] == pytest.approx(truth.pvalue, abs=0.04)
    # With three videos there are eight exchanges, and the observed one and its mirror are the largest.
    assert mine.p_values["videos"] >= 0.2


def test_a_run_does_not_differ_from_itself_and_a_better_one_does() -> None:
    first, better = random_evaluation(9, (12, 12)), random_evaluation(10, (12, 12), skill=6)
    same = compare(first, first)["miou"]
    assert (same.value, same.intervals["frames"], same.p_values["frames"]) == (0, (0, 0), 1)
    difference = compare(first, better)["miou"]
    assert difference.p_values["frames"] == pytest.approx(1 / 2001)
    assert 0 < difference.intervals["frames"].low < difference.value < difference.intervals["frames"].high
    assert compare(better, first)["miou"].value == -difference.value


def test_scores_of_one_run_only_are_left_out() -> None:
    first = random_evaluation(11)
    names = compare(first, without_extras(first)).keys()
    assert not names & {"boundary_f", "boundary_iou", "tc", "flicker", "vc8_strict"}
    assert "miou" in names


def test_runs_that_cannot_be_compared() -> None:
    first = random_evaluation(12)
    other_classes = dataclasses.replace(first, class_names=("a", "b", "z"))
    with pytest.raises(ValueError, match="runs with different classes cannot be compared: a, b, c and a, b, z"):
        compare(first, other_classes)
    fewer = with_frames(first, list(range(11)), [frame.sequence for frame in first.frames[:11]])
    with pytest.raises(ValueError, match=r"got 12 and 11 frames; frame 2 of v2 is in only one of them"):
        compare(first, fewer)
    confusions = first.confusions.clone()
    confusions[6, 1, 1] += 1
    with pytest.raises(ValueError, match="same labels can be compared; the labels of frame 1 of v1 differ"):
        compare(first, with_counts(first, confusion=confusions))
