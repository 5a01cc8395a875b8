from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from ccnet3d.errors import UserError
from ccnet3d.masks import ShareWriter, shares


def pixels(**counts: int) -> np.ndarray:
    found = np.zeros(256, np.int64)
    for name, count in counts.items():
        found[int(name[2:])] = count
    return found


def write(path: Path, rows: int) -> list[tuple[int, float | None, float, float]]:
    expected = []
    with ShareWriter(path, [0, 4], ["road, wet", "Straße"]) as writer:
        for n in range(rows):
            seconds = None if n == 1 else n / 30
            writer.add(3 * n, seconds, pixels(id0=n + 1, id4=2, id255=5))
            expected.append((3 * n, seconds, (n + 1) / (n + 8), 2 / (n + 8)))
    return expected


def test_csv(tmp_path: Path) -> None:
    expected = write(tmp_path / "shares.csv", 5)
    with (tmp_path / "shares.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["frame", "seconds", "road, wet", "Straße"]
    assert [tuple(float(cell) if cell else None for cell in row) for row in rows] == expected


@pytest.mark.parametrize("rows", [0, 1, 8, 9])
def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an optional extra")
    monkeypatch.setattr(shares, "_ROWS_AT_ONCE", 4)
    expected = write(tmp_path / "shares.parquet", rows)
    table = parquet.read_table(tmp_path / "shares.parquet")
    assert table.column_names == ["frame", "seconds", "road, wet", "Straße"]
    assert [str(field.type) for field in table.schema] == ["int64", "double", "double", "double"]
    assert list(zip(*table.to_pydict().values(), strict=True)) == expected
    first = (tmp_path / "shares.parquet").read_bytes()
    write(tmp_path / "shares.parquet", rows)
    assert (tmp_path / "shares.parquet").read_bytes() == first


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_error_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(RuntimeError), ShareWriter(tmp_path / f"shares.{suffix}", [0], ["road"]) as writer:
        writer.add(0, 0.0, pixels(id0=1))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_bad_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="must be a .csv or .parquet file, got shares.xls"):
        ShareWriter(Path("shares.xls"), [0], ["road"])
    with pytest.raises(UserError, match="would have 2 columns named 'frame'"):
        ShareWriter(Path("shares.csv"), [0], ["frame"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="Parquet files need pyarrow; run: pip install 'ccnet3d\\[parquet\\]'"):
        ShareWriter(Path("shares.parquet"), [0], ["road"])
