"""Every file of the corpus, compared frame by frame with the ffmpeg command.

Pixels must be equal: the reader converts colors with FFmpeg's own filter, and the decoders of these codecs are exact.
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pytest
from video.corpus import FRAMES, SAMPLES, Sample, fed, ffmpeg, has_encoder, read_code, skip_without

from ccnet3d.video import VideoError, VideoFrame, open_video
from ccnet3d.video.integrity import starts_with_media_data
from ccnet3d.video.pipe import PipeHead
from ccnet3d.video.playback import Playback, seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


def made(folder: Path, sample: Sample) -> Path:
    """Return the sample's file, made when it is first needed."""
    if not has_encoder(sample.encoder):
        pytest.skip(f"this ffmpeg has no encoder {sample.encoder}")
    path = folder / sample.name
    if not path.exists():
        sample.make(path)
    return path


@dataclass
class Truth:
    images: list[np.ndarray]
    seconds: list[float]


def decode_with_ffmpeg(path: Path) -> Truth:
    """Return ffmpeg's frames at their own sizes, and their times."""
    _, log = ffmpeg("-threads", 1, "-i", path, "-an", "-vf", "showinfo",
                    "-fps_mode", "passthrough", "-f", "null", "-", level="info", check=False)  # fmt: skip
    # The decoder's thread may write before these words on their line, but not between them: they are one message.
    shown = re.findall(r"\bn: *\d+ pts: *\S+ pts_time:(\S+) .*? s:(\d+)x(\d+) ", log)
    sizes = [(int(height), int(width)) for _, width, height in shown]
    images: list[np.ndarray] = []
    for size in dict.fromkeys(sizes):
        # All frames at one size; those that have this size are not scaled.
        raw, _ = ffmpeg("-threads", 1, "-i", path, "-an", "-fps_mode", "passthrough", "-f", "rawvideo",
                        "-pix_fmt", "rgb24",
                        *(("-s", f"{size[1]}x{size[0]}") if len(set(sizes)) > 1 else ()), "-", check=False)  # fmt: skip
        frames = np.frombuffer(raw, np.uint8).reshape(-1, *size, 3)
        assert len(frames) == len(sizes)
        images = images or list(frames)
        images = [frame if frame.shape[:2] == own else image
                  for image, frame, own in zip(images, frames, sizes, strict=True)]  # fmt: skip
    return Truth(images, [float(seconds) for seconds, _, _ in shown])


def same(one: VideoFrame, other: VideoFrame) -> bool:
    return (
        one.index == other.index
        and one.pts_seconds == other.pts_seconds
        and one.damaged == other.damaged
        and np.array_equal(one.image, other.image)
    )


def check_random_access(path: Path, decoder: str, frames: list[VideoFrame]) -> None:
    by_index = {frame.index: frame for frame in frames}
    chosen = random.Random(0).choices(list(by_index), k=25)
    with open_video(path, decoder) as reader:
        assert all(same(frame, by_index[index]) for frame, index in zip(reader.clip(chosen), chosen, strict=True))
        assert all(same(reader.clip([index])[0], by_index[index]) for index in chosen[:8])
        with pytest.raises(
            IndexError, match=f"has no frame {len(reader)}; it has {len(reader)} frames?, numbered from"
        ):
            reader.clip([0, len(reader)])
        with pytest.raises(IndexError, match="has no frame -1"):
            reader.clip([-1])
        for lost in sorted(set(range(len(reader))) - set(by_index))[:2]:
            with pytest.raises(VideoError, match=f"frame {lost} of .* is lost"):
                reader.clip([lost])
        assert [frame.index for frame in reader] == list(by_index)  # iteration still works after random access
    for index in chosen[:4]:
        with open_video(path, decoder) as fresh:
            assert same(fresh.clip([index])[0], by_index[index])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_frames_equal_ffmpegs(folder: Path, sample: Sample) -> None:
    path = made(folder, sample)
    truth = decode_with_ffmpeg(path)
    with open_video(path) as reader:
        frames = list(reader)
        assert len(list(reader)) == len(frames)  # a second time
        length, warnings = len(reader), " ".join(reader.info.warnings)
    assert bool(sample.warning) == bool(warnings)
    assert re.search(sample.warning, warnings)
    if sample.name == "cut.mp4":
        assert length == 23
        assert len(frames) == 22
        assert "frame 22 could not be decoded" in warnings
    elif sample.name == "damaged_ffv1.mkv":  # ffmpeg returns other frames instead of the damaged ones
        kept = [frame.index for frame in frames]
        assert kept == [*range(15), *range(24, FRAMES)]
        truth = Truth([truth.images[index] for index in kept], [truth.seconds[index] for index in kept])
    elif not sample.name.startswith("damaged"):
        assert length == len(frames) == sample.frames
    assert len(frames) == len(truth.images)
    for frame, image in zip(frames, truth.images, strict=True):
        assert np.array_equal(frame.image, image)
        assert frame.image.flags.c_contiguous
    assert all(frame.pts_seconds is not None for frame in frames)
    # ffmpeg shifts the first packet to 0 if a container starts later.
    shift = (frames[0].pts_seconds or 0) - truth.seconds[0]
    assert [frame.pts_seconds for frame in frames] == pytest.approx([s + shift for s in truth.seconds], abs=1.1e-3)
    if sample.drawn and "size" not in sample.name:
        first = FRAMES - sample.frames if sample.name == "edit_list.mp4" else 0
        if "avi" not in sample.name:  # in AVI a lost frame leaves no gap
            assert [read_code(frame.image) - first for frame in frames] == [frame.index for frame in frames]
    check_random_access(path, "av", frames)


