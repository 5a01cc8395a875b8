"""A first dataset.toml for the folders that people have: each must open, with the labels that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CAMVID_SPEC
from data.people_labels import coco, cvat, labelme, write_image, write_json
from PIL import Image

from ccnet3d.data import DatasetSpec, DataSource, describe_folder, draw_splits, read_dataset_spec, spec_text
from ccnet3d.errors import UserError

SIZE = (20, 30)


def described(root: Path, **options: Any) -> DatasetSpec:
    """Write the description of a folder and read it back."""
    draft = describe_folder(root, **options)
    (root / "dataset.toml").write_text(spec_text(draft.spec, draft.notes, draft.class_shares))
    return read_dataset_spec(root / "dataset.toml")


def frames_of(root: Path) -> dict[str, list[tuple[str, int]]]:
    return {
        split: [(frame.sequence, frame.number) for frame in DataSource(root).open(split).frames]
        for split in ("train", "val")
    }


def ids(*values: int) -> np.ndarray:
    """Return a label with stripes of the values."""
    return np.resize(np.repeat(np.array(values), 7), SIZE)


ARRANGED = [
    ("frames/{s}/{n}.jpg", "labels/{s}/{n}.png", ("frames", "labels", "", "")),
    ("{s}/images/{n}.jpg", "{s}/labels/{n}.png", ("{sequence}/images", "{sequence}/labels", "", "")),
    ("data/{s}/origin/{n}.jpg", "data/{s}/mask/{n}.png", ("data/{sequence}/origin", "data/{sequence}/mask", "", "")),
    ("images/{s}_{n}.jpg", "labels/{s}_{n}_L.png", ("images", "labels", "", "_L")),
    ("frames/{s}/{s}_{n}.jpg", "masks/{s}_{n}.png", ("frames", "masks/{name}", "", "")),
    ("img/{s}/{n}.jpg", "seg/{s}/mask_{n}.png", ("img", "seg/{sequence}/mask_{name}", "", "")),
    ("{s}/{n}.png", "{s}/{n}_mask.png", (".", ".", "", "_mask")),
    ("left/{s}/{n}_left.png", "gt/{s}/{n}_gt_labelIds.png", ("left", "gt", "_left", "_gt_labelIds")),
    ("{s}/{n}.jpg", "{s}annot/{n}.png", ("{sequence}", "{sequence}annot", "", "")),
]


@pytest.mark.parametrize(("image", "label", "layout"), ARRANGED, ids=[one[0] for one in ARRANGED])
def test_arrangements(tmp_path: Path, image: str, label: str, layout: tuple[str, ...]) -> None:
    for sequence in ("walk", "night", "rain"):
        for number in range(1, 5):
            write_image(tmp_path / image.format(s=sequence, n=f"{number:03}"), size=SIZE)
            write_image(tmp_path / label.format(s=sequence, n=f"{number:03}"), ids(0, 1, 255).astype(np.uint8))
    spec = described(tmp_path)
    (found,) = spec.layouts
    assert (found.images, found.labels, found.image_suffix, found.label_suffix) == layout
    assert spec.class_names == ("class_0", "class_1")
    frames = frames_of(tmp_path)
    assert len(frames["train"]) == 8
    assert len(frames["val"]) == 4
    assert {name.split("/")[0] for name, _ in (*frames["train"], *frames["val"])} == {"walk", "night", "rain"}
    expected = np.where(ids(0, 1, 255) == 255, 255, ids(0, 1, 255))
    np.testing.assert_array_equal(DataSource(tmp_path).open("val").read_label(0), expected)


def write_pair(root: Path, label: np.ndarray, number: int = 1) -> None:
    write_image(root / f"images/{number}.png", size=SIZE)
    write_image(root / f"labels/{number}.png", label)


GAPS = {"7": 0, "8": 1, "21": 2}


@pytest.mark.parametrize(
    ("label", "keys"),
    [
        (ids(0, 1, 2).astype(np.uint8), {"label_mapping": {}, "void_ids": ()}),
        (ids(0, 1, 255).astype(np.uint8), {"label_mapping": {}, "void_ids": (255,)}),
        (ids(0, 255).astype(np.uint8), {"label_mapping": {"0": 0, "255": 1}, "void_ids": ()}),
        (ids(1, 2, 3).astype(np.uint8), {"label_mapping": {"1": 0, "2": 1, "3": 2}}),
        (ids(7, 8, 21, 255).astype(np.uint8), {"label_mapping": GAPS, "void_ids": (255,)}),
        (ids(7, 8, 21001, 21002).astype(np.uint16), {"label_mapping": GAPS, "instance_divisor": 1000}),
        (np.stack([ids(0, 1, 2)] * 3, -1).astype(np.uint8), {"encoding": "red"}),
    ],
)
def test_ids(tmp_path: Path, label: np.ndarray, keys: dict[str, Any]) -> None:
    write_pair(tmp_path, label)
    write_pair(tmp_path, label, 2)
    spec = described(tmp_path)
    assert spec.layouts[0].label_encoding == keys.pop("encoding", "id")
    assert {key: getattr(spec, key) for key in keys} == keys
    found = np.unique(DataSource(tmp_path).open("val").read_label(0))
    assert found.tolist() == [*range(len(spec.classes)), *([255] if 255 in spec.void_ids else [])]


def test_colors_and_their_names(tmp_path: Path) -> None:
    red, green, black = (200, 0, 0), (0, 200, 0), (0, 0, 0)
    label = np.array([black, red, green], np.uint8)[ids(0, 1, 1, 2)]
    write_pair(tmp_path, label)
    write_pair(tmp_path, label, 2)
    spec = described(tmp_path)
    assert spec.layouts[0].label_encoding == "color"
    assert spec.class_names[0] == "class_1"
    assert spec.palette[0] == red  # the most frequent
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nvoid:0,0,0::\ncat:200,0,0::\ndog:0,200,0::\n"
    )
    spec = described(tmp_path)
    assert spec.class_names == ("cat", "dog")
    (tmp_path / "labelmap.txt").rename(tmp_path / "label_colors.txt")
    (tmp_path / "label_colors.txt").write_text("0 0 0\tVoid\n200 0 0\tcat\n0 200 0\t\tdog\n")
    assert described(tmp_path).class_names == ("cat", "dog")
    expected = np.array([255, 0, 1])[ids(0, 1, 1, 2)]
    np.testing.assert_array_equal(DataSource(tmp_path).open("val").read_label(0), expected)
    assert described(tmp_path, names=["one", "two"]).class_names == ("one", "two")
    np.testing.assert_array_equal(DataSource(tmp_path).open("val").read_label(0), expected)
    with pytest.raises(UserError, match="1 names of classes for 2 classes in the labels: cat, dog"):
        describe_folder(tmp_path, names=["one"])


def test_the_colors_of_camvid_have_its_names(tmp_path: Path) -> None:
    colors = read_dataset_spec(CAMVID_SPEC).source_colors
    label = np.array([*colors.values()], np.uint8)[ids(*range(32))[:, :]]
    write_pair(tmp_path, label)
    write_pair(tmp_path, label, 2)
    spec = described(tmp_path)
    assert set(spec.class_names) <= set(colors) - {"Void"}
    assert len(spec.classes) > 8


def test_a_palette_image_is_of_ids(tmp_path: Path) -> None:
    for number in (1, 2):
        write_image(tmp_path / f"images/{number}.jpg", size=SIZE)
        image = Image.fromarray(ids(0, 1, 2).astype(np.uint8))
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
        (tmp_path / "labels").mkdir(exist_ok=True)
        image.save(tmp_path / f"labels/{number}.png")
    assert described(tmp_path).layouts[0].label_encoding == "id"
    spec = described(tmp_path, encoding="color")
    assert {one.color for one in spec.classes} == {(9, 9, 9), (200, 0, 0), (0, 200, 0)}


SQUARE = [2, 2, 12, 2, 12, 9, 2, 9]


def test_coco(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    for split in ("train2017", "val2017"):
        names = [f"{number:012}.jpg" for number in (7, 9)]
        for name in names:
            write_image(tmp_path / "images" / split / name, size=SIZE)
        table = coco(["cat", "dog"], {name: [("dog", [SQUARE])] for name in names}, SIZE)
        write_json(tmp_path / f"annotations/instances_{split}.json", table)
        write_json(tmp_path / f"annotations/captions_{split}.json", {"images": [], "annotations": []})
    spec = described(tmp_path)
    (layout,) = spec.layouts
    assert (layout.images, layout.labels) == ("images", "annotations/instances_{sequence}.json")
    assert spec.splits == {"train": ("train2017",), "val": ("val2017",)}
    assert spec.class_names == ("background", "cat", "dog")
    label = DataSource(tmp_path).open("val").read_label(1)
    assert (int(label[0, 0]), int(label[5, 5]), int((label == 2).sum())) == (0, 2, 70)


def test_cvat_and_labelme(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    one, other = tmp_path / "cvat", tmp_path / "labelme"
    shape = '<box label="cat" xtl="2" ytl="2" xbr="12" ybr="9"/>'
    for number in range(1, 6):
        write_image(one / f"images/{number}.jpg", size=SIZE)
        write_image(other / f"{number}.jpg", size=SIZE)
        shapes = [{"label": "cat", "points": [[2, 2], [11, 8]], "shape_type": "rectangle"}]
        write_json(other / f"{number}.json", labelme(shapes, SIZE, f"{number}.jpg"))
    (one / "annotations.xml").write_text(cvat({f"{n}.jpg": shape for n in range(1, 6)}, ["cat", "dog"], SIZE))
    assert described(one).class_names == ("background", "cat", "dog")
    assert described(other).class_names == ("background", "cat")
    for root in (one, other):
        assert frames_of(root) == {"train": [(".", n) for n in range(1, 5)], "val": [(".", 5)]}
        label = DataSource(root).open("val").read_label(0).numpy()
        expected = np.zeros(SIZE, np.int64)
        expected[2:9, 2:12] = 1
        np.testing.assert_array_equal(label, expected)


def test_lists_of_pairs_and_of_frames(tmp_path: Path) -> None:
    for number in range(1, 5):
        write_pair(tmp_path, ids(0, 1).astype(np.uint8), number)
    (tmp_path / "train.txt").write_text("".join(f"images/{n}.png labels/{n}.png\n" for n in (1, 2, 4)))
    (tmp_path / "val.txt").write_text("/x/images/3.png /x/labels/3.png\n")
    assert described(tmp_path).layouts[0].pair_list == "{split}.txt"
    assert frames_of(tmp_path) == {"train": [("images", n) for n in (1, 2, 4)], "val": [("images", 3)]}
    (tmp_path / "lists").mkdir()
    for split, names in {"train": "2\n4\n", "val": "1\n3\n"}.items():
        (tmp_path / f"{split}.txt").unlink()
        (tmp_path / f"lists/{split}.txt").write_text(names)
    assert described(tmp_path).layouts[0].frame_list == "lists/{split}.txt"
    assert frames_of(tmp_path) == {"train": [(".", 2), (".", 4)], "val": [(".", 1), (".", 3)]}


def test_gaps_are_found(tmp_path: Path) -> None:
    for number in (*range(0, 600, 30), *range(4000, 4600, 30)):
        write_pair(tmp_path, ids(0, 1).astype(np.uint8), number)
    assert described(tmp_path).max_gap_frames == 60
    assert len(DataSource(tmp_path).open("train").segments) == 2


def test_stills_with_any_names(tmp_path: Path) -> None:
    for name in ("cat", "dog 7", "dog 7b", "x"):
        write_image(tmp_path / f"images/{name}.jpg", size=SIZE)
        write_image(tmp_path / f"labels/{name}.png", ids(0, 1).astype(np.uint8))
    assert described(tmp_path).frame_numbers == "order"
    assert frames_of(tmp_path) == {"train": [(".", 0), (".", 1), (".", 2)], "val": [(".", 3)]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no image in"),
        ({"images/1.jpg": None}, r"found no labels for the images in .* \(folders: images\)"),
        ({"images/1.jpg": None, "labels/1.png": ids(1)}, "have one class only, and a dataset needs two"),
        ({"images/1.jpg": None, "labels/2.png": ids(0, 1)}, "found no labels for the images"),
    ],
)
def test_what_cannot_be_described(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    for name, pixels in files.items():
        write_image(tmp_path / name, None if pixels is None else pixels.astype(np.uint8), SIZE)
    with pytest.raises(UserError, match=message):
        describe_folder(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        describe_folder(tmp_path / "nowhere")


def test_boxes_alone_are_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "1.jpg", size=SIZE)
    write_json(tmp_path / "boxes.json", coco(["cat"], {"1.jpg": [("cat", [])]}, SIZE))
    with pytest.raises(UserError, match="no shape of the annotations, as .*boxes.json, has an area"):
        describe_folder(tmp_path)


def test_splits_are_drawn_by_sequence() -> None:
    numbers = {f"s{place}": range(10 + place) for place in range(10)}
    drawn = [draw_splits(numbers, 0.3, seed) for seed in range(20)]
    assert draw_splits(numbers, 0.3, 7) == drawn[7]
    assert len({one["val"] for one in drawn}) > 10
    total = sum(map(len, numbers.values()))
    for one in drawn:
        assert sorted((*one["train"], *one["val"])) == sorted(numbers)
        assert abs(sum(len(numbers[name]) for name in one["val"]) / total - 0.3) < 0.1
    assert draw_splits({"a": [1, 5], "b": [2]}, 0.01)["val"] == ("b",)
    assert draw_splits({"a": [3, 5]}, 0.01) == {"train": ("a:3-3",), "val": ("a:5-5",)}
    with pytest.raises(UserError, match="must be above 0 and below 1, got 1"):
        draw_splits(numbers, 1)
    with pytest.raises(UserError, match="need two labeled frames, got 1"):
        draw_splits({"a": [1]})


def test_names_of_any_characters_survive_the_file(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    names = ['a "b" \\', "line\nbreak", "Straße 🚗", "tab\t\x7f\x01"]
    for number in (1, 2):
        write_image(tmp_path / f"{number}.jpg", size=SIZE)
    write_json(
        tmp_path / "x.json", coco(names, {f"{n}.jpg": [(name, [SQUARE]) for name in names] for n in (1, 2)}, SIZE)
    )
    assert described(tmp_path).class_names == ("background", *names)
