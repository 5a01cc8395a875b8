"""Damaged videos give the same frames with any number of decoding threads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from video.corpus import FRAMES, VPX, X264, X265, encode, ffmpeg, packet_ranges

from ccnet3d.video import VideoFrame, open_video
from ccnet3d.video.packet_decoder import PacketDecoder

THREADS = (2, 8, 16)
CODECS: dict[str, tuple[object, ...]] = {
    "h264.mp4": X264,
    "h264.ts": X264,
    "hevc.mp4": (*X265, "-pix_fmt", "yuv420p"),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-bf", 2, "-q:v", 3),
    "vp9.webm": ("-c:v", "libvpx-vp9", *VPX),
    "prores.mov": ("-c:v", "prores_ks", "-profile:v", 2),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sound")
    return {name: encode(folder / name, *options) for name, options in CODECS.items()}


def read(path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[VideoFrame], list[str]]:
    monkeypatch.setattr("ccnet3d.video.packet_decoder._THREADS", threads)
    with open_video(path) as reader:
        return list(reader), list(reader.info.warnings)


def facts(frames: list[VideoFrame]) -> list[tuple[int, float | None, bool]]:
    return [(frame.index, frame.pts_seconds, frame.damaged) for frame in frames]


def damage(source: Path, target: Path, number: int, share: float) -> Path:
    """Write a copy in which the last ``share`` of the packet ``number`` is zeros."""
    data = bytearray(source.read_bytes())
    position, size = packet_ranges(source)[number]
    start = position + max(5, int(size * (1 - share)))
    data[start : position + size] = bytes(position + size - start)
    target.write_bytes(data)
    return target


def count_with_ffmpeg(path: Path) -> int:
    raw, _ = ffmpeg("-threads", 1, "-i", path, "-fps_mode", "passthrough", "-f", "framemd5", "-", check=False)
    return sum(not line.startswith(b"#") for line in raw.splitlines())


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(("number", "share"), [(37, 1.0), (15, 1.0), (38, 0.5), (20, 0.5)])
def test_one_bad_packet(
    sound: dict[str, Path], tmp_path: Path, name: str, number: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the end, FFmpeg's threads would lose the error and all frames after it."""
    path = damage(sound[name], tmp_path / name, number, share)
    expected, warnings = read(path, 1, monkeypatch)
    assert FRAMES // 2 < len(expected) == count_with_ffmpeg(path)
    for threads in THREADS:
        frames, other_warnings = read(path, threads, monkeypatch)
        assert facts(frames) == facts(expected)
        assert other_warnings == warnings
        before = [frame.index for frame in expected if frame.index < number - 4]  # further ones may be reordered
        assert before
        for index in before:
            assert np.array_equal(frames[index].image, expected[index].image)
        with open_video(path) as reader:
            for frame in frames[:: len(frames) // 4]:
                (found,) = reader.clip([frame.index])
                assert facts([found]) == facts([frame])
                assert np.array_equal(found.image, frame.image)


@pytest.mark.parametrize("share", [0.35, 0.6, 0.85])
def test_cut_file(tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "cut.mp4", *X264, "-movflags", "+faststart")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    expected, warnings = read(path, 1, monkeypatch)
    assert len(expected) == count_with_ffmpeg(path)
    for threads in THREADS:
        frames, other_warnings = read(path, threads, monkeypatch)
        assert facts(frames) == facts(expected)
        assert other_warnings == warnings


@pytest.mark.parametrize(("kind", "threads"), [("mkv", 4), ("ts", 4), ("mkv", 16), ("ts", 16)])
def test_several_threads_take_over_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, threads: int
) -> None:
    """After the damage of frame 5, keyframes follow every 12 frames; later damage is found again.

    16 threads hold back more frames than there are between two keyframes.
    """
    path = encode(tmp_path / f"long.{kind}", *X264, frames=60)
    damage(path, path, 5, 0.5)
    damage(path, path, 57, 1.0)
    expected, warnings = read(path, 1, monkeypatch)
    monkeypatch.setattr("ccnet3d.video.packet_decoder._FIRST_PAUSE", 1)
    states = []
    decode = PacketDecoder.decode

    def observed(self: PacketDecoder, packet: object, *, shows_frame: bool = True) -> object:
        yield from decode(self, packet, shows_frame=shows_frame)
        states.append(self._threaded)

    monkeypatch.setattr(PacketDecoder, "decode", observed)
    frames, other_warnings = read(path, threads, monkeypatch)
    changes = [states[0]] + [state for before, state in pairwise(states) if state != before]
    assert changes[:3] == [True, False, True]
    assert kind == "ts" or not changes[-1]
    assert facts(frames) == facts(expected)
    assert other_warnings == warnings
    for frame, other in zip(frames, expected, strict=True):
        assert np.array_equal(frame.image, other.image)


def test_sound_files_are_decoded_with_several_threads_only(
    sound: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = []
    new_context = PacketDecoder._new_context

    def observed(self: PacketDecoder, *, several: bool) -> object:
        contexts.append(several)
        return new_context(self, several=several)

    monkeypatch.setattr(PacketDecoder, "_new_context", observed)
    for path in sound.values():
        assert len(read(path, 8, monkeypatch)[0]) == FRAMES
    assert len(contexts) >= len(sound)
    assert all(contexts)
