"""Decode packets with several threads, and return what one thread returns.

With several threads FFmpeg's decoders hide errors, lose the frames after them, and conceal damage differently, so that
the frames of a damaged file would depend on the number of CPU cores.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ccnet3d.video.container import import_av
from ccnet3d.video.types import ffmpeg_reason

__all__ = ["PacketDecoder"]

_THREADS = 0  # as many as FFmpeg chooses for this machine
_KEPT_BYTES = 1 << 28
_FIRST_PAUSE, _LONGEST_PAUSE = 100, 5000
_IN_FLIGHT = 64  # more packets than any decoder holds back


class PacketDecoder:
    """The decoder of a stream.

    It decodes with several threads for which every sign of damage is an error, and keeps the packets since the last
    keyframe that it returned. After an error it decodes these packets again with one thread, without the frames that
    it has returned, and continues with one thread. Some time later, several threads decode the packets from a keyframe
    on too, and take over once they have decoded it.

    Args:
        stream: a stream whose codec context has not been used yet.
    """

    def __init__(self, stream: Any) -> None:
        self.failed = 0
        """Packets that could not be decoded."""
        self.reason = ""
        """FFmpeg's last error."""
        self._stream = stream
        self._ffmpeg_error: type[Exception] = import_av().error.FFmpegError
        self._threaded = _THREADS != 1
        self._context = self._new_context(several=self._threaded)
        self._sent = 0
        self._kept: list[Any] = []
        self._kept_bytes = 0
        self._returned: set[tuple[int, int | None]] = set()  # packet number and time of frames
        self._waiting: set[int] = set()  # numbers of packets whose frame has not been returned
        self._candidate: Any = None  # several threads that may take over
        self._takeover = 0  # number of their first packet
        self._pause = _FIRST_PAUSE
        self._next_candidate = 0  # earliest number of its first packet

    def decode(self, packet: Any, *, shows_frame: bool = True) -> Iterator[Any]:
        """Yield the frames that are decoded next.

        Args:
            packet: the next packet, None for the end.
            shows_frame: whether the packet should yield a frame.
        """
        if packet is not None:
            packet.opaque = _Number(self._sent, starts=packet.is_keyframe and shows_frame)
            if not self._threaded:
                self._start_candidate(packet)
            if self._threaded or self._candidate is not None:
                self._keep(packet, shows_frame)
            self._sent += 1
        yield from self._decode_threaded(packet) if self._threaded else self._decode_alone(packet)

    def _decode_threaded(self, packet: Any) -> Iterator[Any]:
        frames, sound = self._attempt(self._context, packet)
        yield from filter(self._is_new, frames)
        if packet is None and self._waiting and max(self._waiting) >= self._sent - _IN_FLIGHT:
            sound = False  # at the end FFmpeg may hide an error, and lose the frames after it
        if sound:
            return
        if not self._kept and self._sent:
            self.failed, self.reason = self.failed + 1, "the decoder found damage"
            return
        self._threaded, self._context = False, self._new_context(several=False)
        self._postpone_candidate()
        for kept in [*self._kept, None] if packet is None else self._kept:
            yield from self._decode_alone(kept)
        self._forget_before(self._sent)

    def _attempt(self, context: Any, packet: Any) -> tuple[list[Any], bool]:
        """Return the frames before the first sign of damage, and whether there was none."""
        if packet is not None and packet.is_corrupt:
            return [], False
        try:
            frames = context.decode(packet)
        except self._ffmpeg_error:
            return [], False
        damaged = [frame.is_corrupt for frame in frames]
        return (frames[: damaged.index(True)], False) if any(damaged) else (frames, True)

    def _decode_alone(self, packet: Any) -> Iterator[Any]:
        try:
            frames = self._context.decode(packet)
        except self._ffmpeg_error as error:
            self.failed, self.reason = self.failed + 1, ffmpeg_reason(error)
            frames = []  # the next packet may be sound
        yield from filter(self._is_new, frames)
        if self._candidate is not None:
            yield from self._advance_candidate(packet)

    def _start_candidate(self, packet: Any) -> None:
        if self._candidate is None and _THREADS != 1 and packet.opaque.starts and self._sent >= self._next_candidate:
            self._forget_before(self._sent)
            self._candidate, self._takeover = self._new_context(several=True), self._sent

    def _advance_candidate(self, packet: Any) -> Iterator[Any]:
        frames, sound = self._attempt(self._candidate, packet)
        numbers = [_number(frame) for frame in frames]
        if self._takeover in numbers and self._takeover not in self._waiting and packet is not None:
            self._threaded, self._context, self._candidate = True, self._candidate, None
            yield from filter(self._is_new, frames[numbers.index(self._takeover) :])
        elif not sound or packet is None or self._sent > self._takeover + 2 * _IN_FLIGHT:
            self._postpone_candidate()
            self._forget_before(self._sent)

    def _postpone_candidate(self) -> None:
        self._candidate = None
        self._next_candidate = self._sent + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _keep(self, packet: Any, shows_frame: bool) -> None:
        if self._kept_bytes > _KEPT_BYTES:  # no keyframe for long: frames may be lost after an error
            self._forget_before(self._sent)
        if self._kept or packet.opaque.starts or self._sent == 0:
            self._kept.append(packet)
            self._kept_bytes += packet.size
        if shows_frame:
            self._waiting.add(self._sent)

    def _is_new(self, frame: Any) -> bool:
        """Return whether a frame has not been returned yet, and note that it is."""
        number = _number(frame)
        if (number, frame.pts) in self._returned:
            return False
        self._returned.add((number, frame.pts))
        self._waiting.discard(number)
        if frame.key_frame and self._candidate is None:  # a candidate is behind, and returns the same frames again
            # The packet of an interlaced frame may be that of its second field.
            starts = [kept.opaque.value for kept in self._kept if kept.opaque.starts and kept.opaque.value <= number]
            self._forget_before(max(starts, default=0 if self._kept else number))
        return True

    def _forget_before(self, number: int) -> None:
        """Forget packets, and frames of packets, before the packet ``number``."""
        self._kept = [packet for packet in self._kept if packet.opaque.value >= number]
        self._kept_bytes = sum(packet.size for packet in self._kept)
        self._waiting = {waiting for waiting in self._waiting if waiting >= number}
        self._returned = {(of, time) for of, time in self._returned if of >= number}

    def _new_context(self, *, several: bool) -> Any:
        """Return a decoder with the stream's parameters, and with several threads or one."""
        # PyAV copies the parameters of a stream only to a stream of an output, here one without a file.
        owner = import_av().open(io.BytesIO(), "w", format="null")
        context = owner.add_stream_from_template(self._stream, opaque=True).codec_context
        with suppress(UnicodeDecodeError):  # a tag outside ASCII, which PyAV cannot copy
            context.codec_tag = self._stream.codec_context.codec_tag
        owner.close()  # ends its reference cycle: a forked child must not free a decoder whose threads it lacks
        context.copy_opaque = True
        if several:
            context.thread_type, context.thread_count = "AUTO", _THREADS
            context.options = {"err_detect": "explode"}
        else:
            context.thread_count = 1
        return context


class _Number:
    """The number of a packet. PyAV identifies these objects by their addresses, so every packet has its own."""

    def __init__(self, value: int, *, starts: bool) -> None:
        self.value = value
        self.starts = starts  # whether decoding may start here


def _number(frame: Any) -> int:
    return frame.opaque.value if isinstance(frame.opaque, _Number) else -1
