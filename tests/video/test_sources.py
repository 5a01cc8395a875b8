"""Image folders, pipes, worker processes, and errors of readers."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from video.corpus import FRAMES, HEIGHT, WIDTH, X264, draw_coded, encode, read_code, skip_without
from video.workers import Clips

from ccnet3d.video import VideoError, VideoFrame, images_in_folder, open_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("video") / "clip.mp4", *X264)


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(draw_coded(index)).save(folder / name)


def codes(frames: list[VideoFrame]) -> list[int]:
    return [read_code(frame.image) for frame in frames]


def test_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    write_images(folder, ["img1.png", "img2.png", "img10.png", "img20.jpg"])
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    with open_video(folder) as reader:
        frames = list(reader)
        assert codes(frames) == [frame.index for frame in frames] == [0, 1, 2, 3]
        assert {frame.pts_seconds for frame in frames} == {None}
        assert (reader.info.name, reader.info.path, reader.info.frames_per_second) == ("frames", folder, None)
        assert (reader.info.expected_frames, len(reader), reader.info.warnings) == (4, 4, [])
        assert codes(reader.clip([3, 0, 3])) == [3, 0, 3]
        with pytest.raises(IndexError, match="frames has no frame 4; it has 4 frames, numbered from 0"):
            reader.clip([4])
    with open_video(f"{folder}/img*.png") as reader:
        assert codes(list(reader)) == [0, 1, 2]
        assert reader.info.path is None
        assert reader.info.name == f"{folder}/img*.png"


def test_images_of_all_kinds(tmp_path: Path) -> None:
    picture = Image.fromarray(draw_coded(5))
    gray16 = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    picture.convert("L").save(tmp_path / "0_gray.png")
    Image.fromarray(gray16).save(tmp_path / "1_gray16.png")
    picture.quantize(200).save(tmp_path / "2_palette.png")
    picture.convert("RGBA").save(tmp_path / "3_rgba.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees clockwise for display
    picture.rotate(90, expand=True).save(tmp_path / "4_turned.png", exif=turned)
    picture.resize((64, 48)).save(tmp_path / "5_small.bmp")
    with open_video(tmp_path) as reader:
        images = [frame.image for frame in reader]
        assert [image.shape for image in images] == [(HEIGHT, WIDTH, 3)] * 5 + [(48, 64, 3)]
        assert {image.dtype for image in images} == {np.dtype(np.uint8)}
        assert np.array_equal(images[0][..., 0], np.asarray(picture.convert("L")))
        assert np.abs(images[1][..., 1].astype(float) - gray16 / 257).max() <= 0.51
        assert read_code(images[2]) == 5
        assert np.array_equal(images[3], draw_coded(5))
        assert np.array_equal(images[4], draw_coded(5))
        (warning,) = reader.info.warnings
        assert warning == "the frame size changes: 96x80 from frame 0, 64x48 from frame 5"


def test_unreadable_image_is_a_lost_frame(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png", "3.png"])
    data = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(data[: len(data) // 2])
    with open_video(tmp_path) as reader:
        for _ in range(2):  # each iteration starts without warnings
            assert [frame.index for frame in reader] == [0, 2]
            (warning,) = reader.info.warnings
            assert "frame 1 could not be read and left a gap in the numbering" in warning
            assert f"cannot read the image {tmp_path / '2.png'}" in warning
        with pytest.raises(VideoError, match="frame 1 of .* is lost: cannot read the image .*2.png"):
            reader.clip([0, 1])
    for name in ("1.png", "3.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(VideoError, match="none of the 3 images of .* can be read: cannot read the image .*1.png"):
        list(open_video(tmp_path))


def test_folders_and_patterns_without_images(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="contains no images; expected files that end in .png, .jpg"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match=r"there is no file .*\*.png: nothing matches the pattern"):
        open_video(f"{tmp_path}/*.png")
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(VideoError, match=r"is a folder and contains videos, not images; give one of them, .*a.mp4"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match=r"the pattern .* contains videos, not images; give one of them, .*a.mp4"):
        open_video(f"{tmp_path}/*.mp4")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="an administrator may read everything")
def test_no_permission(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(video.read_bytes())
    path.chmod(0)
    with pytest.raises(VideoError, match="you have no permission; run: chmod"):
        open_video(path)


class Pipe(io.RawIOBase):
    """A stream that can only be read, and only a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1000) if size >= 0 else -1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", X264),
        ("a.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8)),
        ("a.ts", X264),
        ("a.y4m", ("-pix_fmt", "yuv420p")),
        ("a.mp4", (*X264, "-movflags", "+faststart")),
        ("a.mp4", (*X264, "-movflags", "+frag_keyframe+empty_moov")),
    ],
)
def test_pipe(tmp_path: Path, name: str, options: tuple[object, ...]) -> None:
    path = encode(tmp_path / name, *options)
    expected = list(open_video(path))
    with open_video(Pipe(path.read_bytes())) as reader:  # type: ignore[arg-type]
        assert reader.info.path is None
        assert reader.info.name == "the stream"
        with pytest.raises(VideoError, match="is a pipe, which has no length; iterate over it, or give a file"):
            len(reader)
        with pytest.raises(VideoError, match="is a pipe, which has no random access"):
            reader.clip([0])
        with pytest.raises(VideoError, match="can be read in this process only; give a file"):
            pickle.dumps(reader)
        frames = list(reader)
        with pytest.raises(VideoError, match="has already been read; a pipe can be read once"):
            list(reader)
    assert len(frames) == len(expected) == FRAMES
    for frame, other in zip(frames, expected, strict=True):
        assert (frame.index, frame.pts_seconds) == (other.index, other.pts_seconds)
        assert np.array_equal(frame.image, other.image)
    assert reader.info.warnings == []


