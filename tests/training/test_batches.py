from __future__ import annotations

from ccnet3d.training.batches import ClipBatches


def test_every_frame_is_an_anchor_before_any_is_again() -> None:
    batches = list(ClipBatches(7, 4, [1, 4, 2], seed=0, start=0, stop=12))
    assert [[r.length for r in batch] for batch in batches[:3]] == [[1, 1, 1, 1], [4], [2, 2]]
    anchors = [request.anchor for batch in batches for request in batch]
    assert len(anchors) == 4 * (4 + 1 + 2)
    for start in range(0, 28, 7):
        assert sorted(anchors[start : start + 7]) == list(range(7))
    assert all(0 <= r.offset < r.length for batch in batches for r in batch)
    assert {r.offset for batch in batches for r in batch if r.length == 2} == {0, 1}


def test_each_clip_draws_its_stride() -> None:
    batches = list(ClipBatches(7, 4, [2], seed=0, start=0, stop=20, clip_strides=[1, 3, 15]))
    assert {r.stride for batch in batches for r in batch} == {1, 3, 15}
    assert {len({r.stride for r in batch}) for batch in batches} == {1, 2}


def test_a_resumed_run_draws_what_the_whole_run_draws() -> None:
    whole = list(ClipBatches(7, 4, [1, 4], seed=3, start=0, stop=9))
    assert list(ClipBatches(7, 4, [1, 4], seed=3, start=4, stop=9)) == whole[4:]
    assert len(ClipBatches(7, 4, [1, 4], seed=3, start=4, stop=9)) == 5
    assert list(ClipBatches(7, 4, [1, 4], seed=4, start=0, stop=9)) != whole
