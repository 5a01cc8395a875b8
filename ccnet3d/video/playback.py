"""One pass over a video with PyAV from its first frame: frames with their indices, and warnings about damage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ccnet3d.video.avi_slots import AviSlots
from ccnet3d.video.container import (
    RgbConverter,
    claimed_frames,
    import_av,
    open_container,
    read_packets,
    unknown_matrix,
)
from ccnet3d.video.forks import keep_over_forks
from ccnet3d.video.integrity import Ffv1Check, broken_at, missing_bytes
from ccnet3d.video.packet_decoder import PacketDecoder
from ccnet3d.video.packet_index import ONE_TO_ONE_CODECS, FrameIndexer, HiddenPackets, PacketIndex, is_ranked
from ccnet3d.video.types import VideoError, VideoFrame, ffmpeg_reason, frame_ranges, lost_frames, size_changes
from ccnet3d.wording import count_of

__all__ = ["Playback", "index_packets", "seconds"]


def seconds(frame: Any, stream: Any) -> float | None:
    """Return a frame's presentation time by the stream's time base, which a decoder's last frames do not have."""
    return None if frame.pts is None else float(frame.pts * stream.time_base)


class Playback:
    """Decode a source from its start: iterate over it, then call :meth:`report`.

    Args:
        source: a file, or a stream that can be read once.
        name: the name for messages.
        index: the stream's index in the file.
        opened: the container and stream of ``source`` if already open.
    """

    def __init__(
        self, source: Path | BinaryIO, name: str, index: int | None = None, opened: tuple[Any, Any] | None = None
    ) -> None:
        self._source, self._name = source, name
        self._opened_by = os.getpid()
        keep_over_forks(self)
        self.container, self.stream = opened or open_container(source, name, index)
        self._canonical = self.stream.codec_context.codec.canonical_name
        self._slots: AviSlots | None = None
        if self.container.format.name == "avi" and self.stream.average_rate == 1 / self.stream.time_base:
            self._slots = AviSlots(reordered=self.stream.codec_context.has_b_frames)
        self._decoder = PacketDecoder(self.stream)
        self._hidden_packets = HiddenPackets(self._canonical, self.stream.codec_context.extradata)
        self._rgb = RgbConverter()
        self._ffmpeg_error: type[Exception] = import_av().error.FFmpegError
        self.indexer = FrameIndexer(is_ranked(self.container.format.name, self._canonical))
        self._discarded = self._hidden = self._corrupt_packets = self._empty = self._bad_checksums = 0
        self._read_error = self._matrix = ""
        self._damaged: list[int] = []
        self._unconverted: list[int] = []
        self._sizes: list[tuple[int, int, int]] = []  # first frame, width, height

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield frame indices and PyAV frames."""
        packets, checksums = read_packets(self.container, self.stream), Ffv1Check(self._canonical)
        while True:
            try:
                packet = next(packets, None)
            except (self._ffmpeg_error, OSError) as error:  # OSError if a pipe fails
                self._read_error, packet = ffmpeg_reason(error), None
            if packet is None:
                break
            if packet.size == 0:  # a repeated frame, or the end
                self._empty += packet.dts is not None
                continue
            if self._slots:
                self._empty += self._slots.skip_to(packet.dts)
            self._corrupt_packets += bool(packet.is_corrupt)
            shows_frame = False
            if packet.is_discard:  # an edit list excludes it
                self._discarded += 1
            elif self._hidden_packets.is_hidden(memoryview(packet)):
                self._hidden += 1
            else:
                self.indexer.send(packet.pts)
                shows_frame = True
            if checksums.is_bad(memoryview(packet), packet.is_keyframe):
                self._bad_checksums += 1
            else:
                yield from self._decode(packet, shows_frame)
        yield from self._decode(None)
        self.indexer.finish()

    def _decode(self, packet: Any, shows_frame: bool = False) -> Iterator[tuple[int, Any]]:
        for frame in self._decoder.decode(packet, shows_frame=shows_frame):
            index = self.indexer.show(frame.pts)
            if self._slots:
                frame.pts = self._slots.place(frame)
            if index is not None:
                yield index, frame

    def to_video_frame(self, index: int, frame: Any) -> VideoFrame | None:
        """Return the frame in RGB, None if FFmpeg cannot convert it, as with some damage."""
        try:
            image = self._rgb(frame)
        except (self._ffmpeg_error, ValueError):
            self._unconverted.append(index)
            self._matrix = unknown_matrix(frame)
            return None
        damaged = bool(frame.is_corrupt)
        if damaged:
            self._damaged.append(index)
        if not self._sizes or self._sizes[-1][1:] != (image.shape[1], image.shape[0]):
            self._sizes.append((index, image.shape[1], image.shape[0]))
        return VideoFrame(index, seconds(frame, self.stream), image, damaged)

    def report(self) -> list[str]:
        """Return warnings, after all frames were decoded.

        Raises:
            VideoError: there was no frame.
        """
        indexer, name = self.indexer, self._name
        failed = self._decoder.failed + self._bad_checksums
        why = "a checksum of FFV1 is wrong" if self._bad_checksums else self._decoder.reason
        count = indexer.shown - len(self._unconverted)
        matrix = (
            f"FFmpeg cannot convert colors with the matrix {self._matrix}; if the file has a wrong tag, replace it: "
            "ffmpeg -i IN -c copy -bsf:v h264_metadata=matrix_coefficients=1 OUT (hevc_metadata for HEVC)"
        )
        if count == 0:
            if self._matrix:
                raise VideoError(f"no frame of {name} can be converted to RGB: {matrix}")
            if failed or self._read_error or indexer.sent:
                reason = why or self._read_error or "the decoder returns none"
                raise VideoError(f"no frame of {name} can be decoded ({reason}); the file is damaged")
            raise VideoError(f"{name} contains no decodable frame; give a video with frames")
        found = []
        if self._read_error:
            found.append(
                f"reading stopped before the end of the file, after {count_of(count, 'frame')}: {self._read_error}"
            )
        if failed:
            found.append(f"{count_of(failed, 'packet')} could not be decoded, so that frames are lost: {why}")
        if self._matrix:
            found.append(matrix)
        if lost := sorted(indexer.lost + self._unconverted):
            found.append(lost_frames(lost, "decoded"))
        if indexer.misplaced:
            found.append(f"{count_of(indexer.misplaced, 'frame')} out of order, dropped")
        missing = indexer.sent - indexer.shown
        if not indexer.ranked and missing > 0 and self._canonical in ONE_TO_ONE_CODECS:
            found.append(
                f"{missing} of {count_of(indexer.sent, 'packet')} yielded no frame; "
                "frame indices count decoded frames only"
            )
        if self._damaged:
            found.append(
                f"{count_of(len(self._damaged), 'damaged frame')} of {count}, concealed by the decoder: "
                f"{frame_ranges(self._damaged)}; later frames up to the next keyframe may be affected"
            )
        if self._corrupt_packets:
            found.append(f"{count_of(self._corrupt_packets, 'damaged or incomplete packet')} in the file")
        found += self._check_length(count, len(lost))
        if len(self._sizes) > 1:
            found.append(size_changes(self._sizes))
        return found

    def _check_length(self, count: int, lost: int) -> list[str]:
        """Return warnings about missing frames, because a truncated file can end early without an error."""
        found = []
        expected = (claimed_frames(self.container, self.stream) or 0) - self._hidden
        if "mp4" not in self.container.format.name.split(","):
            expected -= self._discarded + self._empty
        if count + lost + self.indexer.misplaced < expected:
            found.append(
                f"only {count} of the {expected} frames that the file claims could be decoded; it may be truncated"
            )
        if isinstance(self._source, Path) and (missing := missing_bytes(self._source)):
            found.append(f"the file is {count_of(missing, 'byte')} shorter than its header says; it may be truncated")
        if isinstance(self._source, Path) and (offset := broken_at(self._source)) is not None:
            found.append(f"the file is damaged at byte {offset}; frames may be missing there")
        return found

    def close(self) -> None:
        if self._opened_by == os.getpid():
            self.container.close()


def index_packets(path: Path, name: str, index: int | None = None) -> PacketIndex:
    """Index the packets of a file's stream without decoding it.

    Raises:
        VideoError: the file cannot be opened.
    """
    container, stream = open_container(path, name, index)
    # Read before closing, because PyAV's stream is a view of the container.
    codec, kind, tick = stream.codec_context.codec.canonical_name, container.format.name, float(stream.time_base)
    pts: list[int | None] = []
    keyframes: list[int] = []
    corrupt, read_error, checksums = 0, "", Ffv1Check(codec)
    hidden = HiddenPackets(codec, stream.codec_context.extradata)
    try:
        for packet in read_packets(container, stream):
            if packet.size == 0 or hidden.is_hidden(memoryview(packet)):
                continue
            corrupt += bool(packet.is_corrupt) or checksums.is_bad(memoryview(packet), packet.is_keyframe)
            if packet.is_keyframe and packet.pts is not None:
                keyframes.append(packet.pts)
            if not packet.is_discard:
                pts.append(packet.pts)
    except import_av().error.FFmpegError as error:
        read_error = ffmpeg_reason(error)
    finally:
        container.close()
    times = sorted(time for time in pts if time is not None)
    ranked = is_ranked(kind, codec) and len(set(times)) == len(pts) > 0
    return PacketIndex(tuple(times), tuple(sorted(keyframes)), ranked, tick, len(pts), corrupt, read_error)
