"""The share of each class over time, as a table: CSV or Parquet."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from ccnet3d.errors import OutputError, UserError
from ccnet3d.files import atomic_path

__all__ = ["ShareWriter", "import_pyarrow"]

_FIRST_COLUMNS = ("frame", "seconds")
_ROWS_AT_ONCE = 4096


class ShareWriter:
    """Write one row per frame: its index, its time, and the share of its pixels in each class.

    The file appears when the block ends without an error. It is written row by row, so memory does not grow.

    Args:
        path: the file, ending in .csv or .parquet.
        class_ids: the classes with a column.
        class_names: of each of them.

    Raises:
        UserError: the file ends otherwise, pyarrow is missing, or two columns would have one name.
        OutputError: the file cannot be written.

    >>> with ShareWriter(Path("shares.csv"), [0, 1], ["road", "car"]) as writer:
    ...     writer.add(7, 0.28, np.bincount([0, 0, 0, 1], minlength=256))
    >>> print(Path("shares.csv").read_text())
    frame,seconds,road,car
    7,0.28,0.75,0.25
    <BLANKLINE>
    """

    def __init__(self, path: Path, class_ids: Sequence[int], class_names: Sequence[str]) -> None:
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(f"the table of class shares must be a .csv or .parquet file, got {path}")
        self._columns = (*_FIRST_COLUMNS, *class_names)
        for name, count in Counter(self._columns).items():
            if count > 1:
                raise UserError(f"the table of class shares would have {count} columns named {name!r}")
        self._path = path
        self._ids = list(class_ids)
        self._atomic = atomic_path(path)
        self._rows: list[tuple[Any, ...]] = []
        self._arrow = import_pyarrow() if path.suffix.lower() == ".parquet" else None
        self._file: IO[Any]
        self._table: Any = None

    def __enter__(self) -> ShareWriter:
        temporary = self._atomic.__enter__()
        with self._os_errors():
            if self._arrow:
                self._file = temporary.open("wb")
                self._table = self._arrow.parquet.ParquetWriter(self._file, self._schema())
            else:
                self._file = temporary.open("w", encoding="utf-8", newline="")
                self._table = csv.writer(self._file, lineterminator="\n")
                self._table.writerow(self._columns)
        return self

    def add(self, frame_index: int, pts_seconds: float | None, pixels: np.ndarray) -> None:
        """Add a frame.

        Args:
            frame_index: of the frame in its video.
            pts_seconds: its presentation time in seconds, None if there is none.
            pixels: the pixels of each id, int ``[256]``.
        """
        self._rows.append((frame_index, pts_seconds, *(pixels[self._ids] / pixels.sum()).tolist()))
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        with self._os_errors():
            if self._arrow:
                columns = zip(*self._rows, strict=True) if self._rows else [()] * len(self._columns)
                self._table.write_table(self._arrow.table([list(one) for one in columns], schema=self._schema()))
            else:
                self._table.writerows(self._rows)
        self._rows = []

    def _schema(self) -> Any:
        assert self._arrow
        types = [self._arrow.int64()] + [self._arrow.float64()] * (len(self._columns) - 1)
        return self._arrow.schema(list(zip(self._columns, types, strict=True)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._os_errors():
                try:
                    if error is None:
                        self._flush()
                    if self._arrow:
                        self._table.close()
                finally:
                    self._file.close()
        except OSError as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            if error is None:
                raise
        else:
            self._atomic.__exit__(kind, error, trace)

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(error.errno, error.strerror or str(error), str(self._path)) from error


def import_pyarrow() -> Any:
    """Return pyarrow, with its module ``parquet``.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow; run: pip install 'ccnet3d[parquet]', or write a .csv") from error
    return pa
