from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ccnet3d.data import ClipRequest
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.instances import CocoCategory, CocoImages, open_coco

mask_api = pytest.importorskip("pycocotools.mask")

SQUARE = [[2.0, 1.0, 8.0, 1.0, 8.0, 5.0, 2.0, 5.0]]


def table() -> dict[str, Any]:
    """Return three images of 12x8: two objects and a crowd, none, one object that leaves the image."""
    crowd = {"size": [8, 12], "counts": [0, 16, 80]}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 12} for i in (5, 2, 9)],
        "categories": [{"id": 44, "name": "bottle"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 0, "image_id": 5, "category_id": 44, "bbox": [2, 1, 6, 4], "segmentation": SQUARE, "area": 24},
            {"id": 0, "image_id": 5, "category_id": 3, "bbox": [0, 0, 2, 8], "segmentation": crowd, "iscrowd": 1},
            {"id": 7, "image_id": 9, "category_id": 3, "bbox": [8, 4, 9, 9], "segmentation": SQUARE, "iscrowd": 0},
            {"id": 8, "image_id": 9, "category_id": 3, "bbox": [8, 4, 2, 2], "segmentation": []},
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (2, 5, 9):
        pixels = np.full((8, 12, 3), number, np.uint8)
        pixels[:, 0] = 200
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def test_objects_crowds_and_empty_images(folder: Path) -> None:
    data = CocoImages(folder, table())
    assert data.categories == (CocoCategory(3, "car"), CocoCategory(44, "bottle"))
    assert [image.id for image in data.images] == [2, 5, 9]
    assert data.warnings == ["1 object without a region left out"]
    empty, first, outside = (data.read(index) for index in range(3))
    assert empty.target["boxes"].shape == (0, 4)
    assert empty.target["masks"].shape == (0, 8, 12)
    assert first.image[:, 3, 3].tolist() == [5, 5, 5]
    assert first.target["boxes"].tolist() == [[2, 1, 8, 5]]  # the crowd is no target
    assert first.target["labels"].tolist() == [2]
    expected = np.zeros((8, 12), np.uint8)
    expected[1:5, 2:8] = 1
    np.testing.assert_array_equal(first.target["masks"][0], expected)
    assert outside.target["boxes"].tolist() == [[8, 4, 12, 8]]
    assert [image.id for image in data.keep(empty=False).images] == [5, 9]


def test_mirrored_images(folder: Path) -> None:
    plain, mirrored = (CocoImages(folder, table(), flip=flip)[ClipRequest(1, 0, 1, 3)] for flip in (0.0, 1.0))
    assert torch.equal(mirrored.image, plain.image.flip(2))
    assert torch.equal(mirrored.target["masks"], plain.target["masks"].flip(2))
    assert mirrored.target["boxes"].tolist() == [[4, 1, 10, 5]]
    share = [
        bool(CocoImages(folder, table(), flip=0.5)[ClipRequest(1, 0, 1, s)].image[0, 0, 0] != 200) for s in range(64)
    ]
    assert 16 < sum(share) < 48


def test_the_ground_truth_of_pycocotools(folder: Path) -> None:
    truth = CocoImages(folder, table()).ground_truth()
    assert sorted(truth.anns) == [1, 2, 3]  # not 0, which COCOeval takes for none
    assert [truth.anns[i]["iscrowd"] for i in (1, 2, 3)] == [0, 1, 0]
    assert [truth.anns[i]["area"] for i in (1, 2, 3)] == [24, 16, 24]
    assert mask_api.area([truth.annToRLE(truth.anns[i]) for i in (1, 2)]).tolist() == [24, 16]


def change(path: str, value: object) -> dict[str, Any]:
    """Return the table with a value replaced; None removes it."""
    changed = copy.deepcopy(table())
    *parents, key = path.split(".")
    part: Any = changed
    for parent in parents:
        part = part[int(parent) if parent.isdigit() else parent]
    if value is None:
        del part[key]
    else:
        part[key] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("categories", None, "it lacks 'categories'"),
        ("annotations", 7, "'int' object is not iterable"),
        ("categories.0.id", 3, "two categories have the id 3"),
        ("categories.0.name", "car", "two categories have the name 'car'"),
        ("images.0.id", 9, "two images have the id 9"),
        ("images.0.id", "5", "the id of a image must be a whole number, got '5'"),
        ("images.0.height", 1 << 30, "the image '5.png' has 12x1073741824 pixels"),
        ("images.0.height", 0, "the image '5.png' has 12x0 pixels"),
        ("images.0.file_name", "../secret.png", "'../secret.png' leads out of the image folder"),
        ("images.0.file_name", "/etc/passwd", "'/etc/passwd' leads out of the image folder"),
        ("images.0.file_name", "a/../../b.png", "leads out of the image folder"),
        ("images.0.file_name", "C:\\b.png", "leads out of the image folder"),
        ("annotations.0.image_id", 6, "annotation 1 is of the image 6, which the file does not list"),
        ("annotations.0.category_id", 6, "annotation 1 has the category 6, which the file does not list"),
        (
            "annotations.0.bbox",
            [1, 2, 3],
            r"annotation 1 has the bbox \[1, 2, 3\], expected left",
        ),
        ("annotations.0.bbox", [1, 2, -3, 1], "expected left, top, width and height"),
        ("annotations.0.area", -1, "annotation 1 has the area -1"),
        ("annotations.0.iscrowd", 2, "annotation 1 has iscrowd 2, expected 0 or 1"),
    ],
)
def test_invalid_files(folder: Path, path: str, value: object, message: str) -> None:
    file = folder / "instances.json"
    file.write_text(json.dumps(change(path, value)))
    with pytest.raises(UserError, match=rf"instances.json is not a (valid )?file of COCO instances: .*{message}"):
        open_coco(folder, file)


def test_invalid_regions_images_and_missing_files(folder: Path) -> None:
    with pytest.raises(UserError, match=r"there is no image folder none; for COCO, get train2017.zip, .* with --data"):
        open_coco(Path("none"), folder / "instances.json")
    with pytest.raises(UserError, match=r"there is no annotation file .*instances.json; for COCO, get train2017.zip"):
        open_coco(folder, folder / "instances.json")
    rle = {"size": [8, 12], "counts": [0, 17, 80]}
    broken = CocoImages(folder, change("annotations.0.segmentation", rle))
    for read in (broken.check, broken.ground_truth, lambda: broken.read(1)):
        with pytest.raises(UserError, match=r"^annotation 1, of the image '5.png': the counts .* add up to 96"):
            read()
    data = CocoImages(folder, table())
    data.check()
    (folder / "5.png").unlink()
    with pytest.raises(FileProblemsError, match=r"5.png is missing"):
        data.check()
    Image.new("RGB", (8, 12)).save(folder / "5.png")
    with pytest.raises(UserError, match="5.png is 8x12, and 12x8 in the annotations; fix one of the two"):
        data.read(1)
