from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ccnet3d.inference.clip_stream import ClipStream, blend_weights

Answers = list[tuple[int, Tensor]]


@pytest.mark.parametrize(
    ("clip_length", "weights"),
    [(1, [1]), (2, [1, 1]), (3, [1, 2, 1]), (4, [1, 2, 2, 1]), (5, [1, 2, 3, 2, 1]), (6, [1, 2, 3, 3, 2, 1])],
)
def test_blend_weights(clip_length: int, weights: list[float]) -> None:
    assert blend_weights(clip_length) == weights


SCHEDULES = [
    # T, S, frames, [(clip, places that count)], [frames final after each push], frames final at the end
    (1, 1, 3, [([0], [0]), ([1], [0]), ([2], [0])], [[0], [1], [2]], []),
    (3, 3, 6, [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [0, 1, 2])], [[], [], [0, 1, 2], [], [], [3, 4, 5]], []),
    # The last frames have no clip: one more, of which the frames that are final already do not count.
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
    # Shorter than a clip: the last frame again.
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
    asked: list[tuple[list[int], list[int]]] = []

    def answer(clip: Sequence[int], places: Sequence[int]) -> list[Tensor]:
        asked.append((list(clip), list(places)))
        return [torch.zeros(1)] * len(places)

    stream = ClipStream(answer, clip_length, stride)
    assert [[number for number, _ in stream.push(n)] for n in range(frames)] == pushes
    assert [number for number, _ in stream.finish()] == end
    assert asked == clips


def test_causal_schedule_by_hand() -> None:
    asked: list[tuple[list[int], list[int]]] = []

    def answer(clip: Sequence[int], places: Sequence[int]) -> list[Tensor]:
        asked.append((list(clip), list(places)))
        return [torch.tensor(float(clip[-1]))]

    stream = ClipStream(answer, 3, 2, causal=True)
    assert [list(stream.push(n)) for n in range(4)] == [[(n, torch.tensor(float(n)))] for n in range(4)]
    assert list(stream.finish()) == []
    assert asked == [([0, 0, 0], [2]), ([0, 0, 1], [2]), ([0, 1, 2], [2]), ([1, 2, 3], [2])]


def test_a_blend_by_hand() -> None:
    """T = 3, S = 2: frame 2 is the end of one clip (10) and the start of the next (20), both of weight 1; the tail clip
    (30) gives frame 4 the weight 2, the clip before it (20) the weight 1.
    """
    answers = iter([10.0, 20.0, 30.0])

    def answer(_: Sequence[int], places: Sequence[int]) -> list[Tensor]:
        value = next(answers)
        return [torch.tensor([value], dtype=torch.float64)] * len(places)

    stream = ClipStream(answer, 3, 2)
    got = [item for n in range(6) for item in stream.push(n)] + list(stream.finish())
    assert [(n, value.item()) for n, value in got] == [
        (0, 10), (1, 10), (2, 15), (3, 20), (4, pytest.approx(80 / 3)), (5, 30),
    ]  # fmt: skip


def whole_clip_answer(clip: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    """An answer in which every frame and every place of the clip shows."""
    mixed = sum((place + 1.7) * frame.roll(place) for place, frame in enumerate(clip))
    return [torch.sin(mixed + clip[place] * (place + 1)) for place in places]


def random_frames(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return list(torch.randn(count, 7, generator=generator, dtype=torch.float64))


def slow_reference(frames: list[Tensor], length: int, stride: int) -> list[Tensor]:
    """All clips of the whole video first, then a weighted mean for each frame."""
    count = len(frames)
    weights = [min(place, length - 1 - place) + 1 for place in range(length)]
    said: list[list[tuple[int, Tensor]]] = [[] for _ in frames]
    starts = [start for start in range(0, count, stride) if start + length <= count]
    for start in starts:
        logits = whole_clip_answer(frames[start : start + length], range(length))
        for place in range(length):
            said[start + place].append((weights[place], logits[place]))
    final = starts[-1] + stride if starts else 0  # clips from here on would not fit
    if not all(said):
        padded = frames + [frames[-1]] * (length - count)
        start = len(padded) - length
        logits = whole_clip_answer(padded[start:], range(length))
        for number in range(final, count):
            said[number].append((weights[number - start], logits[number - start]))
    return [sum(w * x for w, x in answers) / sum(w for w, _ in answers) for answers in said]  # type: ignore[misc]


def run(
    frames: list[Tensor], length: int, stride: int, *, causal: bool = False, first: int = 0
) -> Iterator[tuple[int, int, Tensor]]:
    """Frames that were pushed, number and answer."""
    stream = ClipStream(whole_clip_answer, length, stride, causal=causal, first=first)
    for number in range(first, len(frames)):
        for answered, logits in stream.push(frames[number]):
            yield number + 1, answered, logits
    for answered, logits in stream.finish():
        yield len(frames), answered, logits


ALL = [(length, stride) for length in range(1, 7) for stride in range(1, length + 1)]


@pytest.mark.parametrize(("length", "stride"), ALL)
def test_answers_of_a_slow_reference_in_order_and_as_early_as_can_be(length: int, stride: int) -> None:
    for count in range(21):
        frames = random_frames(count)
        got = list(run(frames, length, stride))
        assert [number for _, number, _ in got] == list(range(count))
        for (pushed, number, logits), truth in zip(got, slow_reference(frames, length, stride), strict=True):
            torch.testing.assert_close(logits, truth)
            # The last clip at a multiple of the stride that holds the frame, as if the video went on.
            last_clip_stop = number // stride * stride + length
            assert pushed == min(last_clip_stop, count)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_causal_answers_depend_on_the_past_only_and_come_at_once(length: int) -> None:
    frames = random_frames(11)
    for pushed, number, logits in run(frames, length, 1, causal=True):
        assert pushed == number + 1
        past = frames[max(0, number + 1 - length) : number + 1]
        clip = [frames[0]] * (length - len(past)) + past
        torch.testing.assert_close(logits, whole_clip_answer(clip, [length - 1])[0], rtol=0, atol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "stride"), ALL)
def test_a_stream_from_any_frame_on_joins_the_one_from_the_start(length: int, stride: int, causal: bool) -> None:
    for count in range(1, 18):
        frames = random_frames(count)
        whole = {number: logits for _, number, logits in run(frames, length, stride, causal=causal)}
        for first in range(count + 1):
            part = [(number, logits) for _, number, logits in run(frames, length, stride, causal=causal, first=first)]
            assert all(a + 1 == b for (a, _), (b, _) in pairwise(part))
            joined = dict(part)
            for number in range(first + length - 1, count):
                torch.testing.assert_close(joined[number], whole[number], rtol=0, atol=0)


class Alive:
    """Arithmetic that tells how many results are kept."""

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

    def answer(_: Sequence[Frame], places: Sequence[int]) -> list[Alive]:
        return [Alive() for _ in places]

    stream: ClipStream[Frame] = ClipStream(answer, length, stride, causal=causal)  # type: ignore[arg-type]
    for _ in range(100):
        frame = Frame()
        kept_frames.add(frame)
        for answered in stream.push(frame):
            del answered
        assert len(kept_frames) <= length
        assert len(Alive.results) <= length


def test_a_wrong_number_of_answers_is_an_error() -> None:
    stream = ClipStream(lambda clip, _: [clip[0]], 2, 1)
    list(stream.push(torch.zeros(1)))
    with pytest.raises(ValueError, match="zip"):
        list(stream.push(torch.zeros(1)))
