from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from masks.samples import NAMES, PALETTE, invent

from ccnet3d.cli.masks import main
from ccnet3d.masks import RunFolder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    run = RunFolder(tmp_path / "masks")
    for index in range(3):
        run.write_mask(index, invent(8, 9, index), PALETTE)
    classes = [{"id": i, "name": NAMES[i], "color": PALETTE[i]} for i in range(3)]
    run.complete({"frames": 3, "classes": classes, "pts_seconds": [0.0, 0.5, 1.0]})
    return run.folder


def test_files_for_other_tools(saved: Path, tmp_path: Path, capsys) -> None:
    path, shares = tmp_path / "a.npz", tmp_path / "a.csv"
    assert main([str(saved), "--format", "npz", "-o", str(path), "--shares", str(shares)]) == 0
    assert capsys.readouterr().out == f"3 masks as {path} (0.0 MB)\n3 masks as {shares} (0.0 MB)\n"
    with np.load(path) as file:
        np.testing.assert_array_equal(file["masks"], [invent(8, 9, index) for index in range(3)])
    assert shares.read_text().startswith("frame,seconds,ground,box,rail\n0,0.0,")
    assert main([str(saved), "--format", "npz", "-o", str(path)]) == 2
    assert f"{path} exists; give another name, or --overwrite" in capsys.readouterr().err
    assert main([str(saved), "--format", "npz", "-o", str(path), "--classes", "rail", "--overwrite", "-q"]) == 0
    assert capsys.readouterr().out == ""
    with np.load(path) as file:
        assert set(np.unique(file["masks"])) == {2, 255}


def test_labels_to_paste(saved: Path, capsys) -> None:
    assert main([str(saved), "--labels", "cvat", "--classes", "rail,box"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "box", "color": "#c82828", "attributes": []},
        {"name": "rail", "color": "#2828dc", "attributes": []},
    ]
    assert main([str(saved), "--labels", "label-studio"]) == 0
    assert '<Label value="ground" background="#5a8c3c"/>' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to write; give --format with --output, --shares, --overlay, --alpha or --labels"),
        (["--format", "npz"], "--format and --output belong together"),
        (["-o", "x.npz", "--labels", "cvat"], "--format and --output belong together"),
        (["--overlay", "x.mp4"], "--video belongs to --overlay and --alpha"),
        (["--video", "x.mp4", "--labels", "cvat"], "--video belongs to --overlay and --alpha"),
        (["--format", "coco-rle", "-o", "x.npz"], "the file must end in .json, got x.npz"),
        (["--shares", "x.txt"], "must be a .csv or .parquet file, got x.txt"),
        (["--labels", "cvat", "--classes", "tree"], "the masks have no class 'tree'; they have ground, box, rail"),
        (["--labels", "cvat", "--opacity", "0.7"], "--opacity is for the video of --overlay; add --overlay"),
        (["--labels", "cvat", "--classes", ","], "--classes must be names of classes"),
    ],
)
def test_bad_options(saved: Path, tmp_path: Path, monkeypatch, capsys, options: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(saved), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ccnet3d-masks: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks"]


def test_no_masks(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path), "--labels", "cvat"]) == 2
    assert "contains no summary.json; give the output folder of ccnet3d-infer" in capsys.readouterr().err
