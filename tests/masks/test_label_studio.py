"""Label Studio's tasks: decoded bit by bit, and by Label Studio's own library."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from masks.interop import run_with
from masks.samples import CLASSES, NAMES, PALETTE, indexed, invent, sequence_of

from ccnet3d.masks import MaskClasses, MaskSequence, label_studio_setup
from ccnet3d.masks.label_studio_format import LABEL_STUDIO

DECODE = """
import json, sys
from label_studio_sdk.converter.brush import decode_rle
found = []
for task in json.load(open(sys.argv[1])):
    for result in task["predictions"][0]["result"]:
        shape = result["original_height"], result["original_width"], 4
        found.append(decode_rle(result["value"]["rle"]).reshape(shape).tolist())
print(json.dumps(found))
"""

CHECK_SETUP = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface(open(sys.argv[1]).read())
task = json.load(open(sys.argv[2]))[0]
prediction = task["predictions"][0]
interface.validate()
answers = [interface.validate_prediction(prediction), interface.validate_task({"data": task["data"]})]
prediction["result"][0]["value"]["brushlabels"] = ["a label that the setup lacks"]
print(json.dumps([*answers, interface.validate_prediction(prediction)]))
"""


def decode(data: list[int]) -> np.ndarray:
    """Read the bits one after the other, as Label Studio's page does."""
    bits = "".join(f"{byte:08b}" for byte in data)
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    total, value_bits = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, count = take(1), take(sizes[take(2)]) + 1
        values += [take(value_bits)] * count if repeated else [take(value_bits) for _ in range(count)]
    assert len(values) == total
    assert len(bits) - position < 8
    return np.array(values)


def write(path: Path, masks: list[tuple[int, np.ndarray]], sequence: MaskSequence | None = None) -> list[dict]:
    assert LABEL_STUDIO.write
    LABEL_STUDIO.write(path, iter(masks), sequence or sequence_of(masks))
    return json.loads(path.read_text())


def mixed() -> list[tuple[int, np.ndarray]]:
    whole = np.ones((150, 200), np.uint8)  # a run of more than 65,536 values
    exact = np.zeros((128, 256), np.uint8)
    exact[64:] = 2  # two of exactly 65,536
    return [*indexed(3, 13, 17), (20, np.full((9, 4), 255, np.uint8)), (21, whole), (22, exact), (30, invent(1, 1))]


def test_every_pixel_comes_back(tmp_path: Path) -> None:
    masks = mixed()
    tasks = write(tmp_path / "tasks.json", masks)
    assert len(tasks) == len(masks)
    for task, (index, mask) in zip(tasks, masks, strict=True):
        assert task["data"] == {"image": f"/data/local-files/?d=frames/{index:06d}.png"}
        (prediction,) = task["predictions"]
        labels = [result["value"]["brushlabels"] for result in prediction["result"]]
        assert labels == [[NAMES[i]] for i in range(3) if (mask == i).any()]
        for result in prediction["result"]:
            assert (result["original_height"], result["original_width"]) == mask.shape
            assert (result["type"], result["value"]["format"]) == ("brushlabels", "rle")
            inside = mask == NAMES.index(result["value"]["brushlabels"][0])
            pixels = decode(result["value"]["rle"]).reshape(*mask.shape, 4)
            np.testing.assert_array_equal(pixels, np.repeat(255 * inside[..., None], 4, axis=2))
    first = (tmp_path / "tasks.json").read_bytes()
    write(tmp_path / "tasks.json", masks)
    assert (tmp_path / "tasks.json").read_bytes() == first


def test_label_studio_decodes_the_same_pixels(tmp_path: Path) -> None:
    masks = mixed()
    write(tmp_path / "tasks.json", masks)
    found = iter(run_with("label_studio_sdk", DECODE, tmp_path / "tasks.json"))
    for _, mask in masks:
        for i in range(3):
            if (mask == i).any():
                expected = np.repeat(255 * (mask == i)[..., None], 4, axis=2)
                np.testing.assert_array_equal(np.array(next(found)), expected)
    assert next(found, None) is None


def test_label_studio_accepts_predictions_for_the_setup(tmp_path: Path) -> None:
    write(tmp_path / "tasks.json", indexed(1, 9, 9))
    (tmp_path / "setup.xml").write_text(label_studio_setup(NAMES, PALETTE))
    assert run_with("label_studio_sdk", CHECK_SETUP, tmp_path / "setup.xml", tmp_path / "tasks.json") == [
        True,
        True,
        False,
    ]


def test_images_keep_their_folder_and_names(tmp_path: Path) -> None:
    masks = indexed(2, 3, 3)
    names = ["left/a b.png", "ä&.jpg"]
    for source, folder in (("drive", "drive"), ("drive/*.png", "frames")):
        sequence = MaskSequence(CLASSES, [1, 4], (3, 3), None, names, source)
        urls = [task["data"]["image"] for task in write(tmp_path / "tasks.json", masks, sequence)]
        assert urls == [f"/data/local-files/?d={folder}/{name}" for name in ("left/a%20b.png", "%C3%A4%26.jpg")]


def test_only_classes_that_were_asked_for(tmp_path: Path) -> None:
    classes = MaskClasses(NAMES, PALETTE, (1,))
    mask = np.array([[255, 1], [255, 255]], np.uint8)
    (task,) = write(tmp_path / "tasks.json", [(0, mask)], MaskSequence(classes, [0], (2, 2), None))
    assert [result["value"]["brushlabels"] for result in task["predictions"][0]["result"]] == [["box"]]


def test_setup_names_what_predictions_refer_to(tmp_path: Path) -> None:
    setup = ElementTree.fromstring(label_studio_setup(['a "<b>"', "box"], [(1, 2, 3), (255, 0, 16)]))
    labels = [(label.get("value"), label.get("background")) for label in setup.iter("Label")]
    assert labels == [('a "<b>"', "#010203"), ("box", "#ff0010")]
    (task,) = write(tmp_path / "tasks.json", indexed(1, 9, 9))
    for result in task["predictions"][0]["result"]:
        (brush,) = setup.iter("BrushLabels")
        (image,) = setup.iter("Image")
        assert (result["from_name"], result["to_name"]) == (brush.get("name"), image.get("name"))
        assert image.get("value") == "$" + next(iter(task["data"]))
