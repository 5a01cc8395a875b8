from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from metrics.counting import counts_of, score_of
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.metrics import (
    ChangedPixels,
    KeptPixels,
    MeterOptions,
    Samples,
    TemporalConsistency,
    VideoConsistency,
    find_metric,
    find_score,
)

VOID = IGNORE_INDEX
Videos = list[list[tuple[Tensor, Tensor]]]
"""Prediction and labels of each frame."""


def vc_of_windows(video: list[tuple[Tensor, Tensor]], window: int, *, strict: bool) -> list[float]:
    """By definition: every window, every pixel; ``reference`` as in the published script."""
    scores = []
    for start in range(len(video) - window + (1 if strict else 0)):
        frames = video[start : start + window]
        stable = kept = 0
        for y in range(video[0][1].shape[0]):
            for x in range(video[0][1].shape[1]):
                labels = {int(label[y, x]) for _, label in frames}
                predictions = {int(prediction[y, x]) for prediction, _ in frames}
                if len(labels) > 1 or (strict and labels == {VOID}):
                    continue
                stable += 1
                kept += predictions == labels if strict else len(predictions) == 1
        if stable:
            scores.append(kept / stable)
    return scores


def vc_loop(videos: Videos, window: int, *, strict: bool) -> float:
    scores = [score for video in videos for score in vc_of_windows(video, window, strict=strict)]
    return sum(scores) / len(scores) if scores else math.nan


def vc(videos: Videos, window: int, *, strict: bool) -> float:
    name = f"vc{window}_{'strict' if strict else 'reference'}"
    return score_of(name, VideoConsistency(window, strict=strict), videos)


