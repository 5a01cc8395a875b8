from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from conftest import MakeVideo, draw_scene
from PIL import Image
from video.corpus import skip_without

from ccnet3d.video import VideoError, VideoFrame, open_video


def read_all(path: Path, decoder: str = "auto"):
    reader = open_video(path, decoder)
    frames = list(reader)
    reader.close()
    return frames, reader.info


@pytest.mark.parametrize("decoder", ["av", "decord", "torchcodec"])
@pytest.mark.parametrize(("name", "size"), [("clip.mp4", (48, 64)), ("clip.mkv", (50, 34))])
def test_every_frame_in_order(make_video: MakeVideo, decoder: str, name: str, size: tuple[int, int]) -> None:
    skip_without(decoder)
    frames, info = read_all(make_video(name, frames=23, height=size[0], width=size[1]), decoder)
    assert [frame.index for frame in frames] == list(range(23))
    assert [frame.pts_seconds for frame in frames] == pytest.approx([n / 10 for n in range(23)], abs=1e-3)
    assert info.frames_per_second == pytest.approx(10)
    assert info.warnings == []
    for number, frame in enumerate(frames):
        assert frame.image.shape == (*size, 3)
        # H.264 at its default quality: the frame is closer to its own drawing than to the next ones.
        drawings = [draw_scene(n, *size)[0].astype(int) for n in range(number, number + 3)]
        errors = [np.abs(frame.image - drawing).mean() for drawing in drawings]
        assert errors[0] < min(errors[1:])


def test_uneven_times_are_kept(make_video: MakeVideo) -> None:
    frames, _ = read_all(make_video("vfr.mkv", frames=5, pts=[0, 1, 5, 6, 20]))
    assert [frame.pts_seconds for frame in frames] == pytest.approx([0, 0.1, 0.5, 0.6, 2.0], abs=1e-3)


def ffmpeg(*arguments: object) -> bytes:
    """Run the ffmpeg command of imageio-ffmpeg."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def ffmpeg_frames(path: Path, height: int, width: int) -> np.ndarray:
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def assert_frames_equal(frames: list[VideoFrame], expected: np.ndarray) -> None:
    assert len(frames) == len(expected)
    for frame, truth in zip(frames, expected, strict=True):
        assert frame.image.shape == truth.shape
        assert np.abs(frame.image.astype(int) - truth).mean() < 2  # two FFmpeg builds may round colors differently


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_in_the_metadata(make_video: MakeVideo, tmp_path: Path, degrees: int) -> None:
    plain, turned = make_video(frames=3), tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", degrees, "-i", plain, "-c", "copy", turned)
    height, width = (48, 64) if degrees == 180 else (64, 48)
    assert_frames_equal(read_all(turned)[0], ffmpeg_frames(turned, height, width))


def test_edit_list_is_applied(make_video: MakeVideo, tmp_path: Path) -> None:
    """A cut without re-encoding keeps the frames from the last keyframe on and hides those before the cut."""
    cut = tmp_path / "cut.mp4"
    ffmpeg("-ss", 1.5, "-i", make_video(frames=40), "-c", "copy", cut)
    frames, info = read_all(cut)
    assert_frames_equal(frames, ffmpeg_frames(cut, 48, 64))
    assert len(frames) < 40
    assert info.warnings == []
    if importlib.util.find_spec("decord"):
        with pytest.raises(
            VideoError, match=rf"decord finds \d+ frames in .*, which has {len(frames)}; use --decoder av"
        ):
            open_video(cut, "decord")


def test_truncated_file_is_reported(make_video: MakeVideo, tmp_path: Path) -> None:
    source, cut = make_video("long.mp4", frames=60), tmp_path / "cut.mp4"
    # With the index at the start, so that the end can be cut off.
    with av.open(str(source)) as reader, av.open(str(cut), "w", options={"movflags": "faststart"}) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * 0.6)])
    frames, info = read_all(cut)
    assert 0 < len(frames) < 60
    assert any("decoded" in warning or "stopped" in warning for warning in info.warnings)


def test_damaged_packet_loses_only_its_frame(make_video: MakeVideo, tmp_path: Path) -> None:
    """Motion JPEG in AVI, with independent frames of which the seventh is unreadable."""
    source, broken = make_video("sound.avi", frames=20, codec="mpeg4"), tmp_path / "broken.avi"
    ffmpeg("-i", source, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", tmp_path / "whole.avi")
    data = bytearray((tmp_path / "whole.avi").read_bytes())
    with av.open(str(tmp_path / "whole.avi")) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    start = data.find(packets[6])
    data[start : start + len(packets[6])] = bytes(len(packets[6]))
    broken.write_bytes(data)
    frames, info = read_all(broken)
    assert len(frames) == 19
    assert any("1 packet could not be decoded" in warning for warning in info.warnings)
    expected = list(open_video(tmp_path / "whole.avi"))
    for frame, whole in zip(frames, expected[:6] + expected[7:], strict=True):
        assert np.array_equal(frame.image, whole.image)


def test_a_still_image_is_one_frame_and_text_and_cover_art_are_not_videos(tmp_path: Path) -> None:
    image = Image.fromarray(draw_scene(0)[0])
    for name in ("photo.jpg", "photo.png"):
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("some notes, which FFmpeg would draw as a terminal\n" * 20)
    write_audio(tmp_path / "plain.m4a")
    ffmpeg("-i", tmp_path / "plain.m4a", "-i", tmp_path / "photo.png", "-map", "0", "-map", "1", "-c:a", "copy",
           "-c:v", "mjpeg", "-disposition:v:0", "attached_pic", tmp_path / "song.m4a")  # fmt: skip
    with av.open(str(tmp_path / "song.m4a")) as container:
        assert len(container.streams.video) == 1
    for name in ("photo.jpg", "photo.png"):
        with open_video(tmp_path / name) as reader:
            assert reader.info.still
            (frame,) = reader
            assert np.array_equal(frame.image, np.asarray(Image.open(tmp_path / name)))
    with pytest.raises(VideoError, match="not a video but a still image or text"):
        open_video(tmp_path / "notes.txt")
    with pytest.raises(VideoError, match="has no video stream"):
        open_video(tmp_path / "song.m4a")


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file .*x.mp4"),
        ("folder", "is a folder"),
        (b"", "x.mp4 is empty"),
        (b"hello, this is text\n" * 50, "cannot be read as a video"),
        (bytes(5000), "cannot be read as a video"),
        ("audio", "has no video stream"),
    ],
)
def test_sources_that_are_not_videos(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "x.mp4"
    if content == "folder":
        path.mkdir()
    elif content == "audio":
        write_audio(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=message):
        read_all(path)


def test_decoders(make_video: MakeVideo) -> None:
    with pytest.raises(ValueError, match="unknown decoder 'opencv'; choose auto, av, decord or torchcodec"):
        open_video(make_video(), "opencv")
    with pytest.raises(VideoError, match=r"decord silently loses frames in .avi files.*--decoder av"):
        open_video(make_video("clip.avi", codec="mpeg4"), "decord")


def test_package_imports_without_av_and_decord() -> None:
    code = (
        "import sys; sys.modules['av'] = sys.modules['decord'] = sys.modules['torchcodec'] = None\n"
        "import ccnet3d, ccnet3d.training, ccnet3d.evaluation, ccnet3d.inference, ccnet3d.cli.infer, ccnet3d.video\n"
        "from pathlib import Path\n"
        "try: ccnet3d.video.open_video(Path(sys.executable))\n"
        "except ValueError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "videos need PyAV; run: pip install av"
