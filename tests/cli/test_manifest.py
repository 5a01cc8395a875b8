"""The table of all videos, read back by the csv module and by pyarrow."""

from __future__ import annotations

import csv
from pathlib import Path

import fsspec
import pytest
from conftest import MakeVideo

from ccnet3d.cli.infer import main
from ccnet3d.cli.manifest import COLUMNS


def read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [*csv.DictReader(file)]
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_video_has_a_row(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, suffix: str, capsys
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    table = tmp_path / f"table{suffix}"
    good, broken = str(make_video('a "b", c.mp4', frames=3)), str(tmp_path / "broken.mp4")
    Path(broken).write_bytes(b"no video" * 100)
    command = [good, broken, "-o", str(tmp_path / "out"), "--checkpoint", str(tiny_checkpoint), "-q"]
    for status, option in (("done", []), ("skipped", ["--resume"])):
        assert main([*command, "--manifest", str(table), *option]) == 2
        assert "1 of 2 videos failed" in capsys.readouterr().err
        first, second = read(table)
        assert tuple(first) == COLUMNS
        assert [first[name] for name in ("video", "status", "output")] == [good, status, str(tmp_path / 'out/a "b", c')]
        assert int(first["frames"]) == 3  # type: ignore[call-overload]
        assert float(first["seconds"]) > 0  # type: ignore[arg-type]
        assert not first["error"]
        assert (second["video"], second["status"]) == (broken, "failed")
        assert second["frames"] in ("", None)
        assert "broken.mp4 cannot be read as a video" in str(second["error"])


def test_a_single_video(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    table = tmp_path / "new" / "table.csv"
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    out = ["-o", str(tmp_path / "out"), "--checkpoint", str(tiny_checkpoint), "--manifest", str(table)]
    assert main([str(tmp_path / "broken.mp4"), *out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert [row["status"] for row in read(table)] == ["failed"]
    assert str(read(table)[0]["error"]) in error
    files = fsspec.filesystem("memory")
    files.store.clear()
    for _ in range(2):
        remote = [*out[:-1], "memory://bucket/table.csv", "--overwrite", "--piece-frames", "3"]
        assert main([str(make_video(frames=7)), *remote]) == 0
    assert files.cat_file("/bucket/table.csv").decode().splitlines()[1].split(",")[1:3] == ["done", "7"]
    assert files.find("") == ["/bucket/table.csv"]


def test_what_is_refused_before_anything_is_done(tmp_path: Path, capsys) -> None:
    for name, content in (("mine.csv", b"name,age\n"), ("mine.parquet", b"PAR1"), ("empty.csv", b"")):
        if name.endswith(".parquet"):
            pytest.importorskip("pyarrow")
        (tmp_path / name).write_bytes(content)
        assert main(["a.mp4", "-o", str(tmp_path / "out"), "--manifest", str(tmp_path / name)]) == 2
        assert f"{name} exists, and is not a manifest of ccnet3d-infer" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == content
    assert main(["a.mp4", "-o", str(tmp_path / "out"), "--manifest", "table.xlsx"]) == 2
    assert "--manifest must be a .csv or .parquet file, got table.xlsx" in capsys.readouterr().err
    assert main(["a.mp4", "-o", str(tmp_path / "out"), "--actors", "2"]) == 2
    assert "--actors is an option of --engine ray" in capsys.readouterr().err
