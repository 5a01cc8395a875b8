"""What is TorchCodec's own among the readers: missing libraries, streams, damage. Its frames: test_corpus.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from video.corpus import X264, encode, packet_ranges, read_code, skip_without, two_streams

from ccnet3d.video import VideoError, open_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("torchcodec") / "clip.mp4", *X264)


def test_a_missing_package_and_missing_libraries_are_told(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(VideoError, match="torchcodec is not installed; run: pip install torchcodec, or use --decoder"):
        open_video(clip, "torchcodec")

    def without_libraries(*_: object, **__: object) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed")

    fake = SimpleNamespace(VideoDecoder=without_libraries)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=fake))
    message = "needs the shared libraries of FFmpeg 4 to 9 .apt-get install ffmpeg.*; or use --decoder av$"
    with pytest.raises(VideoError, match=message):
        open_video(clip, "torchcodec")


def test_a_stream_is_chosen_like_pyav(tmp_path: Path) -> None:
    skip_without("torchcodec")
    two_streams(tmp_path / "two.mkv")
    for stream, first in ((None, 0), (0, 20)):
        with open_video(tmp_path / "two.mkv", "torchcodec", stream) as reader:
            frames, warnings = list(reader), list(reader.info.warnings)
        with open_video(tmp_path / "two.mkv", "av", stream) as reader:
            expected = list(reader)
            assert warnings == reader.info.warnings
        assert read_code(frames[0].image) == first
        for one, other in zip(frames, expected, strict=True):
            assert (one.index, one.pts_seconds) == (other.index, other.pts_seconds)
            assert np.array_equal(one.image, other.image)


def test_damage_is_one_error(clip: Path, tmp_path: Path) -> None:
    skip_without("torchcodec")
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        open_video(tmp_path / "cut.mp4", "torchcodec")
    position, size = packet_ranges(clip)[15]
    zeroed = bytearray(data)
    zeroed[position + 5 : position + size] = bytes(size - 5)
    (tmp_path / "zeroed.mp4").write_bytes(zeroed)
    with (
        open_video(tmp_path / "zeroed.mp4", "torchcodec") as reader,
        pytest.raises(VideoError, match=r"torchcodec cannot decode frame \d+ of .*zeroed.mp4 \(.*\); try --decoder av"),
    ):
        list(reader)
