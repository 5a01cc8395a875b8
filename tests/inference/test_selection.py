from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ccnet3d.inference.selection import Position, Selection, parse_position
from ccnet3d.video import VideoFrame

IMAGE = np.zeros((1, 1, 3), np.uint8)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0", 0),
        ("250", 250),
        ("007", 7),
        ("0s", 0.0),
        ("10s", 10.0),
        ("10.5", 10.5),
        ("10.5s", 10.5),
        (".5", 0.5),
        ("3.", 3.0),
        ("1:30", 90.0),
        ("1:30s", 90.0),
        ("0:00", 0.0),
        ("12:00.25", 720.25),
        ("1:02:03.5", 3723.5),
        ("100:00:00", 360_000.0),
    ],
)
def test_positions(text: str, position: Position) -> None:
    parsed = parse_position(text)
    assert parsed == position
    assert type(parsed) is type(position)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "-1s", "+3", "abc", "1e3", "1,5", ".", ":", "1:", ":30", "1:2:3:4", "1.5:30", "10ss", "10 s", "nan",
     "inf", "10\n", "10s\n", "0x10", "1_000", "5m", "\u00b2"],
)  # fmt: skip
def test_texts_that_are_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="expected a frame's number such as 250, or a time such as 10s.*got") as caught:
        parse_position(text)
    assert str(caught.value).endswith(repr(text))


class Source:
    """Frames with these numbers, which tells how many were asked for."""

    def __init__(self, numbers: Sequence[int], rate: float | None = None, begin: float = 0) -> None:
        self.numbers, self.rate, self.begin = numbers, rate, begin
        self.asked: list[int] = []

    def __iter__(self) -> Iterator[VideoFrame]:
        for number in self.numbers:
            self.asked.append(number)
            yield VideoFrame(number, None if self.rate is None else self.begin + number / self.rate, IMAGE)


def select(selection: Selection, source: Source) -> list[int]:
    return [frame.index for frame in selection(source)]


@pytest.mark.parametrize(
    ("start", "end", "stride", "numbers"),
    [
        (0, None, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (3, None, 1, [3, 4, 5, 6, 7, 8, 9]),
        (0, 3, 1, [0, 1, 2]),
        (3, 4, 1, [3]),
        (0, None, 3, [0, 3, 6, 9]),
        (2, None, 3, [2, 5, 8]),
        (2, 8, 3, [2, 5]),
        (9, 100, 7, [9]),
        # Ten frames a second.
        (0.0, None, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.3, None, 1, [3, 4, 5, 6, 7, 8, 9]),
        (0.31, None, 1, [4, 5, 6, 7, 8, 9]),
        (0.0, 0.3, 1, [0, 1, 2]),
        (0.0, 0.31, 1, [0, 1, 2, 3]),
        (0.2, 0.75, 2, [2, 4, 6]),
        (1, 0.3, 1, [1, 2]),
        (0.3, 6, 1, [3, 4, 5]),
    ],
)
@pytest.mark.parametrize("begin", [0, 3600.1, -0.4])
def test_frames_by_hand(start: Position, end: Position | None, stride: int, numbers: list[int], begin: float) -> None:
    """Times count from the first frame, wherever the file's clock begins."""
    assert select(Selection(start, end, stride), Source(range(10), 10, begin)) == numbers


@pytest.mark.parametrize("rate", [24000 / 1001, 25, 29.97, 30, 60])
@pytest.mark.parametrize("begin", [0, 1.4, 95_443.717])
def test_the_time_of_a_frame_selects_it(rate: float, begin: float) -> None:
    """Written with six digits, as people copy it, and in spite of rounding."""
    for number in range(1, 200, 13):
        seconds = round(number / rate, 6)
        assert select(Selection(seconds, seconds + 0.5 / rate), Source(range(200), rate, begin)) == [number]


def test_strides_count_frame_numbers_so_that_gaps_shift_nothing() -> None:
    source = Source([0, 1, 2, 5, 6, 7, 8, 11, 12])
    assert select(Selection(stride=2), source) == [0, 2, 6, 8, 12]
    assert select(Selection(start=1, stride=3), source) == [1, 7]
    assert select(Selection(start=3, end=8), source) == [5, 6, 7]


@pytest.mark.parametrize(("end", "last_asked"), [(3, 3), (0.3, 3), (0.25, 3)])
def test_nothing_behind_the_end_is_asked_for(end: Position, last_asked: int) -> None:
    source = Source(range(10), 10)
    assert select(Selection(end=end), source) == [0, 1, 2]
    assert source.asked[-1] == last_asked


def test_an_end_in_a_gap_stops_the_reading_too() -> None:
    source = Source([0, 1, 5, 6, 7])
    assert select(Selection(end=3), source) == [0, 1]
    assert source.asked == [0, 1, 5]


@pytest.mark.parametrize(("start", "end"), [(6, 3), (0.6, 3), (6, 0.3), (0.6, 0.3)])
def test_nothing_behind_the_end_is_asked_for_where_the_start_is_later(start: Position, end: Position) -> None:
    source = Source(range(10), 10)
    with pytest.raises(ValueError, match=f"no frame lies between start {start} and end {end}"):
        select(Selection(start, end), source)
    assert source.asked == [0, 1, 2, 3]


def test_frames_come_while_the_source_is_read() -> None:
    source = Source(range(10))
    frames = Selection(start=2)(source)
    assert source.asked == []
    assert next(iter(frames)).index == 2
    assert source.asked == [0, 1, 2]


def test_no_frame_selected() -> None:
    with pytest.raises(ValueError, match=r"no frame lies between start 12 and end None; the last one before is 9$"):
        select(Selection(start=12), Source(range(10)))
    with pytest.raises(ValueError, match=r"no frame lies between start 1\.5 and end 3\.5; the last one before is 9$"):
        select(Selection(1.5, 3.5), Source(range(10), 10))
    with pytest.raises(ValueError, match=r"no frame lies between start 0 and end 0$"):
        select(Selection(end=0), Source(range(10)))
    with pytest.raises(ValueError, match=r"no frame lies between start 0 and end None$"):
        select(Selection(), Source([]))
    with pytest.raises(ValueError, match="no frame lies between start 3 and end 5"):
        select(Selection(3, 5), Source([0, 1, 2, 5, 6]))


def test_frames_without_times() -> None:
    assert select(Selection(1, 4, 2), Source(range(10))) == [1, 3]
    with pytest.raises(ValueError, match=r"has no times, so that 1\.5 seconds mean nothing; give a frame's number"):
        select(Selection(start=1.5), Source(range(10)))
    with pytest.raises(ValueError, match=r"has no times, so that 0\.5 seconds mean nothing"):
        select(Selection(end=0.5), Source(range(10)))


def test_impossible_selections() -> None:
    with pytest.raises(ValueError, match="the frame stride must be at least 1, got 0"):
        Selection(stride=0)
    for position in (-1, -0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"start must be a frame's number or a time from 0 on, got {position}"):
            Selection(start=position)
        with pytest.raises(ValueError, match=f"end must be a frame's number or a time from 0 on, got {position}"):
            Selection(end=position)
