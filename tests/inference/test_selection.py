from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ccnet3d.errors import UserError
from ccnet3d.inference.selection import Moment, Selection, parse_moment
from ccnet3d.video import VideoFrame

IMAGE = np.zeros((1, 1, 3), np.uint8)


@pytest.mark.parametrize(
    ("text", "moment"),
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
def test_moments(text: str, moment: Moment) -> None:
    parsed = parse_moment(text)
    assert parsed == moment
    assert type(parsed) is type(moment)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "-1s", "+3", "abc", "1e3", "1,5", ".", ":", "1:", ":30", "1:2:3:4", "1.5:30", "10ss", "10 s", "nan",
     "inf", "10\n", "10s\n", "0x10", "1_000", "5m", "\u00b2"],
)  # fmt: skip
def test_texts_that_are_not_moments(text: str) -> None:
    with pytest.raises(UserError, match="expected a frame index such as 250, or a time such as 10s.*got") as caught:
        parse_moment(text)
    assert str(caught.value).endswith(repr(text))


class Source:
    """Frames with these indices, which records how many were read."""

    def __init__(self, indices: Sequence[int], rate: float | None = None, begin: float = 0) -> None:
        self.indices, self.rate, self.begin = indices, rate, begin
        self.read: list[int] = []

    def __iter__(self) -> Iterator[VideoFrame]:
        for index in self.indices:
            self.read.append(index)
            yield VideoFrame(index, None if self.rate is None else self.begin + index / self.rate, IMAGE)


def select(selection: Selection, source: Source) -> list[int]:
    return [frame.index for frame in selection.select(source)]


@pytest.mark.parametrize(
    ("start", "end", "stride", "indices"),
    [
        (0, None, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (3, None, 1, [3, 4, 5, 6, 7, 8, 9]),
        (0, 3, 1, [0, 1, 2]),
        (3, 4, 1, [3]),
        (0, None, 3, [0, 3, 6, 9]),
        (2, None, 3, [2, 5, 8]),
        (2, 8, 3, [2, 5]),
        (9, 100, 7, [9]),
        # Ten frames per second.
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
def test_frames_by_hand(start: Moment, end: Moment | None, stride: int, indices: list[int], begin: float) -> None:
    """Times count from the first frame, for any start of the file's clock."""
    assert select(Selection(start, end, stride), Source(range(10), 10, begin)) == indices


@pytest.mark.parametrize("rate", [24000 / 1001, 25, 29.97, 30, 60])
@pytest.mark.parametrize("begin", [0, 1.4, 95_443.717])
def test_the_time_of_a_frame_selects_it(rate: float, begin: float) -> None:
    """Written with six digits, as people copy it, despite rounding."""
    for index in range(1, 200, 13):
        seconds = round(index / rate, 6)
        assert select(Selection(seconds, seconds + 0.5 / rate), Source(range(200), rate, begin)) == [index]


def test_strides_count_frame_indices_so_that_gaps_shift_nothing() -> None:
    source = Source([0, 1, 2, 5, 6, 7, 8, 11, 12])
    assert select(Selection(stride=2), source) == [0, 2, 6, 8, 12]
    assert select(Selection(start=1, stride=3), source) == [1, 7]
    assert select(Selection(start=3, end=8), source) == [5, 6, 7]


@pytest.mark.parametrize(("end", "last_read"), [(3, 3), (0.3, 3), (0.25, 3)])
def test_nothing_after_the_end_is_read(end: Moment, last_read: int) -> None:
    source = Source(range(10), 10)
    assert select(Selection(end=end), source) == [0, 1, 2]
    assert source.read[-1] == last_read


def test_end_in_a_gap_stops_the_reading_too() -> None:
    source = Source([0, 1, 5, 6, 7])
    assert select(Selection(end=3), source) == [0, 1]
    assert source.read == [0, 1, 5]


@pytest.mark.parametrize(("start", "end"), [(6, 3), (0.6, 3), (6, 0.3), (0.6, 0.3)])
def test_nothing_after_the_end_is_read_where_the_start_is_later(start: Moment, end: Moment) -> None:
    source = Source(range(10), 10)
    with pytest.raises(UserError, match=f"no frame lies between start {start} and end {end}"):
        select(Selection(start, end), source)
    assert source.read == [0, 1, 2, 3]


def test_frames_are_yielded_as_the_source_is_read() -> None:
    source = Source(range(10))
    frames = Selection(start=2).select(source)
    assert source.read == []
    assert next(iter(frames)).index == 2
    assert source.read == [0, 1, 2]


def test_no_frame_selected() -> None:
    with pytest.raises(UserError, match=r"no frame lies from 12 on; the last one before is 9$"):
        select(Selection(start=12), Source(range(10)))
    with pytest.raises(UserError, match=r"no frame lies between start 1\.5 and end 3\.5; the last one before is 9$"):
        select(Selection(1.5, 3.5), Source(range(10), 10))
    with pytest.raises(UserError, match=r"no frame lies between start 0 and end 0$"):
        select(Selection(end=0), Source(range(10)))
    with pytest.raises(UserError, match=r"no frame lies from 0 on$"):
        select(Selection(), Source([]))
    with pytest.raises(UserError, match="no frame lies between start 3 and end 5"):
        select(Selection(3, 5), Source([0, 1, 2, 5, 6]))


def test_frames_without_times() -> None:
    assert select(Selection(1, 4, 2), Source(range(10))) == [1, 3]
    with pytest.raises(UserError, match=r"has no times, so 1\.5 seconds cannot be found; give a frame index"):
        select(Selection(start=1.5), Source(range(10)))
    with pytest.raises(UserError, match=r"has no times, so 0\.5 seconds cannot be found"):
        select(Selection(end=0.5), Source(range(10)))


def test_impossible_selections() -> None:
    with pytest.raises(UserError, match="the frame stride must be at least 1, got 0"):
        Selection(stride=0)
    for moment in (-1, -0.5, math.nan, math.inf):
        with pytest.raises(UserError, match=f"start must be a frame index or a time, 0 or more, got {moment}"):
            Selection(start=moment)
        with pytest.raises(UserError, match=f"end must be a frame index or a time, 0 or more, got {moment}"):
            Selection(end=moment)
