"""Videos with alpha, read back by FFmpeg's own program and by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video.corpus import ffmpeg

from ccnet3d.errors import UserError
from ccnet3d.video import AlphaVideoWriter, draw_sample_frame

TIMES = [0.0, 0.04, 0.5, 0.54]
ASPECT = {".webm": Fraction(1), ".mov": Fraction(4, 3)}


def part(number: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - 50) ** 2 + (columns - 40 - 5 * number) ** 2 < 900


def write(path: Path, size: tuple[int, int]) -> Path:
    with AlphaVideoWriter(path, 25.0, ASPECT[path.suffix]) as writer:
        for number, seconds in enumerate(TIMES):
            writer.write(draw_sample_frame(number, *size), part(number, *size), seconds + 100)
    return path


def read_rgba(path: Path, size: tuple[int, int]) -> np.ndarray:
    """FFmpeg's own decoder of VP9 ignores alpha."""
    decoder = ["-c:v", "libvpx-vp9"] if path.suffix == ".webm" else []
    options = ["-vf", "scale=in_color_matrix=bt709", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgba"]
    output, _ = ffmpeg(*decoder, "-i", path, *options, "-")
    return np.frombuffer(output, np.uint8).reshape(-1, *size, 4)


@pytest.mark.parametrize("suffix", [".webm", ".mov"])
@pytest.mark.parametrize("size", [(96, 128), (97, 131)], ids=str)
def test_colors_alpha_and_times_are_read_back(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = write(tmp_path / f"cut{suffix}", size)
    frames = read_rgba(path, (size[0] + size[0] % 2, size[1] + size[1] % 2))  # odd sizes are padded
    assert len(frames) == 4
    for number, frame in enumerate(frames):
        frame = frame[: size[0], : size[1]].astype(int)
        image, visible = draw_sample_frame(number, *size), part(number, *size)
        # Of transparent pixels, too.
        assert np.abs(frame[..., :3] - image).mean() < (1 if suffix == ".mov" else 9)
        assert ((frame[..., 3] > 127) == visible).mean() > 0.999
        assert np.abs(frame[..., 3] - 255 * visible).mean() < 1
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == ("vp9" if suffix == ".webm" else "prores")
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)  # BT.709, limited
        assert stream.sample_aspect_ratio == ASPECT[suffix]
        times = [frame.time for frame in container.decode(stream)]
        # Players look for this before they decode alpha.
        assert suffix == ".mov" or stream.metadata["alpha_mode"] == "1"
    assert times == pytest.approx(TIMES, abs=1e-3)


@pytest.mark.parametrize("suffix", [".webm", ".mov"])
@pytest.mark.parametrize("width", [2, 66, 104, 130, 200])
def test_same_frames_give_the_same_bytes(tmp_path: Path, suffix: str, width: int) -> None:
    files = [write(tmp_path / f"{number}{suffix}", (64, width)).read_bytes() for number in range(3)]
    assert files[1:] == files[:1] * 2


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be a .webm \(VP9\) or .mov \(ProRes 4444\) file, got cut.mp4"):
        AlphaVideoWriter(Path("cut.mp4"), 25.0)
    with pytest.raises(UserError, match=r"not square \(4/3\), which is not written to WebM; give a .mov file instead"):
        AlphaVideoWriter(Path("cut.webm"), 25.0, Fraction(4, 3))
    with pytest.raises(RuntimeError), AlphaVideoWriter(tmp_path / "cut.mov", 25.0) as writer:
        writer.write(draw_sample_frame(0, 48, 64), np.ones((48, 64), bool), 0.0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
