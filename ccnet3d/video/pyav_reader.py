"""The reader on top of PyAV: sequential decoding, and random access that gives the same frames."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ccnet3d.video.container import PipeHead, RgbConverter, claimed_frames, import_av, open_container
from ccnet3d.video.ffv1 import Ffv1Check
from ccnet3d.video.forks import keep_over_forks
from ccnet3d.video.index import PacketIndex
from ccnet3d.video.playback import Playback, index_packets, seconds
from ccnet3d.video.types import NoLengthError, VideoError, VideoFrame, VideoInfo, VideoReader, check_indices

_EARLIER_KEYFRAMES = 3
"""Keyframes tried for a frame before decoding from the start; broken files only need more than one or two."""


class AvReader(VideoReader):
    """A video file, or a binary stream that can be read once.

    Raises:
        VideoError: no video, or one that cannot be opened.
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        self._path = source if isinstance(source, Path) else None
        name = str(source) if isinstance(source, Path) else _stream_name(source)
        self._source = source if isinstance(source, Path) else PipeHead(source, name)
        container, stream = open_container(self._source, name)  # type: ignore[arg-type]
        rate = stream.average_rate
        self.info = VideoInfo(
            self._path.name if self._path else name,
            self._path,
            float(rate) if rate else None,
            claimed_frames(container, stream),
            "av",
        )
        self._name = name
        self._pipe: tuple[Any, Any] | None = None
        if self._path:
            container.close()
        else:
            self._pipe = (container, stream)
        self._closed = False
        self._index: PacketIndex | None = None
        self._length: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._seeker: Seeker | None = None
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
        self._forget()

    def __iter__(self) -> Iterator[VideoFrame]:
        self._check_open()
        self.info.warnings.clear()
        if self._path is None:
            if self._pipe is None:
                raise VideoError(f"{self._name} was read already; a pipe can be read once")
            playback = Playback(self._source, self._name, self._pipe)  # type: ignore[arg-type]
            self._pipe = None
        else:
            playback = Playback(self._path, self._name)
        return self._play(playback)

    def _play(self, playback: Playback) -> Iterator[VideoFrame]:
        owner = os.getpid()
        try:
            for index, frame in playback:
                made = playback.to_video_frame(index, frame)
                if made is not None:
                    yield made
                self._check_open()
                if os.getpid() != owner:
                    raise VideoError(f"{self._name} was being read when the process forked; start a new iteration")
            self.info.warnings += playback.report()
        finally:
            playback.close()

    def __len__(self) -> int:
        index = self._packets("its length")
        if index.ranked:
            return len(index.pts)
        if self._length is None:
            playback = Playback(self._file(), self._name)
            try:
                for _ in playback:
                    pass
                playback.report()
                self._length = playback.numbering.shown
            finally:
                playback.close()
        return self._length

    def clip(self, indices: Sequence[int]) -> list[VideoFrame]:
        index = self._packets("frames by number")
        if self._owner != os.getpid():
            self._forget()  # opened before a fork: its threads did not come along
        if index.ranked or any(number < 0 for number in indices):
            check_indices(indices, len(self), self._name)
        got: dict[int, VideoFrame] = {}
        for number in sorted(set(indices)):
            got[number] = self._seek(index, number) or self._scan(number)
        return [got[number] for number in indices]

    def _seek(self, index: PacketIndex, number: int) -> VideoFrame | None:
        """The frame by its time, None where decoding on the way to it was not flawless."""
        if not index.ranked:
            return None
        if self._seeker is None:
            self._seeker = Seeker(self._file(), self._name, index)
        return self._seeker.get(number)

    def _scan(self, number: int) -> VideoFrame:
        """The frame by decoding from the start, or from where the last scan is."""
        if self._playback is None or self._current is None or self._current[0] > number:
            if self._playback is not None:
                self._playback.close()
            self._playback = Playback(self._file(), self._name)
            self._frames = iter(self._playback)
            self._current = next(self._frames, None)
        while self._current is not None and self._current[0] < number:
            self._current = next(self._frames, None)
        if self._current is None and not self._playback.numbering.ranked:
            self._playback.report()
            self._length = self._playback.numbering.shown
            check_indices([number], self._length, self._name)
        found = None
        if self._current is not None and self._current[0] == number:
            found = self._playback.to_video_frame(*self._current)
        if found is None:
            raise VideoError(f"frame {number} of {self._name} is lost: the file is damaged there; ask for other frames")
        return found

    def _file(self) -> Path:
        assert self._path is not None
        return self._path

    def _packets(self, wanted: str) -> PacketIndex:
        self._check_open()
        if self._path is None:
            raise NoLengthError(f"{self._name} is a pipe and has not {wanted}; iterate over it, or give a file")
        if self._index is None:
            self._index = index_packets(self._path, self._name)
        return self._index

    def _check_open(self) -> None:
        if self._closed:
            raise VideoError(f"{self._name} was closed; open it again")

    def close(self) -> None:
        self._closed = True
        for opened in (self._seeker, self._playback):
            if opened is not None:
                opened.close()
        if self._pipe is not None:
            if self._owner == os.getpid():
                self._pipe[0].close()
            self._pipe = None
        self._forget()


