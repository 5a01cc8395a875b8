"""Named pipes, devices and sequences of images: read once, and equal to files."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video.corpus import FRAMES, X264, draw_coded, encode, fed, ffmpeg

from ccnet3d.video import VideoError, VideoFrame, open_video

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")


def assert_equal_frames(frames: list[VideoFrame], expected: list[VideoFrame]) -> None:
    assert [(frame.index, frame.pts_seconds) for frame in frames] == [(f.index, f.pts_seconds) for f in expected]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", X264),
        ("a.ts", X264),
        ("a.mp4", (*X264, "-movflags", "+faststart")),
        ("a.mjpeg", ("-c:v", "mjpeg", "-q:v", 2, "-f", "mjpeg")),
    ],
)
def test_fifo_equals_the_file(tmp_path: Path, name: str, options: tuple[object, ...]) -> None:
    path = encode(tmp_path / name, *options, height=240, width=320)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    expected = list(open_video(path))
    assert len(expected) == FRAMES
    with fed(fifo, path.read_bytes()), open_video(fifo) as reader:
        assert (reader.info.path, reader.info.name) == (None, str(fifo))
        with pytest.raises(VideoError, match="is a pipe, which has no length"):
            len(reader)
        assert_equal_frames(list(reader), expected)
        with pytest.raises(VideoError, match="has already been read; a pipe can be read once"):
            list(reader)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this platform has no /dev/fd")
def test_descriptor_as_of_a_process_substitution(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", *X264, frames=6)
    reading, writing = os.pipe()
    thread = threading.Thread(target=lambda: os.fdopen(writing, "wb").write(path.read_bytes()), daemon=True)
    thread.start()
    with open_video(Path(f"/dev/fd/{reading}")) as reader:
        assert_equal_frames(list(reader), list(open_video(path)))
    os.close(reading)
    with path.open("rb") as file, open_video(f"/dev/fd/{file.fileno()}") as reader:  # a file behind such a name
        assert len(reader) == 6


def test_writer_ends_when_the_reader_is_closed(tmp_path: Path) -> None:
    path, fifo = encode(tmp_path / "a.mkv", *X264, height=480, width=640), tmp_path / "fifo"
    assert path.stat().st_size > 300_000  # more than a pipe holds
    os.mkfifo(fifo)
    with fed(fifo, path.read_bytes()), open_video(fifo) as reader:
        assert next(iter(reader)).index == 0


def test_stop_ends_a_read_that_waits(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", *X264)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, path.read_bytes()[: path.stat().st_size // 2])  # and then nothing, without an end
    with os.fdopen(reading, "rb") as source, open_video(source) as reader:
        frames: list[VideoFrame] = []
        thread = threading.Thread(target=lambda: frames.extend(reader), daemon=True)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        reader.stop()
        thread.join(timeout=30)
        assert not thread.is_alive()
        assert 0 < len(frames) < FRAMES
    os.close(writing)


def test_paths_that_are_no_videos(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(VideoError, match="decord cannot read from a pipe; use --decoder av, or give a file"):
        open_video(fifo, "decord")
    with fed(fifo, b""), pytest.raises(VideoError, match="is empty; pipe a video into it"):
        open_video(fifo)
    with pytest.raises(VideoError, match="/dev/null is empty"):
        open_video("/dev/null")
    _, terminal = os.openpty()
    with pytest.raises(VideoError, match="is a terminal; pipe a video into it, or give a file"):
        open_video(os.ttyname(terminal))


def test_raw_mjpeg_is_a_video(tmp_path: Path) -> None:
    for name in ("a.mjpeg", "a.mjpg", "noname"):
        path = encode(tmp_path / name, "-c:v", "mjpeg", "-q:v", 2, "-f", "mjpeg", height=240, width=320, frames=5)
        raw, _ = ffmpeg("-f", "mjpeg", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
        with open_video(path) as reader:
            assert np.array_equal(np.stack([frame.image for frame in reader]).ravel(), np.frombuffer(raw, np.uint8))
            assert len(reader) == 5
            assert reader.info.warnings == []
    still = encode(tmp_path / "a.jpg", frames=1)
    with open_video(still) as reader:
        assert len(list(reader)) == 1


def test_images_from_a_pipe_are_a_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "images", "-c:v", "png", "-f", "image2pipe", frames=4)
    with path.open("rb") as file:
        frames = list(open_video(file))
    raw, _ = ffmpeg("-f", "png_pipe", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    assert np.array_equal(np.stack([frame.image for frame in frames]).ravel(), np.frombuffer(raw, np.uint8))


def test_animated_webp(tmp_path: Path) -> None:
    images = [Image.fromarray(draw_coded(index)) for index in range(6)]
    path = tmp_path / "a.webp"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[40, 80, 40, 40, 40, 40], lossless=True)
    with open_video(path) as reader:
        assert (reader.info.expected_frames, len(reader), reader.info.decoder) == (6, 6, "pillow")
        for _ in range(2):
            frames = list(reader)
            assert np.array_equal([frame.image for frame in frames], [draw_coded(index) for index in range(6)])
            assert [frame.pts_seconds for frame in frames] == pytest.approx([0, 0.04, 0.12, 0.16, 0.2, 0.24])
        assert [frame.index for frame in reader.clip([4, 0, 4])] == [4, 0, 4]
        assert np.array_equal(reader.clip([3])[0].image, draw_coded(3))
        with pytest.raises(IndexError, match="a.webp has no frame 6; it has 6 frames"):
            reader.clip([6])
    with path.open("rb") as file, pytest.raises(VideoError, match="animated WebP, which cannot be read from a pipe"):
        open_video(file)
    data = path.read_bytes()
    start = [at for at in range(len(data)) if data[at : at + 4] == b"ANMF"][3] + 40
    path.write_bytes(data[:start] + bytes(500) + data[start + 500 :])
    with open_video(path) as reader:
        assert np.array_equal([frame.image for frame in reader], [draw_coded(index) for index in range(3)])
        assert "only 3 of the 6 frames could be decoded: frame 3 of" in reader.info.warnings[0]
        with pytest.raises(VideoError, match="frame 3 of .*a.webp cannot be decoded"):
            reader.clip([3])
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="a.webp cannot be read as an animation"):
        open_video(path)
