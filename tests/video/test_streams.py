"""Which stream of a file is read, and how it is shown: display matrices, animated AVIF, rates, colors, lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features
from video.corpus import FRAMES, X264, draw_coded, dropped_frames, encode, ffmpeg, has_encoder, read_code, two_streams

from ccnet3d.video import VideoError, open_video
from ccnet3d.video.container import upright_filters
from ccnet3d.video.h264_fields import SecondFields
from ccnet3d.video.packet_index import HiddenPackets

ONE = 1 << 16
avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow cannot write AVIF here")


@pytest.mark.parametrize(
    ("entries", "filters"),
    [
        ((1, 0, 0, 1), []),
        ((-1, 0, 0, 1), [("hflip", "")]),
        ((-1, 0, 0, -1), [("hflip", ""), ("vflip", "")]),
        ((1, 0, 0, -1), [("vflip", "")]),
        ((0, 1, 1, 0), [("transpose", "cclock_flip")]),
        ((0, 1, -1, 0), [("transpose", "clock")]),
        ((0, -1, -1, 0), [("transpose", "clock_flip")]),
        ((0, -1, 1, 0), [("transpose", "cclock")]),
        ((2, 0, 0, 2), []),
        ((0, 0, 0, 0), []),
        ((0.6, 0.8, -0.8, 0.6), [("rotate", "53*PI/180")]),
    ],
)
def test_filters_for_display_matrices(entries: tuple[float, ...], filters: list[tuple[str, str]]) -> None:
    a, b, c, d = (int(entry * ONE) for entry in entries)
    assert upright_filters((a, b, 0, c, d, 0, 0, 0, 1 << 30)) == filters


def test_no_display_matrix() -> None:
    assert upright_filters(()) == []


@avif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_avif(tmp_path: Path, orientation: int) -> None:
    """Pillow writes the orientation as the boxes irot and imir."""
    exif, path = Image.Exif(), tmp_path / "turned.avif"
    exif[0x0112] = orientation
    Image.fromarray(draw_coded(5)).save(path, exif=exif, subsampling="4:4:4", quality=95)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    (frame,) = open_video(path)
    assert frame.image.shape == expected.shape
    assert np.abs(frame.image - expected).mean() < 1


@avif
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_animated_avif(tmp_path: Path, mode: str) -> None:
    """Besides the frames the file contains the first one as a still image, and transparency as further streams."""
    images = [Image.fromarray(draw_coded(index)).convert(mode) for index in range(8)]
    images[0].putpixel((95, 79), (0, 0, 0, 9)[: len(mode)])
    path = tmp_path / "animated.avif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=200)
    with open_video(path) as reader:
        frames = list(reader)
        assert [read_code(frame.image) for frame in frames] == list(range(8))
        assert [frame.pts_seconds for frame in frames] == pytest.approx([index / 5 for index in range(8)])
        assert len(reader) == 8
        assert reader.info.warnings == []
        assert [read_code(frame.image) for frame in reader.clip([7, 3])] == [7, 3]


def test_mirrored_video_is_refused_by_decord(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord has no wheel for this platform")
    source = encode(tmp_path / "source.mp4", *X264, frames=2)
    for name, options in (("flip.mp4", ("-display_hflip",)), ("slant.mp4", ("-display_rotation", 30))):
        ffmpeg(*options, "-i", source, "-c", "copy", tmp_path / name)
        with pytest.raises(VideoError, match="is mirrored or turned by an odd angle, .*; use --decoder av"):
            open_video(tmp_path / name, "decord")


def test_choice_of_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    two_streams(path)
    with open_video(path) as reader:
        assert [read_code(frame.image) for frame in reader] == list(range(FRAMES))  # the one with the default flag
        (warning,) = reader.info.warnings
        assert warning == (
            "the file has 2 video streams, 0 (128x96), 1 (96x80), and stream 1 is read; "
            "choose another one with --stream"
        )
        assert reader.info.stream is None
    with open_video(path, stream=0) as reader:
        assert [read_code(frame.image) for frame in reader] == list(range(20, FRAMES))
        assert read_code(reader.clip([7])[0].image) == 27
        assert (len(reader), reader.info.stream, reader.info.warnings) == (20, 0, [])
    with path.open("rb") as file, open_video(file, stream=0) as reader:
        assert next(iter(reader)).image.shape == (96, 128, 3)
    with pytest.raises(VideoError, match=r"has no video stream 2; choose from: 0 .128x96., 1 .96x80.$"):
        open_video(path, stream=2)
    Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    animation = tmp_path / "a.webp"
    Image.new("RGB", (64, 48)).save(animation, save_all=True, append_images=[Image.new("RGB", (64, 48), "red")])
    for images in (tmp_path, str(tmp_path / "*.png"), animation):
        with pytest.raises(VideoError, match="consists of images, which have no streams to choose from"):
            open_video(images, stream=0)
    with pytest.raises(VideoError, match="decord cannot choose a stream of .*two.mkv; use --decoder av"):
        open_video(path, "decord", stream=0)


def test_the_largest_stream_is_chosen_without_a_default_flag(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.mp4", *X264, frames=2)
    large = encode(tmp_path / "large.mp4", *X264, frames=2, height=96, width=128)
    both = tmp_path / "both.ts"
    ffmpeg("-i", small, "-i", large, "-map", "0:v", "-map", "1:v", "-c", "copy", both)
    assert next(iter(open_video(both))).image.shape == (96, 128, 3)


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4", "libx264"])
def test_times_around_dropped_frames(tmp_path: Path, codec: str) -> None:
    """In presentation order, a slot is empty where a frame was dropped."""
    options = X264 if codec == "libx264" else ("-c:v", codec, "-q:v", 3, *(("-bf", 2) if codec == "mpeg4" else ()))
    sample = dropped_frames("dropped.avi", *options, encoder=codec)
    path = tmp_path / sample.name
    sample.make(path)
    with open_video(path) as reader:
        frames = list(reader)
        assert reader.info.warnings == []
    kept = [*range(10), *range(15, 23), *range(24, FRAMES)]
    assert [read_code(frame.image) for frame in frames] == kept
    assert [frame.pts_seconds for frame in frames] == pytest.approx([index / 10 for index in kept])


def test_rate_of_raw_dv(tmp_path: Path) -> None:
    if not has_encoder("dvvideo"):
        pytest.skip("this ffmpeg has no encoder dvvideo")
    path = encode(
        tmp_path / "raw.dv", "-c:v", "dvvideo", "-pix_fmt", "yuv420p", frames=3, height=576, width=720, rate=25
    )
    with open_video(path) as reader:
        assert reader.info.frames_per_second == 25


@pytest.mark.parametrize(("matrix", "name"), [(8, "8 .YCgCo."), (14, "14 .ICtCp."), (10, "10 .BT.2020 with constant")])
def test_unknown_color_matrix_is_named(tmp_path: Path, matrix: int, name: str) -> None:
    path = encode(tmp_path / "tagged.mp4", *X264, "-bsf:v", f"h264_metadata=matrix_coefficients={matrix}", frames=3)
    with pytest.raises(
        VideoError, match=f"can be converted to RGB: FFmpeg cannot convert colors with the matrix {name}"
    ):
        list(open_video(path))


def test_list_whose_second_file_has_another_stream(tmp_path: Path) -> None:
    encode(tmp_path / "a.mkv", *X264, frames=20)
    sound = ("-f", "lavfi", "-i", "sine=duration=2")
    encode(tmp_path / "b.mkv", *X264, "-c:a", "aac", frames=20, first=20, before=sound)
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.mkv\nfile b.mkv\n")
    with open_video(tmp_path / "list.ffconcat") as reader:
        assert [read_code(frame.image) for frame in reader] == list(range(FRAMES))
        assert len(reader) == FRAMES
        assert read_code(reader.clip([33])[0].image) == 33


def test_hidden_frames_of_vp9() -> None:
    """Bits: marker 10, two of the profile, show_existing_frame, frame_type, show_frame, error_resilient_mode."""
    hidden = HiddenPackets("vp9", None).is_hidden
    shown, altref, existing = b"\x82abc", b"\x84defg", b"\x88"
    assert [hidden(packet) for packet in (shown, altref, existing, b"")] == [False, True, False, True]
    assert hidden(altref + altref + bytes([0xC1, 5, 5, 0xC1]))
    assert not hidden(altref + shown + bytes([0xC1, 5, 4, 0xC1]))
    assert not hidden(shown + altref + bytes([0xC9, 4, 0, 5, 0, 0xC9]))
    assert hidden(altref + bytes([0xC1]))  # the last byte only looks like that of a superframe
    assert [hidden(packet) for packet in (b"\xb1", b"\xb2", b"\xb4")] == [False, True, False]  # profile 3


def test_no_fields_without_parameter_sets() -> None:
    for extradata in (b"", b"\1", bytes(100), b"\1" + bytes(20), b"\0\0\1\x67", b"\0\0\1\x67" + b"\xff" * 9):
        assert not SecondFields(extradata).is_second(b"\0\0\1\x61\x9a")
