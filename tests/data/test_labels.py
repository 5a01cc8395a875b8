from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccnet3d.data import open_labels


def write(folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([[0, n % 3, 9, 255]], np.uint8)).save(path)


def test_sequences_and_numbers(tmp_path: Path) -> None:
    write(tmp_path, "a/f_2.png", "a/f_10.png", "b/x.png", "b/y.png", "c/1_left.png", "c/1_right.png", ".hidden.png")
    dataset = open_labels(tmp_path, ["one", "two", "three"], [9, 255])
    assert [(f.sequence, f.number, f.label.stem) for f in dataset.frames] == [
        ("a", 2, "f_2"), ("a", 10, "f_10"), ("b", 0, "x"), ("b", 1, "y"), ("c", 0, "1_left"), ("c", 1, "1_right"),
    ]  # fmt: skip
    assert [len(segment) for segment in dataset.segments] == [2, 2, 2]
    assert dataset.spec.class_names == ("one", "two", "three")
    assert dataset.spec.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0))  # PASCAL VOC
    assert dataset.read_label(1).tolist() == [[0, 1, 255, 255]]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder of labels"):
        open_labels(tmp_path / "nowhere", ["a", "b"])
    with pytest.raises(ValueError, match="there is no label in .*; expected PNGs of class ids"):
        open_labels(tmp_path, ["a", "b"])
    with pytest.raises(ValueError, match="needs at least two classes, got 1"):
        open_labels(tmp_path, ["a"])
    write(tmp_path, "1.png")
    with pytest.raises(ValueError, match=r"1\.png has the label 9, which is neither a class id \(0 to 1\) nor in void"):
        open_labels(tmp_path, ["a", "b"]).read_label(0)
