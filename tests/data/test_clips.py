from __future__ import annotations

import pytest

from ccnet3d.data.clips import clip_around, clip_at, covering_clips, split_at_gaps


def test_split_at_gaps() -> None:
    assert split_at_gaps([], 30) == []
    assert split_at_gaps([7], 30) == [range(0, 1)]
    assert split_at_gaps([0, 30, 60, 91, 120], 30) == [range(0, 3), range(3, 5)]
    assert split_at_gaps([0, 30, 60, 91, 120], 31) == [range(0, 5)]
    assert split_at_gaps([0, 1000, 1001], 0) == [range(0, 3)]
    with pytest.raises(ValueError, match="must increase, got 5 then 5"):
        split_at_gaps([4, 5, 5], 1)


def test_clip_at() -> None:
    segment = range(10, 15)
    assert clip_at(segment, 11, 3) == ((11, 12, 13), (True, True, True))
    assert clip_at(segment, 8, 3) == ((10, 11, 12), (True, True, True))  # moved in at the start
    assert clip_at(segment, 14, 3) == ((12, 13, 14), (True, True, True))  # and at the end
    assert clip_at(segment, 12, 7) == ((10, 11, 12, 13, 14, 14, 14), (True,) * 5 + (False,) * 2)
    assert clip_at(range(3, 4), 3, 3) == ((3, 3, 3), (True, False, False))
    assert clip_at(segment, 14, 1) == ((14,), (True,))


def test_clip_around() -> None:
    segment = range(10, 20)
    assert clip_around(segment, 14, 1, 3, 1) == ((13, 14, 15), (True,) * 3)
    assert clip_around(segment, 14, 1, 3, 4) == ((10, 14, 18), (True,) * 3)
    assert clip_around(segment, 14, 0, 3, 4) == ((14, 16, 18), (True,) * 3)  # 14, 18, 22 and 14, 17, 20 would leave it
    assert clip_around(segment, 14, 2, 3, 4) == ((10, 12, 14), (True,) * 3)
    assert clip_around(segment, 19, 0, 3, 4) == ((17, 18, 19), (True,) * 3)  # no stride fits: moved
    assert clip_around(range(3, 5), 4, 0, 3, 2) == ((3, 4, 4), (True, True, False))
    assert clip_around(segment, 19, 0, 1, 9) == ((19,), (True,))


def test_covering_clips() -> None:
    assert covering_clips(range(0, 6), 3) == [((0, 1, 2), (True,) * 3), ((3, 4, 5), (True,) * 3)]
    assert covering_clips(range(5, 9), 3) == [
        ((5, 6, 7), (True, True, True)),
        ((6, 7, 8), (False, False, True)),  # moved back to real frames, which do not count again
    ]
    assert covering_clips(range(4, 6), 3) == [((4, 5, 5), (True, True, False))]
    assert covering_clips(range(0), 3) == []


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("count", range(1, 12))
def test_every_frame_counts_once(count: int, length: int) -> None:
    clips = covering_clips(range(100, 100 + count), length)
    counted = [i for clip in clips for i, c in zip(clip.indices, clip.counted, strict=True) if c]
    assert counted == list(range(100, 100 + count))
    assert all(len(clip.indices) == length for clip in clips)