def test_pipe_that_fails(tmp_path: Path) -> None:
    """Frames before the failure are returned, and the warning states the reason."""

    class FailingPipe(Pipe):
        left = 20_000

        def read(self, size: int = -1) -> bytes:
            if self.left <= 0:
                raise OSError(errno.EIO, "Input/output error")
            data = super().read(size)
            self.left -= len(data)
            return data

    path = encode(tmp_path / "a.mkv", *X264)
    assert path.stat().st_size > 30_000
    with open_video(FailingPipe(path.read_bytes())) as reader:  # type: ignore[arg-type]
        frames = list(reader)
        assert 0 < len(frames) < FRAMES
        assert any(
            "reading stopped before the end" in warning and "Input/output" in warning
            for warning in reader.info.warnings
        )
    assert codes(frames[:15]) == list(range(15))


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="the folder .*absent cannot be read .No such file or directory"):
        images_in_folder(tmp_path / "absent")


def test_standard_input(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", *X264)
    code = "import sys; from ccnet3d.video import open_video\n"
    code += "r = open_video(sys.stdin.buffer); print(r.info.name, len(list(r)))"
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=cat.stdout, capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == ["stdin", str(FRAMES)]


def test_pipes_that_cannot_be_read(video: Path) -> None:
    with pytest.raises(
        VideoError, match="mp4 with its index at the end.*ffmpeg -i in.mp4 -c copy -movflags .faststart"
    ):
        open_video(Pipe(video.read_bytes()))  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="the stream is empty; pipe a video into it"):
        open_video(Pipe(b""))  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="cannot be read as a video"):
        open_video(Pipe(bytes(5000)))  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="decord cannot read from a pipe; use --decoder av, or give a file"):
        open_video(Pipe(video.read_bytes()), "decord")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decoder", "start"),
    [("av", "fork"), ("av", "spawn"), ("decord", "fork"), ("decord", "spawn"), ("torchcodec", "fork")],
)
def test_worker_processes(video: Path, decoder: str, start: str) -> None:
    """A reader that is in use in the parent process; a deadlock in a worker would hit the timeout."""
    skip_without(decoder)
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {start}")
    reader = open_video(video, decoder)
    begun = iter(reader)
    next(begun)
    assert codes(reader.clip([20, 5])) == [20, 5]
    loader = DataLoader(Clips(reader), batch_size=2, num_workers=2, timeout=60, multiprocessing_context=start)
    got = torch.cat(list(loader))
    assert got.tolist() == [[index, 3 * index, 39 - index] for index in range(8)]
    assert [frame.index for frame in begun] == list(range(1, FRAMES))
    reader.close()


def test_iteration_does_not_continue_after_a_fork(video: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this platform cannot fork")
    code = f"""
import os
from ccnet3d.video import VideoError, open_video
reader = open_video({str(video)!r}); frames = iter(reader); next(frames)
child = os.fork()
if child == 0:
    try: next(frames)
    except VideoError as error: print(error, flush=True)
    del frames
    print(len(list(reader)), flush=True)
    reader.close()
    os._exit(0)
os.waitpid(child, 0)
print(len(list(frames)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    first, *counts = done.stdout.splitlines()
    assert "was being read when the process forked; start a new iteration" in first
    assert counts == [str(FRAMES), str(FRAMES - 1)]


@pytest.mark.parametrize("decoder", ["av", "decord", "torchcodec"])
def test_closed_reader(video: Path, decoder: str) -> None:
    skip_without(decoder)
    with open_video(str(video), decoder) as reader:
        frames = iter(reader)
        next(frames)
    for use in (lambda: reader.clip([0]), lambda: next(frames), lambda: iter(reader)):
        with pytest.raises(VideoError, match="is closed; open it again"):
            use()
