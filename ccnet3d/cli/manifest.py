"""The table that ``--manifest`` writes: how each video ended."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnet3d.cli.options import error_line
from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically

if TYPE_CHECKING:
    from ccnet3d.inference import Job

__all__ = ["Manifest", "Outcome"]

COLUMNS = ("video", "status", "frames", "seconds", "output", "error")
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How the work on a video ended."""

    video: str
    status: str
    """``done``, ``failed``, or ``skipped`` if it was complete before."""
    frames: int | None
    """Masks in the output; None if it failed."""
    seconds: float
    """From the first try to the end, without the loading of the model."""
    output: str
    error: str = ""
    cause: UserError | None = None

    @classmethod
    def done(cls, job: Job, seconds: float, frames: int, *, skipped: bool) -> Outcome:
        return cls(job.name, "skipped" if skipped else "done", frames, round(seconds, 3), job.output)

    @classmethod
    def failed(cls, job: Job, seconds: float, error: UserError | str) -> Outcome:
        cause = error if isinstance(error, UserError) else None
        text = error_line(error) if isinstance(error, UserError) else error
        return cls(job.name, "failed", None, round(seconds, 3), job.output, text, cause)

    @property
    def row(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in COLUMNS)


class Manifest:
    """A CSV or Parquet file with one row per video.

    Args:
        path: the file, or its URL.

    Raises:
        UserError: another extension, or pyarrow is not installed.

    >>> print(Manifest("table.csv").encode([Outcome("a.mp4", "done", 30, 1.5, "masks/a")]).decode())
    video,status,frames,seconds,output,error
    a.mp4,done,30,1.5,masks/a,
    <BLANKLINE>
    """

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._suffix = Path(path).suffix.lower()
        if self._suffix not in (".csv", ".parquet"):
            raise UserError(f"--manifest must be a .csv or .parquet file, got {path}")
        if self._suffix == ".parquet":
            from ccnet3d.masks import import_pyarrow

            import_pyarrow()

    def check(self) -> None:
        """Check that the file is missing or an earlier manifest.

        Raises:
            UserError: it is something else, which is not replaced.
        """
        data = self._read()
        if data is not None and not self._is_manifest(data):
            raise UserError(f"{self._path} exists, and is not a manifest of ccnet3d-infer; give another name")

    def _read(self) -> bytes | None:
        from ccnet3d.inference import is_remote, read_remote

        if is_remote(str(self._path)):
            return read_remote(str(self._path), _MOST_BYTES)
        try:
            return Path(self._path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}") from error

    def _is_manifest(self, data: bytes) -> bool:
        if self._suffix == ".csv":
            return data.splitlines()[:1] == [",".join(COLUMNS).encode()]
        from ccnet3d.masks import import_pyarrow

        arrow = import_pyarrow()
        try:
            return tuple(arrow.parquet.read_schema(io.BytesIO(data)).names) == COLUMNS
        except (arrow.ArrowException, OSError):
            return False

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Write all rows, in the place of an earlier manifest.

        Raises:
            UserError: the file cannot be written.
        """
        from ccnet3d.inference import is_remote, write_remote

        data = self.encode(outcomes)
        if is_remote(str(self._path)):
            write_remote(str(self._path), data)
        else:
            write_atomically(Path(self._path), data)

    def encode(self, outcomes: Sequence[Outcome]) -> bytes:
        """Return the file's contents."""
        rows = [outcome.row for outcome in outcomes]
        if self._suffix == ".csv":
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
            return text.getvalue().encode("utf-8", "surrogateescape")
        from ccnet3d.masks import import_pyarrow

        arrow = import_pyarrow()
        kinds = {"frames": arrow.int64(), "seconds": arrow.float64()}
        columns = {
            name: arrow.array([row[i] for row in rows], kinds.get(name, arrow.string()))
            for i, name in enumerate(COLUMNS)
        }
        buffer = io.BytesIO()
        arrow.parquet.write_table(arrow.table(columns), buffer)
        return buffer.getvalue()
