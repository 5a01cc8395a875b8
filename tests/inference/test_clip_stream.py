from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ccnet3d.inference.clip_stream import ClipStream, blend_weights


@pytest.mark.parametrize(
    ("clip_length", "weights"),
    [(1, [1]), (2, [1, 1]), (3, [1, 2, 1]), (4, [1, 2, 2, 1]), (5, [1, 2, 3, 2, 1]), (6, [1, 2, 3, 3, 2, 1])],
)
def test_blend_weights(clip_length: int, weights: list[float]) -> None:
    assert blend_weights(clip_length) == weights


SCHEDULES = [
    # T, S, frames, [(clip, offsets that count)], [frames final after each push], frames final at the end
    (1, 1, 3, [([0], [0]), ([1], [0]), ([2], [0])], [[0], [1], [2]], []),
    (3, 3, 6, [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [0, 1, 2])], [[], [], [0, 1, 2], [], [], [3, 4, 5]], []),
    # The last frames have no clip: one more clip, in which frames that are final already do not count.
    (
        3, 3, 5,
        [([0, 1, 2], [0, 1, 2]), ([2, 3, 4], [1, 2])],
        [[], [], [0, 1, 2], [], []],
        [3, 4],
    ),
    (
        3, 2, 5,
        [([0, 1, 2], [0, 1, 2]), ([2, 3, 4], [0, 1, 2])],
        [[], [], [0, 1], [], [2, 3]],
        [4],
    ),
    (
        3, 2, 6,
        [([0, 1, 2], [0, 1, 2]), ([2, 3, 4], [0, 1, 2]), ([3, 4, 5], [1, 2])],
        [[], [], [0, 1], [], [2, 3], []],
        [4, 5],
    ),
    (
        3, 1, 5,
        [([0, 1, 2], [0, 1, 2]), ([1, 2, 3], [0, 1, 2]), ([2, 3, 4], [0, 1, 2])],
        [[], [], [0], [1], [2]],
        [3, 4],
    ),
    (4, 3, 4, [([0, 1, 2, 3], [0, 1, 2, 3])], [[], [], [], [0, 1, 2]], [3]),
    (
        4, 3, 6,
        [([0, 1, 2, 3], [0, 1, 2, 3]), ([2, 3, 4, 5], [1, 2, 3])],
        [[], [], [], [0, 1, 2], [], []],
        [3, 4, 5],
    ),
    # Shorter than a clip: the last frame is repeated.
    (4, 3, 1, [([0, 0, 0, 0], [0])], [[]], [0]),
    (5, 2, 3, [([0, 1, 2, 2, 2], [0, 1, 2])], [[], [], []], [0, 1, 2]),
    (3, 2, 0, [], [], []),
]  # fmt: skip


@pytest.mark.parametrize(("clip_length", "stride", "frames", "clips", "pushes", "end"), SCHEDULES)
def test_schedules_by_hand(
    clip_length: int,
    stride: int,
    frames: int,
    clips: list[tuple[list[int], list[int]]],
    pushes: list[list[int]],
    end: list[int],
) -> None:
    predicted: list[tuple[list[int], list[int]]] = []

    def predict(clip: Sequence[int], offsets: Sequence[int]) -> list[Tensor]:
        predicted.append((list(clip), list(offsets)))
        return [torch.zeros(1)] * len(offsets)

    stream = ClipStream(predict, clip_length, stride)
    assert [[index for index, _ in stream.push(n)] for n in range(frames)] == pushes
    assert [index for index, _ in stream.finish()] == end
    assert predicted == clips


def test_causal_schedule_by_hand() -> None:
    predicted: list[tuple[list[int], list[int]]] = []

    def predict(clip: Sequence[int], offsets: Sequence[int]) -> list[Tensor]:
        predicted.append((list(clip), list(offsets)))
        return [torch.tensor(float(clip[-1]))]

    stream = ClipStream(predict, 3, 2, causal=True)
    assert [list(stream.push(n)) for n in range(4)] == [[(n, torch.tensor(float(n)))] for n in range(4)]
    assert list(stream.finish()) == []
    assert predicted == [([0, 0, 0], [2]), ([0, 0, 1], [2]), ([0, 1, 2], [2]), ([1, 2, 3], [2])]


def test_blend_by_hand() -> None:
    """T = 3, S = 2: frame 2 is the end of one clip (10) and the start of the next (20), both of weight 1; the tail clip
    (30) has the weight 2 for frame 4, the clip before it (20) the weight 1.
    """
    values = iter([10.0, 20.0, 30.0])

    def predict(_: Sequence[int], offsets: Sequence[int]) -> list[Tensor]:
        value = next(values)
        return [torch.tensor([value], dtype=torch.float64)] * len(offsets)

    stream = ClipStream(predict, 3, 2)
    got = [item for n in range(6) for item in stream.push(n)] + list(stream.finish())
    assert [(n, value.item()) for n, value in got] == [
        (0, 10), (1, 10), (2, 15), (3, 20), (4, pytest.approx(80 / 3)), (5, 30),
    ]  # fmt: skip


