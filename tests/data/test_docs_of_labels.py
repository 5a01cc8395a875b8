"""The descriptions in docs/labels.md, each on a miniature of the data that its section is about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from data.people_labels import coco, cvat, labelme, write_image, write_json

from ccnet3d.data import DataSource

PAGE = (REPOSITORY / "docs" / "labels.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))

SIZE = (4, 6)
SQUARE = [[0, 0], [2, 0], [2, 1], [0, 1]]
"""As Pillow draws it: three columns of two rows."""

PIXELS: dict[str, tuple[Any, list[list[int]]]] = {
    "Ids": ([[0, 1, 255]], [[0, 1, 255]]),
    "Other ids": ([[7, 8, 11, 0]], [[0, 1, 255, 255]]),
    "0 is void": ([[0, 1, 2, 255]], [[255, 0, 1, 255]]),
    "Instance ids": ([[7, 26000, 26031, 0]], [[0, 1, 1, 255]]),
    "Ids in RGB": ([[[0, 0, 0], [1, 0, 0], [1005 % 256, 3, 0]]], [[0, 1, 1]]),
    "Colors": ([[[0, 255, 0], [128, 128, 128], [255, 0, 0], [0, 0, 0]]], [[0, 0, 1, 255]]),
}
"""What label images contain, and the class ids."""


def write_shapes(root: Path, section: str) -> None:
    """Write a square of two rows and three columns at the upper left, for every frame."""
    names = [f"{sequence}/0001.jpg" for sequence in ("walk", "night")]
    for name in names:
        if section == "LabelMe":
            shape = {"label": "box", "points": SQUARE, "shape_type": "polygon"}
            write_json((root / "labels" / name).with_suffix(".json"), labelme([shape], SIZE))
    flat = [0, 0, 3, 0, 3, 2, 0, 2]
    write_json(root / "instances.json", coco(["truck"], {name: [("truck", [flat])] for name in names}, SIZE))
    shape = '<polygon label="box" points="0,0;3,0;3,2;0,2"/>'
    (root / "annotations.xml").write_text(cvat(dict.fromkeys(names, shape), ["box"], SIZE))


def test_every_section_is_run() -> None:
    assert [*SECTIONS] == [*PIXELS, "COCO", "CVAT", "LabelMe", "Cityscapes"]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_of_a_section(tmp_path: Path, section: str) -> None:
    if section in ("COCO", "CVAT"):
        pytest.importorskip("pycocotools")
    (toml,) = re.findall(r"```toml\n(.*?)```", SECTIONS[section], re.DOTALL)
    (tmp_path / "dataset.toml").write_text(toml)
    expected = [[1, 1, 1, 0, 0, 0]] * 2 + [[0] * 6] * 2
    if section in PIXELS:
        pixels, expected = PIXELS[section]
        kind = np.uint16 if section == "Instance ids" else np.uint8
        for sequence in ("walk", "night"):
            write_image(tmp_path / f"frames/{sequence}/0001.jpg", size=(1, len(expected[0])))
            write_image(tmp_path / f"labels/{sequence}/0001.png", np.array(pixels, kind))
    elif section == "Cityscapes":
        expected = [[1 if value else 255 for value in row] for row in expected]
        for split in ("train", "val"):
            name = f"{split}/ulm/ulm_000000_000019"
            write_image(tmp_path / f"leftImg8bit/{name}_leftImg8bit.png", size=SIZE)
            objects = [
                {"label": "tunnel", "polygon": [[0, 0], [6, 0], [6, 4], [0, 4]]},
                {"label": "car", "polygon": SQUARE},
            ]
            table = {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects}
            write_json(tmp_path / f"gtFine/{name}_gtFine_polygons.json", table)
    else:
        for sequence in ("walk", "night"):
            write_image(tmp_path / f"frames/{sequence}/0001.jpg", size=SIZE)
        write_shapes(tmp_path, section)
    for split in ("train", "val"):
        assert DataSource(tmp_path).open(split).read_label(0).tolist() == expected
