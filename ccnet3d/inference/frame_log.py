"""The frames of a run so far, in memory that does not grow with the run."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from types import TracebackType

from ccnet3d.errors import OutputError

__all__ = ["FrameLog"]

_RECORD = struct.Struct("=qd")
_MOST_BYTES = 1 << 14
"""In memory; a longer log moves to a temporary file."""
_RECORDS_AT_ONCE = 1024


class FrameLog:
    """Indices and times of frames, which a live source may deliver for weeks: the first thousand are in memory.

    The end of ``with log`` frees the temporary file of a longer one.

    >>> with FrameLog() as log:
    ...     log.add(7, 0.28)
    ...     log.add(8, None)
    ...     len(log), log.indices(), log.times()
    (2, [7, 8], [0.28, None])
    """

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(_MOST_BYTES)  # noqa: SIM115 - it is closed by __exit__
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> FrameLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, index: int, pts_seconds: float | None) -> None:
        """Add a frame: its index, and its presentation time if it has one.

        Raises:
            OutputError: the temporary file cannot be written.
        """
        try:
            self._file.write(_RECORD.pack(index, math.nan if pts_seconds is None else pts_seconds))
        except OSError as error:
            raise _failure(error) from error
        self._count += 1

    def indices(self) -> list[int]:
        """Return the indices of all frames, in the order in which they were added."""
        return [index for index, _ in self._records()]

    def times(self) -> list[float | None]:
        """Return the presentation times of all frames in seconds, None where there is none."""
        return [None if math.isnan(seconds) else seconds for _, seconds in self._records()]

    def _records(self) -> Iterator[tuple[int, float]]:
        try:
            self._file.seek(0)
            while data := self._file.read(_RECORDS_AT_ONCE * _RECORD.size):
                yield from _RECORD.iter_unpack(data)
        except OSError as error:
            raise _failure(error) from error


def _failure(error: OSError) -> OutputError:
    return OutputError(error.errno, error.strerror, "the temporary file of the frames' times")