def predict_whole_clip(clip: Sequence[Tensor], offsets: Sequence[int]) -> list[Tensor]:
    """Return logits that depend on every frame and every offset of the clip."""
    mixed = sum((offset + 1.7) * frame.roll(offset) for offset, frame in enumerate(clip))
    return [torch.sin(mixed + clip[offset] * (offset + 1)) for offset in offsets]


def random_frames(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return list(torch.randn(count, 7, generator=generator, dtype=torch.float64))


def slow_reference(frames: list[Tensor], length: int, stride: int) -> list[Tensor]:
    """Predict all clips of the whole video first, then average for each frame."""
    count = len(frames)
    weights = [min(offset, length - 1 - offset) + 1 for offset in range(length)]
    parts: list[list[tuple[int, Tensor]]] = [[] for _ in frames]
    starts = [start for start in range(0, count, stride) if start + length <= count]
    for start in starts:
        logits = predict_whole_clip(frames[start : start + length], range(length))
        for offset in range(length):
            parts[start + offset].append((weights[offset], logits[offset]))
    final = starts[-1] + stride if starts else 0  # clips from here on would not fit
    if not all(parts):
        padded = frames + [frames[-1]] * (length - count)
        start = len(padded) - length
        logits = predict_whole_clip(padded[start:], range(length))
        for index in range(final, count):
            parts[index].append((weights[index - start], logits[index - start]))
    return [sum(w * x for w, x in clips) / sum(w for w, _ in clips) for clips in parts]  # type: ignore[misc]


def run(
    frames: list[Tensor], length: int, stride: int, *, causal: bool = False, first_index: int = 0
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield how many frames were pushed, a frame index and its logits."""
    stream = ClipStream(predict_whole_clip, length, stride, causal=causal, first_index=first_index)
    for index in range(first_index, len(frames)):
        for final, logits in stream.push(frames[index]):
            yield index + 1, final, logits
    for final, logits in stream.finish():
        yield len(frames), final, logits


ALL = [(length, stride) for length in range(1, 7) for stride in range(1, length + 1)]


@pytest.mark.parametrize(("length", "stride"), ALL)
def test_predictions_equal_a_slow_reference_in_order_and_as_early_as_possible(length: int, stride: int) -> None:
    for count in range(21):
        frames = random_frames(count)
        got = list(run(frames, length, stride))
        assert [index for _, index, _ in got] == list(range(count))
        for (pushed, index, logits), truth in zip(got, slow_reference(frames, length, stride), strict=True):
            torch.testing.assert_close(logits, truth)
            # The last clip at a multiple of the stride that includes the frame, as if the video continued.
            last_clip_stop = index // stride * stride + length
            assert pushed == min(last_clip_stop, count)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_causal_predictions_depend_only_on_the_past_and_are_immediate(length: int) -> None:
    frames = random_frames(11)
    for pushed, index, logits in run(frames, length, 1, causal=True):
        assert pushed == index + 1
        past = frames[max(0, index + 1 - length) : index + 1]
        clip = [frames[0]] * (length - len(past)) + past
        torch.testing.assert_close(logits, predict_whole_clip(clip, [length - 1])[0], rtol=0, atol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "stride"), ALL)
def test_stream_from_any_frame_joins_the_one_from_the_start(length: int, stride: int, causal: bool) -> None:
    for count in range(1, 18):
        frames = random_frames(count)
        whole = {index: logits for _, index, logits in run(frames, length, stride, causal=causal)}
        for first in range(count + 1):
            stream = run(frames, length, stride, causal=causal, first_index=first)
            part = [(index, logits) for _, index, logits in stream]
            assert all(a + 1 == b for (a, _), (b, _) in pairwise(part))
            joined = dict(part)
            for index in range(first + length - 1, count):
                torch.testing.assert_close(joined[index], whole[index], rtol=0, atol=0)


class Alive:
    """Arithmetic that records how many results are kept."""

    results: ClassVar[weakref.WeakSet[Alive]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.results.add(self)

    def __mul__(self, _: float) -> Alive:
        return Alive()

    def __add__(self, _: Alive) -> Alive:
        return Alive()

    def __truediv__(self, _: float) -> Alive:
        return Alive()


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (5, 1), (5, 3), (5, 5)])
@pytest.mark.parametrize("causal", [False, True])
def test_memory_does_not_grow_with_the_video(length: int, stride: int, causal: bool) -> None:
    class Frame:
        pass

    kept_frames: weakref.WeakSet[Frame] = weakref.WeakSet()

    def predict(_: Sequence[Frame], offsets: Sequence[int]) -> list[Alive]:
        return [Alive() for _ in offsets]

    stream: ClipStream[Frame] = ClipStream(predict, length, stride, causal=causal)  # type: ignore[arg-type]
    for _ in range(100):
        frame = Frame()
        kept_frames.add(frame)
        for final in stream.push(frame):
            del final
        assert len(kept_frames) <= length
        assert len(Alive.results) <= length


def test_wrong_number_of_logits_is_an_error() -> None:
    stream = ClipStream(lambda clip, _: [clip[0]], 2, 1)
    list(stream.push(torch.zeros(1)))
    with pytest.raises(ValueError, match="zip"):
        list(stream.push(torch.zeros(1)))
