"""CVAT's XML, read back by datumaro, the library with which CVAT itself converts annotations."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from masks.interop import run_with
from masks.samples import CLASSES, NAMES, invent, sequence_of
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.masks import MaskClasses, MaskSequence
from ccnet3d.masks.cvat_format import CVAT
from ccnet3d.masks.cvat_xml_format import CVAT_XML

pytest.importorskip("cv2", reason="OpenCV is an optional extra")

READ_XML = """
import json, sys
import datumaro, numpy
dataset = datumaro.Dataset.import_from(sys.argv[1], "cvat")
names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
dataset.transform("polygons_to_masks")
found = {}
for item in dataset:
    mask = numpy.full(item.media.size, 255)
    for annotation in item.annotations:
        mask[numpy.asarray(annotation.image) > 0] = annotation.label
    found[item.id] = [item.attributes["frame"], mask.tolist()]
print(json.dumps([names, found]))
"""

READ_ZIP = """
import json, sys
import datumaro, numpy
dataset = datumaro.Dataset.import_from(sys.argv[1], "voc_segmentation")
names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
found = {}
for item in dataset:
    mask = None
    for annotation in item.annotations:
        image = numpy.asarray(annotation.image) > 0
        mask = numpy.full(image.shape, 255) if mask is None else mask
        mask[image] = annotation.label
    found[item.id] = mask.tolist()
print(json.dumps([names, found]))
"""


def blobs(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Smooth regions of all classes and of none, with holes."""
    rows, columns = np.mgrid[:height, :width] / 15 + seed
    field = np.sin(rows) + np.cos(1.3 * columns) + np.sin(rows * 0.4 + columns * 0.7)
    return np.digitize(field, [-1, 0, 1]).astype(np.uint8).choose(np.array([0, 1, 2, 255], np.uint8))


def write(path: Path, masks: list[tuple[int, np.ndarray]], sequence: MaskSequence | None = None) -> None:
    assert CVAT_XML.write
    CVAT_XML.write(path, iter(masks), sequence or sequence_of(masks))


def test_form(tmp_path: Path) -> None:
    """The elements that CVAT documents for "CVAT for images 1.1"."""
    classes = MaskClasses(('a "<b>" & c', "box", "rail"), CLASSES.palette, (0, 2))
    mask = np.array([[0, 0, 2], [0, 0, 255]], np.uint8)
    write(tmp_path / "cvat.xml", [(12, mask)], MaskSequence(classes, [12], (2, 3), 25))
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    assert (root.tag, root.findtext("version"), root.findtext("meta/task/size")) == ("annotations", "1.1", "1")
    labels = [(label.findtext("name"), label.findtext("color")) for label in root.iter("label")]
    assert labels == [('a "<b>" & c', "#5a8c3c"), ("rail", "#2828dc")]
    (image,) = root.iter("image")
    assert image.attrib == {"id": "12", "name": "frame_000012", "width": "3", "height": "2"}
    assert [(one.get("label"), one.get("points")) for one in image.iter("polygon")] == [
        ('a "<b>" & c', "0,0;0,2;2,2;2,0"),
        ("rail", "2,0;2,1;3,1;3,0"),
    ]
    write(tmp_path / "again.xml", [(12, mask)], MaskSequence(classes, [12], (2, 3), 25))
    assert (tmp_path / "again.xml").read_bytes() == (tmp_path / "cvat.xml").read_bytes()


def test_datumaro_reads_the_same_masks(tmp_path: Path) -> None:
    masks = [(0, blobs(0)), (7, blobs(3)), (8, np.full((40, 30), 255, np.uint8)), (9, invent(1, 1, ids=(2,)))]
    names = ["left/a.png", "b.png", "c d.png", "e.png"]
    write(tmp_path / "cvat.xml", masks, MaskSequence(CLASSES, [0, 7, 8, 9], (120, 160), None, names))
    for name, (_, mask) in zip(names, masks, strict=True):  # datumaro wants the images, too
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (mask.shape[1], mask.shape[0])).save(path)
    labels, found = run_with("datumaro", READ_XML, tmp_path)
    assert labels == list(NAMES)
    assert list(found) == ["left/a", "b", "c d", "e"]
    for (frame, read), (index, mask) in zip(found.values(), masks, strict=True):
        assert frame == index
        for class_id in range(3):
            one, other = np.array(read) == class_id, mask == class_id
            assert (one & other).sum() >= 0.99 * (one | other).sum()


def test_datumaro_reads_the_zip_without_background(tmp_path: Path) -> None:
    """Pixels of no class have no annotation if only some classes were asked for."""
    import zipfile

    mask = blobs(1)
    mask[mask == 1] = 255
    assert CVAT.write
    classes = MaskClasses(CLASSES.names, CLASSES.palette, (0, 2))
    CVAT.write(tmp_path / "cvat.zip", [(3, mask)], sequence_of([(3, mask)], classes))
    with zipfile.ZipFile(tmp_path / "cvat.zip") as archive:
        archive.extractall(tmp_path / "voc")
    labels, found = run_with("datumaro", READ_ZIP, tmp_path / "voc")
    assert labels == ["background", "ground", "rail"]
    expected = np.array([1, 0, 2] + [255] * 253)[mask]
    np.testing.assert_array_equal(np.array(found["frame_000003"]), expected)


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="polygons need OpenCV; run: pip install 'ccnet3d\\[evaluate\\]'"):
        CVAT_XML.check(CLASSES)