NOT_BY_TORCHCODEC = re.compile(
    r"mirrored_|slanted|damaged|cut\.mp4|.*\.ts$|mpeg2\.mpg|vp9_hidden|fields|dropped|(h264_b|mpeg4|xvid_packed)\.avi"
)
"""Mirrored and damaged files, those whose frames are not packets or have no times, and where its seek loses frames."""
SEEKS_OFTEN_FAIL = ("h264_open_gop.mkv", "hevc.mp4", "variable_rate.mp4", "edit_list.mp4")


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_other_decoders_agree_or_refuse(folder: Path, sample: Sample, decoder: str) -> None:
    skip_without(decoder)
    path = made(folder, sample)
    with open_video(path) as reader:
        truth = list(reader)
    try:
        with open_video(path, decoder) as reader:
            frames = list(reader)
            warnings = " ".join(reader.info.warnings)
    except VideoError as error:
        refusal = str(error)
    else:
        refusal = ""
    if decoder == "torchcodec":
        assert bool(refusal) == bool(NOT_BY_TORCHCODEC.match(sample.name))
    if refusal:
        assert "--decoder av" in refusal
        return
    assert len(frames) == len(truth)
    for frame, expected in zip(frames, truth, strict=True):
        assert frame.index == expected.index
        assert frame.pts_seconds == pytest.approx(expected.pts_seconds, abs=1e-6)
        if "colors differ" in warnings:  # FFmpeg of other years, as decord's of 2018, places chroma differently
            assert np.abs(frame.image.astype(int) - expected.image).mean() < 3
        else:
            assert np.array_equal(frame.image, expected.image)
    if decoder == "decord" or sample.name in SEEKS_OFTEN_FAIL:
        check_random_access(path, decoder, frames)


def test_times_are_the_packets_times(folder: Path) -> None:
    """Times are those in the file, not counted from the first frame."""
    for sample in SAMPLES:
        if sample.name in ("late_picture.mp4", "mpeg2.ts", "hevc.mkv"):
            path = made(folder, sample)
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                first = min(packet.pts for packet in container.demux(stream) if packet.pts is not None)
                seconds = float(first * stream.time_base)
            assert next(iter(open_video(path))).pts_seconds == pytest.approx(seconds)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_frames_do_not_depend_on_threads_or_pipes(
    folder: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(folder, sample)

    def read(threads: int, source: Path | BinaryIO) -> list[tuple[int, float | None]]:
        monkeypatch.setattr("ccnet3d.video.packet_decoder._THREADS", threads)
        playback = Playback(source, sample.name)
        try:
            return [(index, seconds(frame, playback.stream)) for index, frame in playback]
        finally:
            playback.close()

    expected = read(1, path)
    for threads in (2, 8, 16):
        assert read(threads, path) == expected
    with path.open("rb") as file:
        if starts_with_media_data(file.read(4096)):  # such an mp4 cannot be read from a pipe
            return
        file.seek(0)
        assert read(0, PipeHead(file, sample.name)) == expected  # type: ignore[arg-type]
    if hasattr(os, "mkfifo"):
        fifo = folder / f"{sample.name}.fifo"
        os.mkfifo(fifo)
        with fed(fifo, path.read_bytes()), open_video(fifo) as piped, open_video(path) as reader:
            assert all(same(one, other) for one, other in zip(piped, reader, strict=True))
