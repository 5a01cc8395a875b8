"""A live source that never ends: memory and time per frame stay what they are."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccnet3d.inference import Prediction, RunOptions, segment_video
from ccnet3d.inference.frame_log import FrameLog
from ccnet3d.models import ModelInfo
from ccnet3d.video import VideoFrame, VideoInfo, VideoReader

ROWS = 256
"""Of the table of shares that are written together; both measurements are taken when none waits."""
FRAMES, SETTLED, LATE = 2400, 5 * ROWS, 9 * ROWS
"""From the settled ones on, the log of times is in a file."""


class EndlessReader(VideoReader):
    """A live source of tiny frames, some of which have no time; every third is dropped."""

    def __init__(self) -> None:
        self.info = VideoInfo("rtsp://camera", None, 25.0, None, "av", live=True)

    def __iter__(self) -> Iterator[VideoFrame]:
        for index in range(FRAMES):
            image = np.full((16, 16, 3), index % 251, np.uint8)
            yield VideoFrame(index * 3 // 2, index / 25 if index % 7 else None, image)

    def __len__(self) -> int:
        raise TypeError

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:  # noqa: ARG002
        raise TypeError

    def close(self) -> None:
        pass


class StubSegmenter:
    """The class of a frame is its brightness modulo 3."""

    smoothing, batch_size = 0, 1

    def __init__(self, info: ModelInfo) -> None:
        self.info = info

    def settings(self) -> dict[str, Any]:
        return {}

    def history(self, smoothing: int) -> int:
        return smoothing

    def working_size(self, size: tuple[int, int], _: float) -> tuple[int, int]:
        return size

    def predict(self, frames: Iterable[np.ndarray], **_: object) -> Iterator[Prediction]:
        for index, frame in enumerate(frames):
            logits = torch.zeros(3, 4, 4)
            logits[int(frame[0, 0, 0]) % 3] = 1
            yield Prediction(index, logits, (16, 16))


class _Mallinfo(ctypes.Structure):
    _fields_ = [(f"field_{number}", ctypes.c_size_t) for number in range(10)]


def native_bytes() -> int:
    """Return what is allocated in the heaps of the C library, FFmpeg's memory among it; 0 if it does not say."""
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is None:
        return 0
    function.restype = _Mallinfo
    found = function()
    return int(found.field_4 + found.field_7)  # mapped blocks, and the others


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without garbage collection, so that reference cycles count as growth."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector", "one_thread")
def test_neither_memory_nor_time_per_frame_grows(
    tiny_info: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccnet3d.masks.shares._ROWS_AT_ONCE", ROWS)
    seconds = np.zeros(FRAMES)
    measured: list[tuple[int, int]] = []
    count = 0

    def on_frame(_: dict[str, Any]) -> None:
        nonlocal count
        seconds[count] = time.thread_time()
        count += 1
        if count in (SETTLED, LATE):
            measured.append((sys.getallocatedblocks(), native_bytes()))

    options = RunOptions(overlay=tmp_path / "overlay.mp4", shares=tmp_path / "shares.csv")
    segmenter: Any = StubSegmenter(tiny_info)
    summary = segment_video(EndlessReader(), segmenter, tmp_path / "masks", options, on_frame=on_frame)
    (blocks, native), (later_blocks, later_native) = measured
    assert later_blocks - blocks < (LATE - SETTLED) / 4
    assert later_native - native < 32 * (LATE - SETTLED)
    each = np.diff(seconds)
    assert statistics.median(each[-700:]) < 1.5 * statistics.median(each[500:1200])
    assert summary["frame_numbers"] == [index * 3 // 2 for index in range(FRAMES)]
    assert summary["pts_seconds"] == [index / 25 if index % 7 else None for index in range(FRAMES)]
    text = (tmp_path / "masks" / "summary.json").read_text()
    assert text == json.dumps(summary, indent=1) + "\n"
    with pytest.importorskip("av").open(str(tmp_path / "overlay.mp4")) as overlay:
        assert sum(1 for _ in overlay.decode(video=0)) == FRAMES


def test_a_log_returns_what_was_added_from_memory_and_from_its_file() -> None:
    for count in (0, 1, 5000):
        with FrameLog() as log:
            for index in range(count):
                log.add(index, None if index % 5 == 0 else index / 30)
            assert len(log) == count
            assert log.indices() == list(range(count))
            assert log.times() == [None if index % 5 == 0 else index / 30 for index in range(count)]
