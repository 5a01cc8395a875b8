"""Where the files of datasets lie: miniatures of public layouts and of those that people make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data.people_labels import CLASSES, coco, write_image, write_json

from ccnet3d.data import DataSource, LabelledSequences
from ccnet3d.errors import UserError


def label(value: int) -> np.ndarray:
    return np.full((6, 8), value, np.uint8)


def opened(root: Path, toml: str, split: str = "train") -> LabelledSequences:
    (root / "dataset.toml").write_text(f'name = "x"\n{CLASSES}\n{toml}')
    return DataSource(root).open(split)


def found(dataset: LabelledSequences) -> list[tuple[str, int, int]]:
    """Return sequence, number and the value that fills the label of each frame."""
    values = [int(dataset.read_label(index).max()) for index in range(len(dataset))]
    return [(frame.sequence, frame.number, value) for frame, value in zip(dataset.frames, values, strict=True)]


def test_a_folder_for_each_sequence(tmp_path: Path) -> None:
    for value, name in enumerate(("walk", "night")):
        for number in (1, 2):
            write_image(tmp_path / name / "images" / f"{number}.jpg")
            write_image(tmp_path / name / "labels" / f"{number}.png", label(value))
    layout = 'layouts = [{ images = "{sequence}/images", labels = "{sequence}/labels" }]\n'
    dataset = opened(tmp_path, f'{layout}splits = {{ train = ["walk"], val = ["nig*"] }}')
    assert found(dataset) == [("walk", 1, 0), ("walk", 2, 0)]
    assert found(DataSource(tmp_path).open("val")) == [("night", 1, 1), ("night", 2, 1)]
    write_image(tmp_path / "walk/labels/3.png", label(0))
    assert opened(tmp_path, f'{layout}splits = {{ train = ["walk"] }}').left_out == (
        "labels without an image: 1 (walk/labels/3.png)",
    )


def test_labels_in_one_folder(tmp_path: Path) -> None:
    for value, name in enumerate(("walk_1", "walk_2", "night_1")):
        write_image(tmp_path / "frames" / name.split("_")[0] / f"{name}.png")
        write_image(tmp_path / "masks" / f"mask_{name}_L.png", label(value))
    layout = 'layouts = [{ labels = "masks/mask_{name}", label_suffix = "_L" }]\n'
    dataset = opened(tmp_path, f'{layout}splits = {{ train = ["walk"], val = ["night"] }}')
    assert found(dataset) == [("walk", 1, 0), ("walk", 2, 1)]
    assert dataset.left_out == ()  # the other label is of another split


def test_one_label_for_two_frames_is_an_error(tmp_path: Path) -> None:
    for name in ("walk", "night"):
        write_image(tmp_path / "frames" / name / "1.png")
    write_image(tmp_path / "masks" / "1.png", label(1))
    with pytest.raises(UserError, match=r"masks/1.png is the label of .*night/1.png as well as of .*walk/1.png; their"):
        opened(tmp_path, 'layouts = [{ labels = "masks/{name}" }]\nsplits = { train = ["walk", "night"] }')


def test_a_part_of_a_sequence(tmp_path: Path) -> None:
    for number in range(1, 11):
        write_image(tmp_path / "frames/walk" / f"{number:02}.png")
        write_image(tmp_path / "labels/walk" / f"{number:02}.png", label(1))
    dataset = opened(tmp_path, 'splits = { train = ["walk:1-8"], val = ["walk:9-10"] }')
    assert [frame.number for frame in dataset.frames] == [*range(1, 9)]
    assert [frame.number for frame in DataSource(tmp_path).open("val").frames] == [9, 10]
    with pytest.raises(UserError, match="there is no frame of 'walk:20-30'"):
        opened(tmp_path, 'splits = { train = ["walk:20-30"] }')


def test_sequences_by_name_in_one_folder(tmp_path: Path) -> None:
    for name in ("a_f1", "a_f2", "b_f1"):
        write_image(tmp_path / "frames" / f"{name}.png")
        write_image(tmp_path / "labels" / f"{name}.png", label(1))
    pattern = r"frame_pattern = '(?P<sequence>.+)_f(?P<frame>\d+)'"
    dataset = opened(tmp_path, pattern + '\nsplits = { train = ["a"], val = ["b"] }')
    assert found(dataset) == [("a", 1, 1), ("a", 2, 1)]
    assert found(DataSource(tmp_path).open("val")) == [("b", 1, 1)]


def test_names_without_numbers(tmp_path: Path) -> None:
    for name in ("left", "right", "cat 10", "cat 2"):
        write_image(tmp_path / "frames/a" / f"{name}.png")
        write_image(tmp_path / "labels/a" / f"{name}.png", label(1))
    (tmp_path / "labels/a/cat 10.png").unlink()
    with pytest.raises(UserError, match="contains no frame number; number the frames, set frame_pattern, or set"):
        opened(tmp_path, 'splits = { train = ["a"] }')
    toml = 'frame_numbers = "order"\nsplits = { train = ["a"], val = ["a:3-3"] }'
    frames = opened(tmp_path, toml).frames
    assert [(frame.number, frame.image.stem) for frame in frames] == [(0, "cat 2"), (2, "left"), (3, "right")]
    assert [frame.image.stem for frame in DataSource(tmp_path).open("val").frames] == ["right"]


def test_cityscapes(tmp_path: Path) -> None:
    """34 ids to classes; a sequence is a city and a snippet."""
    for split, names in {
        "train": ("aachen_000000_000019", "aachen_000001_000019"),
        "val": ("bonn_000003_000019",),
    }.items():
        for place, name in enumerate(names):
            city = name.split("_")[0]
            write_image(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            write_image(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", label((7, 11)[place]))
            write_image(tmp_path / "gtFine" / split / city / f"{name}_gtFine_color.png")
            write_json(tmp_path / "gtFine" / split / city / f"{name}_gtFine_polygons.json", {})
    toml = r"""
    frame_pattern = '(?P<sequence>\w+_\d{6})_(?P<frame>\d{6})'
    label_mapping = { 7 = 0, 11 = 1 }
    void_ids = [0, 1, 2, 3, 4, 5, 6, 9, 10, 255]
    splits = { train = ["train"], val = ["val"] }
    [[layouts]]
    images = "leftImg8bit"
    image_suffix = "_leftImg8bit"
    labels = "gtFine"
    label_suffix = "_gtFine_labelIds"
    """
    assert found(opened(tmp_path, toml)) == [("aachen_000000", 19, 0), ("aachen_000001", 19, 1)]
    assert found(DataSource(tmp_path).open("val")) == [("bonn_000003", 19, 0)]


def test_ade20k_and_lip(tmp_path: Path) -> None:
    write_image(tmp_path / "images/training/ADE_train_00000001.jpg")
    write_image(tmp_path / "annotations/training/ADE_train_00000001.png", label(3))
    toml = 'reduce_zero = true\nsplits = { train = ["training"] }\n'
    assert found(opened(tmp_path, f'{toml}layouts = [{{ images = "images", labels = "annotations" }}]')) == [
        ("training", 1, 2)
    ]
    write_image(tmp_path / "val_images/10_20.jpg")
    write_image(tmp_path / "val_segmentations/10_20.png", label(2))
    layout = 'layouts = [{ images = "{split}_images", labels = "{split}_segmentations" }]\n'
    assert found(opened(tmp_path, f'{layout}splits = {{ val = ["."] }}', "val")) == [(".", 20, 2)]


def test_vspw_and_kitti_step(tmp_path: Path) -> None:
    write_image(tmp_path / "data/12_abc/origin/00000001.jpg")
    write_image(tmp_path / "data/12_abc/mask/00000001.png", label(1))
    layout = 'layouts = [{ images = "data/{sequence}/origin", labels = "data/{sequence}/mask" }]\n'
    assert found(opened(tmp_path, f'{layout}splits = {{ train = ["12_abc"] }}')) == [("12_abc", 1, 1)]
    write_image(tmp_path / "training/image_02/0002/000007.png")
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 2, 77
    write_image(tmp_path / "panoptic_maps/val/0002/000007.png", pixels)
    toml = """splits = { val = ["0002"] }
    [[layouts]]
    images = "training/image_02"
    labels = "panoptic_maps/{split}"
    label_encoding = "red"
    """
    assert found(opened(tmp_path, toml, "val")) == [("0002", 7, 2)]


def test_every_sequence_of_a_split_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "frames/a/1.png")
        write_image(tmp_path / split / "labels/a/1.png", label(split == "val"))
    layout = 'layouts = [{ images = "{split}/frames", labels = "{split}/labels" }]'
    assert found(opened(tmp_path, layout)) == [("a", 1, 0)]
    assert found(opened(tmp_path, layout, "val")) == [("a", 1, 1)]


@pytest.mark.parametrize("name", ["1.png", "walk/1.png", "frames/walk/1.jpg", "C:\\data\\frames\\walk\\1.png"])
def test_names_in_annotation_files(tmp_path: Path, name: str) -> None:
    """As tools export them; another sequence has an image of the same name."""
    pytest.importorskip("pycocotools")
    for sequence in ("walk", "night"):
        write_image(tmp_path / "frames" / sequence / "1.png")
    square = [[0, 0, 8, 0, 8, 6, 0, 6]]
    write_json(tmp_path / "walk.json", coco(["box"], {name: [("box", square)], "other/1.png": []}, (6, 8)))
    layout = 'layouts = [{ labels = "{sequence}.json", label_encoding = "coco" }]\n'
    dataset = opened(tmp_path, f'{layout}splits = {{ train = ["walk"] }}')
    assert found(dataset) == [("walk", 1, 1)]
    assert dataset.left_out == ("labels without an image: 1 (other/1.png in walk.json)",)


def test_ambiguous_names_in_annotation_files(tmp_path: Path) -> None:
    for sequence in ("walk", "night"):
        write_image(tmp_path / "frames" / sequence / "1.png")
    toml = 'layouts = [{ labels = "notes", label_encoding = "coco" }]\nsplits = { train = ["walk", "night"] }'
    write_json(tmp_path / "notes/a.json", coco(["box"], {"1.png": []}, (6, 8)))
    with pytest.raises(UserError, match=r"1.png in .*a.json is the label of .*night/1.png as well as of .*walk/1.png"):
        opened(tmp_path, toml)
    write_json(tmp_path / "notes/b.json", coco(["box"], {"1.png": []}, (6, 8)))
    with pytest.raises(UserError, match=r"1.png in .*a.json and 1.png in .*b.json both annotate .*walk/1.png"):
        opened(tmp_path, toml)
    (tmp_path / "notes/b.json").write_text(json.dumps(coco(["box"], {"night/1.png": []}, (6, 8))))
    assert len(opened(tmp_path, toml.replace('"walk", ', "")).frames) == 1  # the longer name is its own
