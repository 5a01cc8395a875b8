"""The reader based on PyAV: sequential decoding, and random access that returns the same frames."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from ccnet3d.video.container import (
    RgbConverter,
    claimed_frames,
    display_matrix,
    frame_rate,
    import_av,
    open_container,
    other_streams,
    read_packets,
    upright_filters,
)
from ccnet3d.video.forks import keep_over_forks
from ccnet3d.video.integrity import Ffv1Check
from ccnet3d.video.packet_index import PacketIndex
from ccnet3d.video.pipe import PipeHead
from ccnet3d.video.playback import Playback, index_packets, seconds
from ccnet3d.video.types import NoLengthError, VideoError, VideoFrame, VideoInfo, VideoReader, check_indices

__all__ = ["AvReader"]

_EARLIER_KEYFRAMES = 3
"""Keyframes to try for a frame before decoding from the start; only broken files need more than one or two."""


class AvReader(VideoReader):
    """A video file, or a binary stream that can be read once.

    Args:
        source: the file or stream.
        stream: the index of a video stream in the file; None for the one that ffmpeg chooses.

    Raises:
        VideoError: the source is not a video, cannot be opened, or has no such stream.
    """

    def __init__(self, source: Path | BinaryIO, stream: int | None = None) -> None:
        self._path = source if isinstance(source, Path) else None
        name = str(source) if isinstance(source, Path) else _stream_name(source)
        self._source = source if isinstance(source, Path) else PipeHead(source, name)
        container, opened = open_container(self._source, name, stream)  # type: ignore[arg-type]
        self._stream_index = opened.index
        self._several = other_streams(container, opened) if stream is None else []
        self.info = VideoInfo(
            self._path.name if self._path else name,
            self._path,
            frame_rate(opened),
            claimed_frames(container, opened),
            "av",
            stream,
        )
        self._name = name
        self._pipe: tuple[Any, Any] | None = None
        if self._path:
            container.close()
        else:
            self._pipe = (container, opened)
        self._packets: PacketIndex | None = None
        self._length: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._seeker: _Seeker | None = None
        self._playback: Playback | None = None
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._current: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self._path is None:
            raise VideoError(f"{self._name} can be read in this process only; give a file to share it with workers")
        state = self.__dict__.copy()
        for name in ("_seeker", "_playback", "_frames", "_current"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __iter__(self) -> Iterator[VideoFrame]:
        self._check_open()
        self.info.warnings[:] = self._several
        if self._path is None:
            if self._pipe is None:
                raise VideoError(f"{self._name} has already been read; a pipe can be read once")
            playback = Playback(self._source, self._name, opened=self._pipe)  # type: ignore[arg-type]
            self._pipe = None
        else:
            playback = Playback(self._path, self._name, self._stream_index)
        return self._play(playback)

    def _play(self, playback: Playback) -> Iterator[VideoFrame]:
        owner = os.getpid()
        try:
            for index, frame in playback:
                self._note_pixel_aspect(playback, frame)
                converted = playback.to_video_frame(index, frame)
                if converted is not None:
                    yield converted
                self._check_open()
                if os.getpid() != owner:
                    raise VideoError(f"{self._name} was being read when the process forked; start a new iteration")
            self.info.warnings += playback.report()
        finally:
            playback.close()

    def _note_pixel_aspect(self, playback: Playback, frame: Any) -> None:
        """Store the shape of a pixel of the upright frame."""
        aspect = playback.stream.sample_aspect_ratio or Fraction(1)
        if aspect != 1 and "transpose" in dict(upright_filters(display_matrix(frame))):
            aspect = 1 / aspect
        self.info.pixel_aspect = aspect

    def __len__(self) -> int:
        packets = self._packet_index("length")
        if packets.ranked:
            return len(packets.pts)
        if self._length is None:
            playback = Playback(self._file(), self._name, self._stream_index)
            try:
                for _ in playback:
                    pass
                playback.report()
                self._length = playback.indexer.shown
            finally:
                playback.close()
        return self._length

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        packets = self._packet_index("random access")
        if self._owner != os.getpid():
            self._reset()  # opened before a fork, and its threads do not exist here
        if packets.ranked or any(index < 0 for index in indices):
            check_indices(indices, len(self), self._name)
        frames = {index: self._seek(packets, index) or self._scan(index) for index in sorted(set(indices))}
        return [frames[index] for index in indices]

    def _seek(self, packets: PacketIndex, index: int) -> VideoFrame | None:
        """Return the frame by its time, None if decoding the frames before it had any problem."""
        if not packets.ranked:
            return None
        if self._seeker is None:
            self._seeker = _Seeker(self._file(), self._name, self._stream_index, packets)
        return self._seeker.get(index)

    def _scan(self, index: int) -> VideoFrame:
        """Return the frame by decoding from the start, or from the frame of the last scan."""
        if self._playback is None or self._current is None or self._current[0] > index:
            if self._playback is not None:
                self._playback.close()
            self._playback = Playback(self._file(), self._name, self._stream_index)
            self._frames = iter(self._playback)
            self._current = next(self._frames, None)
        while self._current is not None and self._current[0] < index:
            self._current = next(self._frames, None)
        if self._current is None and not self._playback.indexer.ranked:
            self._playback.report()
            self._length = self._playback.indexer.shown
            check_indices([index], self._length, self._name)
        found = None
        if self._current is not None and self._current[0] == index:
            found = self._playback.to_video_frame(*self._current)
        if found is None:
            raise VideoError(f"frame {index} of {self._name} is lost: the file is damaged there; choose other frames")
        return found

    def _file(self) -> Path:
        assert self._path is not None
        return self._path

    def _packet_index(self, purpose: str) -> PacketIndex:
        self._check_open()
        if self._path is None:
            raise NoLengthError(f"{self._name} is a pipe, which has no {purpose}; iterate over it, or give a file")
        if self._packets is None:
            self._packets = index_packets(self._path, self._name, self._stream_index)
        return self._packets

    def stop(self) -> None:
        if isinstance(self._source, PipeHead):
            self._source.stop()

    def close(self) -> None:
        self._closed = True
        for opened in (self._seeker, self._playback):
            if opened is not None:
                opened.close()
        if self._pipe is not None:
            if self._owner == os.getpid():
                self._pipe[0].close()
            self._pipe = None
        self._reset()


class _Seeker:
    """Find frames by their exact times.

    A frame is returned only if every frame from a keyframe up to it was decoded in order, undamaged and without an
    error: then it equals the frame from decoding from the start.
    """

    def __init__(self, path: Path, name: str, index: int, packets: PacketIndex) -> None:
        self._opened_by = os.getpid()
        keep_over_forks(self)
        self._path, self._name, self._index = path, name, index
        self._open()
        self._packets = packets
        self._ffmpeg_error: type[Exception] = import_av().error.FFmpegError
        self._rgb = RgbConverter()
        self._frames: Iterator[Any] = iter(())
        self._last: Any = None  # the last decoded frame, None if decoding must start at a keyframe
        self._last_index = -1

    def get(self, index: int) -> VideoFrame | None:
        """Return the frame at ``index``, None if it cannot be determined reliably."""
        pts = self._packets.pts[index]
        for skip in range(_EARLIER_KEYFRAMES):
            keyframe = self._packets.keyframe_before(pts, skip)
            if keyframe is None:
                break
            # Continue from the last frame unless a later keyframe is nearer.
            ahead = self._last is not None and keyframe <= self._last.pts <= pts
            try:
                if not ahead:
                    self._start(keyframe)
                if self._advance(pts):
                    return VideoFrame(index, seconds(self._last, self._stream), self._rgb(self._last))
            except (self._ffmpeg_error, ValueError):
                pass
            self._last = None
            self.close()
            self._open()  # because the state of FFmpeg's decoders after an error survives a seek
        return None

    def _open(self) -> None:
        self._container, self._stream = open_container(self._path, self._name, self._index)

    def _start(self, keyframe: int) -> None:
        self._last, self._last_index = None, -1
        self._container.seek(keyframe, stream=self._stream)
        self._frames = _decode_from(self._container, self._stream, keyframe)

    def _advance(self, pts: int) -> bool:
        """Decode up to the frame at ``pts``; return whether all frames up to it are sound."""
        while self._last is None or self._last.pts < pts:
            frame = next(self._frames, None)
            if frame is None or frame.is_corrupt:
                return False
            if self._last is not None and frame.pts != self._packets.pts[self._last_index + 1]:
                return False
            if self._last is None:
                self._last_index = self._rank(frame.pts)
                if self._last_index < 0 or frame.pts > pts:
                    return False
            else:
                self._last_index += 1
            self._last = frame
        return bool(self._last.pts == pts)

    def _rank(self, pts: int) -> int:
        """Return the index of the frame with this time, -1 if no packet has it."""
        index = bisect_left(self._packets.pts, pts)
        found = index < len(self._packets.pts) and self._packets.pts[index] == pts
        return index if found else -1

    def close(self) -> None:
        if self._opened_by == os.getpid():
            self._container.close()


def _decode_from(container: Any, stream: Any, keyframe: int) -> Iterator[Any]:
    """Yield the frames from a keyframe on, after a seek to it; earlier ones refer to frames that were not decoded.

    Raises:
        FFmpegError: a packet cannot be decoded.
    """
    checksums = Ffv1Check(stream.codec_context.codec.canonical_name)
    for packet in read_packets(container, stream):
        if packet.size == 0:
            continue
        if checksums.is_bad(memoryview(packet), packet.is_keyframe):
            return
        try:
            frames = stream.codec_context.decode(packet)
        except import_av().error.FFmpegError:
            if packet.pts is None or packet.pts >= keyframe:
                raise
            continue
        yield from (frame for frame in frames if frame.pts is not None and frame.pts >= keyframe)
    yield from stream.codec_context.decode(None)


def _stream_name(source: BinaryIO) -> str:
    name = getattr(source, "name", None)
    return "stdin" if name == "<stdin>" else name if isinstance(name, str) else "the stream"
