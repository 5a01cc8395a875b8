from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import draw_scene
from video.corpus import X264, encode, ffmpeg

from ccnet3d.video import VideoWriter, draw_sample_frame, open_video, write_sample_video


@pytest.mark.parametrize("size", [(48, 64), (47, 63)], ids=str)
def test_frames_and_times_are_read_back(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.mp4"
    times = [0.0, 0.04, 0.5, 0.54, 1.0]
    with VideoWriter(path, 25.0) as writer:
        for number, seconds in enumerate(times):
            writer.write(draw_scene(number, *size)[0], seconds)
    frames = list(open_video(path))
    assert [frame.pts_seconds for frame in frames] == pytest.approx(times, abs=1e-3)
    for number, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3)  # odd sizes are padded
        difference = frame.image[: size[0], : size[1]].astype(int) - draw_scene(number, *size)[0]
        assert np.abs(difference).mean() < 12
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_frames_without_times_follow_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 10.0) as writer:
        for number in range(4):
            writer.write(draw_scene(number)[0], None)
    assert [frame.pts_seconds for frame in open_video(path)] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)


def test_times_start_at_the_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 10.0) as writer:
        for seconds in (50_000.0, 50_000.1, 50_000.3):
            writer.write(draw_scene(0)[0], seconds)
    with av.open(str(path)) as container:
        assert container.duration / av.time_base < 1
    assert [frame.pts_seconds for frame in open_video(path)] == pytest.approx([0, 0.1, 0.3], abs=1e-3)


def test_all_frames_get_the_first_size(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 10.0) as writer:
        writer.write(draw_scene(0)[0], None)
        writer.write(draw_scene(1, 20, 80)[0], None)
    assert [frame.image.shape for frame in open_video(path)] == [(48, 64, 3)] * 2


@pytest.mark.parametrize(
    ("turned", "aspect"), [(0, Fraction(4, 3)), (90, Fraction(3, 4)), (180, Fraction(4, 3))], ids=str
)
def test_pixel_aspect_is_kept(tmp_path: Path, turned: int, aspect: Fraction) -> None:
    """Anamorphic videos, such as DV, have pixels that are not square."""
    source, path = tmp_path / "dv.mp4", tmp_path / "out.mp4"
    encode(tmp_path / "plain.mp4", "-vf", "setsar=4/3", *X264, frames=2)
    ffmpeg("-display_rotation", turned, "-i", tmp_path / "plain.mp4", "-c", "copy", source)
    with open_video(source) as reader:
        frames = list(reader)
        assert reader.info.pixel_aspect == aspect
        with VideoWriter(path, 10.0, reader.info.pixel_aspect) as writer:
            for frame in frames:
                writer.write(frame.image, None)
    _, messages = ffmpeg("-i", path, level="info", check=False)
    assert f"[SAR {aspect.numerator}:{aspect.denominator} " in messages
    with open_video(path) as reader:
        next(iter(reader))
        assert reader.info.pixel_aspect == aspect


def test_square_pixels(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "a.mp4", *X264, frames=2)) as reader:
        next(iter(reader))
        assert reader.info.pixel_aspect == 1


def test_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "out.mp4", 10.0) as writer:
        writer.write(draw_scene(0)[0], None)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="must be an .mp4 file, got .*out.avi"):
        VideoWriter(tmp_path / "out.avi", 10.0)


def test_synthetic_sample(tmp_path: Path) -> None:
    path = tmp_path / "sample.mp4"
    write_sample_video(path, frames=5)
    frames = list(open_video(path))
    assert len(frames) == 5
    assert np.abs(frames[2].image.astype(int) - draw_sample_frame(2)).mean() < 5


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    """A resumed run depends on it.

    The frames are textured, their sides are not multiples of 16, and memory with other contents is allocated between
    the files: with its macroblock tree, x264 writes over 20 different files on AVX-512.
    """
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (23, 40, 3), np.uint8).repeat(4, 0).repeat(4, 1)[:90] for _ in range(10)]
    contents = set()
    for number in range(100):
        _ = [np.full(rng.integers(1000, 400_000), rng.integers(256), np.uint8) for _ in range(5)]
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path, 10) as writer:
            for index, image in enumerate(images):
                writer.write(image, index / 10)
        contents.add(path.read_bytes())
    assert len(contents) == 1