def random_video(
    seed: int, frames: int, *, height: int = 4, width: int = 3, change: float = 0.15
) -> list[tuple[Tensor, Tensor]]:
    """Return labels that change sometimes, some of them to void, and predictions that are mostly right."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> Tensor:
        return torch.randint(0, high, (height, width), generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(height, width, generator=generator) < probability

    labels, prediction = draw(3), draw(3)
    video = []
    for _ in range(frames):
        labels = torch.where(chance(change), draw(3), labels)
        labels = torch.where(chance(change / 4), VOID, labels)
        prediction = torch.where(chance(0.3), labels.clamp(max=2), prediction)
        video.append((prediction.to(torch.uint8), labels))
    return video


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("window", [2, 3, 5, 8])
@pytest.mark.parametrize("change", [0.05, 0.15, 0.6])
def test_vc_against_a_loop(window: int, strict: bool, change: float) -> None:
    for seed in range(5):
        lengths = [9, 1, window, 4, window + 1, 13]
        videos = [random_video(10 * seed + i, length, change=change) for i, length in enumerate(lengths)]
        assert vc(videos, window, strict=strict) == pytest.approx(vc_loop(videos, window, strict=strict), nan_ok=True)


def test_vc_where_some_windows_have_no_stable_pixel() -> None:
    """One pixel: windows without a constant label are left out of the mean, and so is the last one of each video."""
    for seed in range(30):
        videos = [random_video(seed, 9, height=1, width=1, change=0.4)]
        for strict in (True, False):
            truth = vc_loop(videos, 2, strict=strict)
            assert vc(videos, 2, strict=strict) == pytest.approx(truth, nan_ok=True)


def frames(*masks: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(mask) for mask in masks]


def vc_of(predictions: list[Tensor], labels: list[Tensor], window: int, *, strict: bool) -> float:
    return vc([list(zip(predictions, labels, strict=True))], window, strict=strict)


def test_vc_by_hand() -> None:
    labels = frames(
        [[0, 0, 1], [0, 0, 1], [2, 2, VOID]],
        [[0, 0, 1], [0, 1, 1], [2, 2, VOID]],
        [[0, 0, 1], [0, 1, 1], [2, 2, VOID]],
    )
    predictions = frames(
        [[0, 0, 1], [0, 0, 2], [2, 0, 0]],
        [[0, 1, 1], [0, 1, 2], [2, 0, 0]],
        [[0, 1, 1], [0, 1, 2], [0, 2, 1]],
    )
    # Frames 0, 1: the middle changes its label, the corner is void. Of the other 7 pixels, those at (0, 0), (0, 2),
    # (1, 0) and (2, 0) are constant and right; (1, 2) and (2, 1) are constant and wrong, (0, 1) changes.
    # Frames 1, 2: 8 pixels are stable. Right: (0, 0), (0, 2), (1, 0), (1, 1). (0, 1) and (1, 2) are constant and wrong.
    assert vc_of(predictions, labels, 2, strict=True) == pytest.approx((4 / 7 + 4 / 8) / 2)
    # As published: the void corner is stable, and so is its prediction; the second window is the last.
    assert vc_of(predictions, labels, 2, strict=False) == pytest.approx(7 / 8)
    # Over 3 frames: (0, 0), (0, 2), (1, 0) of 7.
    assert vc_of(predictions, labels, 3, strict=True) == pytest.approx(3 / 7)
    assert math.isnan(vc_of(predictions, labels, 3, strict=False))


def test_a_constant_wrong_prediction() -> None:
    labels = [torch.zeros(3, 3, dtype=torch.long)] * 5
    wrong = [torch.ones(3, 3, dtype=torch.long)] * 5
    assert vc_of(wrong, labels, 2, strict=False) == 1
    assert vc_of(wrong, labels, 2, strict=True) == 0


@pytest.mark.parametrize("strict", [True, False])
def test_a_perfect_prediction(strict: bool) -> None:
    video = [(labels, labels) for _, labels in random_video(0, 12)]
    assert vc([video], 3, strict=strict) == 1


def test_labels_that_are_void_all_over() -> None:
    video = [(torch.zeros(2, 2), torch.full((2, 2), VOID))] * 4
    assert math.isnan(vc([video], 2, strict=True))
    assert vc([video], 2, strict=False) == 1


def test_no_window_crosses_a_gap() -> None:
    """One pixel, predicted right before the gap, and wrong or changing after it."""
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    right, wrong = [(zero, zero)] * 3, [(one, zero)] * 3
    assert vc([right, wrong], 2, strict=True) == (1 + 1 + 0 + 0) / 4
    assert vc([right + wrong], 2, strict=True) == (1 + 1 + 0 + 0 + 0) / 5
    changing = [(one, zero), (zero, zero), (zero, zero), (one, zero)]
    # The last window of each part is left out: 1 (1), and 0 1 (0).
    assert vc([right, changing], 2, strict=False) == (1 + 0 + 1) / 3
    assert vc([right + changing], 2, strict=False) == (1 + 1 + 0 + 0 + 1) / 5


def test_vc_of_videos_that_are_too_short() -> None:
    video = [(torch.zeros(2, 2), torch.zeros(2, 2))] * 3
    assert math.isnan(vc([], 2, strict=True))
    assert math.isnan(vc([video[:1]] * 5, 2, strict=True))
    assert math.isnan(vc([video[:2]] * 5, 2, strict=False))  # its only window is the last one
    assert vc([video[:2]] * 5, 2, strict=True) == 1
    assert vc([video] * 5, 2, strict=False) == 1


def test_videos_of_other_sizes() -> None:
    videos = [random_video(1, 6), random_video(2, 7, height=1, width=5)]
    assert vc(videos, 2, strict=True) == pytest.approx(vc_loop(videos, 2, strict=True))


@pytest.mark.parametrize("strict", [True, False])
def test_counts_of_each_frame_become_the_score(strict: bool) -> None:
    videos = [random_video(seed, 9) for seed in range(3)]
    shares = []
    for video in videos:
        counts = [tuple(row.tolist()) for row in counts_of(VideoConsistency(3, strict=strict), [video])]
        assert counts[:2] == [(0, 0)] * 2
        assert (counts[2] == (0, 0)) is not strict  # as published, a window counts when another one follows
        shares += [kept / stable for kept, stable in counts if stable]
    assert vc(videos, 3, strict=strict) == pytest.approx(sum(shares) / len(shares))


def test_kept_and_changed_pixels_by_hand() -> None:
    before = torch.tensor([[0, 1, 1], [2, 2, 2], [0, 0, 0]]), torch.tensor([[0, 0, 1], [2, VOID, 2], [0, VOID, 0]])
    now = torch.tensor([[0, 1, 2], [2, 1, 2], [1, 0, 0]]), torch.tensor([[0, 0, 1], [2, VOID, 1], [0, 0, 0]])
    # Void in either frame and (1, 2), whose label changes, are left out; of the other six (0, 2) and (2, 0) change.
    assert [row.tolist() for row in counts_of(KeptPixels(), [[before, now]])] == [[0, 0], [4, 6]]
    assert [row.tolist() for row in counts_of(ChangedPixels(), [[before, now]])] == [[0, 0], [3, 9]]
    for meter in (KeptPixels(), ChangedPixels()):
        assert [row.tolist() for row in counts_of(meter, [[before], [now]])] == [[0, 0]] * 2


def test_bad_arguments_of_vc() -> None:
    with pytest.raises(ValueError, match="a window needs at least 2 frames, got 1"):
        VideoConsistency(1)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3, 2\)"):
        VideoConsistency(2).update(torch.zeros(2, 3), torch.zeros(3, 2))


# TC: frames carry their number, so that a flow can be looked up.


def numbered_frame(number: int, height: int, width: int) -> Tensor:
    return torch.full((3, height, width), number, dtype=torch.uint8)


Flows = Callable[[int, int], Tensor]


def tc(videos: list[list[Tensor]], flows: Flows, classes: int = 3, *, count_occluded: bool = False) -> float:
    metric = TemporalConsistency(
        classes, lambda first, second: flows(int(first[0, 0, 0]), int(second[0, 0, 0])), count_occluded=count_occluded
    )
    name = "tc_all" if count_occluded else "tc"
    frames = [[(mask, mask, numbered_frame(n, *mask.shape)) for n, mask in enumerate(masks)] for masks in videos]
    return score_of(name, metric, frames)


def constant_flow(x: float, y: float, height: int, width: int) -> Tensor:
    return torch.tensor([x, y]).view(2, 1, 1).expand(2, height, width).clone()


def tc_loop(videos: list[list[Tensor]], flows: Flows, classes: int, *, count_occluded: bool) -> float:
    """Compute TC by definition, pixel by pixel."""
    scores = []
    for masks in videos:
        both, either = [0] * classes, [0] * classes
        for t in range(1, len(masks)):
            height, width = masks[t].shape
            backward, forward = flows(t, t - 1), flows(t - 1, t)
            for y in range(height):
                for x in range(width):
                    u, v = float(backward[0, y, x]), float(backward[1, y, x])
                    column, row = round(x + u), round(y + v)
                    if not (0 <= column < width and 0 <= row < height):
                        continue
                    back_u, back_v = float(forward[0, row, column]), float(forward[1, row, column])
                    miss = (u + back_u) ** 2 + (v + back_v) ** 2
                    allowed = 0.01 * (u**2 + v**2 + back_u**2 + back_v**2) + 0.5
                    if not count_occluded and miss >= allowed:
                        continue
                    here, there = int(masks[t][y, x]), int(masks[t - 1][row, column])
                    both[here] += here == there
                    for k in {here, there}:
                        either[k] += 1
        ious = [b / e for b, e in zip(both, either, strict=True) if e]
        if ious:
            scores.append(sum(ious) / len(ious))
    return sum(scores) / len(scores) if scores else math.nan


@pytest.mark.parametrize("count_occluded", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_tc_against_a_loop(seed: int, count_occluded: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (6, 9)
    table: dict[tuple[int, int], Tensor] = {}

    def flows(first: int, second: int) -> Tensor:
        if (first, second) not in table:
            shift = constant_flow(1.2 * (second - first), -1.9 * (second - first), *shape)
            table[first, second] = shift + 0.4 * torch.randn(2, *shape, generator=generator)
        return table[first, second]

    videos = [
        [torch.randint(0, 3, shape, generator=generator, dtype=torch.uint8) for _ in range(length)]
        for length in (5, 1, 2)
    ]
    got = tc(videos, flows, 4, count_occluded=count_occluded)
    assert got == pytest.approx(tc_loop(videos, flows, 4, count_occluded=count_occluded))
    assert 0 < got < 1


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (0, 1), (-3, 2), (4, -3), (1.4, -0.8)])
@pytest.mark.parametrize("count_occluded", [True, False])
def test_masks_that_move_with_the_picture_are_consistent(shift: tuple[float, float], count_occluded: bool) -> None:
    """A window that moves over a large random map: pixels that enter it are new and never count."""
    height, width = 7, 11
    world = torch.randint(0, 3, (60, 60), generator=torch.Generator().manual_seed(0))
    across, down = round(shift[0]), round(shift[1])
    masks = []
    for t in range(4):
        top, left = 30 + down * t, 30 + across * t
        masks.append(world[top : top + height, left : left + width])

    def flows(first: int, second: int) -> Tensor:
        sign = first - second  # what was further to the right before is now further to the left
        return constant_flow(sign * shift[0], sign * shift[1], height, width)

    assert tc([masks], flows, count_occluded=count_occluded) == 1
    if shift != (0, 0):
        still = constant_flow(0, 0, height, width)
        assert tc([masks], lambda *_: still) < 0.6


def test_occluded_pixels_by_hand() -> None:
    """A box of one pixel moves to the left and uncovers a pixel that was hidden before."""
    before, now = torch.tensor([[0, 0, 1, 0, 0]]), torch.tensor([[0, 1, 0, 0, 0]])

    def flows(first: int, second: int) -> Tensor:
        flow = torch.zeros(2, 1, 5)
        if (first, second) == (1, 0):
            flow[0, 0, 1] = 1
        else:
            flow[0, 0, 2] = -1
        return flow

    assert tc([[before, now]], flows) == 1
    # Moved: 0 1 1 0 0. Class 0 has 3 of 4 pixels in common, class 1 has 1 of 2.
    assert tc([[before, now]], flows, count_occluded=True) == pytest.approx((3 / 4 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("there", "back", "counts"),
    [
        (0.0, 0.70, True),  # 0.49 < 0.5 + 0.0049
        (0.0, 0.72, False),  # 0.5184 > 0.5 + 0.0052
        (10.0, -8.6, True),  # 1.96 < 0.5 + 1.74
        (10.0, -8.4, False),  # 2.56 > 0.5 + 1.7056
    ],
)
def test_how_far_there_and_back_may_miss(there: float, back: float, counts: bool) -> None:
    masks = [torch.zeros(1, 25, dtype=torch.long)] * 2
    score = tc([masks], lambda first, _: constant_flow(there if first else back, 0, 1, 25))
    assert score == 1 if counts else math.isnan(score)


def test_no_pixel_inside() -> None:
    masks = [torch.zeros(3, 4, dtype=torch.long)] * 3
    assert math.isnan(tc([masks], lambda first, second: constant_flow(0, 3.0 * (first - second), 3, 4)))


STILL = torch.zeros(2, 1, 4)


def row(*ids: int) -> Tensor:
    return torch.tensor([ids])


def test_counts_are_added_over_a_video_and_scores_averaged_over_videos() -> None:
    first = [row(0, 0, 0, 0), row(0, 0, 0, 1), row(0, 0, 0, 1), row(0, 0, 0, 1)]
    # Class 0: 3 + 3 + 3 in common of 4 + 3 + 3; class 1: 0 + 1 + 1 of 1 + 1 + 1.
    one = (9 / 10 + 2 / 3) / 2
    assert tc([first], lambda *_: STILL) == pytest.approx(one)
    second = [row(2, 2, 2, 2), row(2, 2, 0, 0)]
    # Class 2: 2 of 4; class 0: none of 2. Class 1 is in neither.
    two = (2 / 4 + 0 / 2) / 2
    assert tc([second], lambda *_: STILL) == pytest.approx(two)
    assert tc([first, second], lambda *_: STILL) == pytest.approx((one + two) / 2)
    assert tc([first, [row(0, 0, 0, 0)], second, []], lambda *_: STILL) == pytest.approx((one + two) / 2)


def test_classes_that_are_absent_do_not_count() -> None:
    assert tc([[row(1, 1, 2, 2)] * 3], lambda *_: STILL, 11) == 1


def test_a_gap_is_not_compared_and_stays_in_the_video() -> None:
    frame = numbered_frame(0, 1, 4)
    segments = [row(0, 0, 0, 0), row(0, 0, 0, 1)], [row(1, 1, 1, 1), row(1, 1, 1, 1)]
    metric = TemporalConsistency(2, lambda *_: STILL)
    counts = torch.stack(counts_of(metric, [[(mask, mask, frame) for mask in masks] for masks in segments]))
    # One video: class 0 has 3 of 4, class 1 has 0 + 4 of 1 + 4.
    assert find_score("tc").value(counts, Samples.whole([range(4)])).item() == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_nothing_to_compare() -> None:
    assert math.isnan(tc([], lambda *_: STILL))
    assert math.isnan(tc([[row(0, 0, 0, 0)]], lambda *_: STILL))


def test_tc_needs_images() -> None:
    with pytest.raises(ValueError, match="temporal consistency needs the image of every frame, got None"):
        TemporalConsistency(2, lambda *_: STILL).update(row(0, 0, 0, 0), row(0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"score tc needs an optical flow, got None; give dis_flow\(\) or raft_flow"):
        find_metric("tc").meter(MeterOptions(2))