class Seeker:
    """Frames by their exact time.

    A frame counts only if every frame from a keyframe up to it came out in order, undamaged and without an error:
    then it is the one that decoding from the start gives.
    """

    def __init__(self, path: Path, name: str, index: PacketIndex) -> None:
        self._opened_by = os.getpid()
        keep_over_forks(self)
        self._path, self._name = path, name
        self._open()
        self._index = index
        self._ffmpeg_error: type[Exception] = import_av().error.FFmpegError
        self._rgb = RgbConverter()
        self._frames: Iterator[Any] = iter(())
        self._last: Any = None  # the frame that came last, None if the position is no use
        self._last_number = -1

    def get(self, number: int) -> VideoFrame | None:
        """Frame ``number``, None if it cannot be had without doubt."""
        pts = self._index.pts[number]
        for skip in range(_EARLIER_KEYFRAMES):
            keyframe = self._index.keyframe_before(pts, skip)
            if keyframe is None:
                break
            # Go on from the last frame unless a later keyframe shortens the way.
            ahead = self._last is not None and keyframe <= self._last.pts <= pts
            try:
                if not ahead:
                    self._start(keyframe)
                if self._advance(pts):
                    return VideoFrame(number, seconds(self._last, self._stream), self._rgb(self._last))
            except (self._ffmpeg_error, ValueError):
                pass
            self._last = None
            self.close()
            self._open()  # after errors FFmpeg's decoders remember them beyond a seek
        return None

    def _open(self) -> None:
        self._container, self._stream = open_container(self._path, self._name)

    def _start(self, keyframe: int) -> None:
        self._last, self._last_number = None, -1
        self._container.seek(keyframe, stream=self._stream)
        self._frames = _decode_from(self._container, self._stream, keyframe)

    def _advance(self, pts: int) -> bool:
        """Decode up to the frame at ``pts``; whether all on the way is sound."""
        while self._last is None or self._last.pts < pts:
            frame = next(self._frames, None)
            if frame is None or frame.is_corrupt:
                return False
            if self._last is not None and frame.pts != self._index.pts[self._last_number + 1]:
                return False
            if self._last is None:
                self._last_number = self._rank(frame.pts)
                if self._last_number < 0 or frame.pts > pts:
                    return False
            else:
                self._last_number += 1
            self._last = frame
        return bool(self._last.pts == pts)

    def _rank(self, pts: int) -> int:
        """The number of the first frame after a seek, -1 if it cannot be the keyframe's."""
        position = bisect_left(self._index.pts, pts)
        found = position < len(self._index.pts) and self._index.pts[position] == pts
        return position if found else -1

    def close(self) -> None:
        if self._opened_by == os.getpid():
            self._container.close()


def _decode_from(container: Any, stream: Any, keyframe: int) -> Iterator[Any]:
    """Frames from a keyframe on, after seeking to it; those before it in time refer to what was not decoded.

    Raises:
        FFmpegError: a packet cannot be decoded.
    """
    checksums = Ffv1Check(stream.codec_context.codec.canonical_name)
    for packet in container.demux(stream):
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
