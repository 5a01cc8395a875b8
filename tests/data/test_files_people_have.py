"""Frames and labels as cameras, annotation tools, file managers and PNG optimizers leave them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CAMVID_SPEC, THREE_CLASSES, draw_scene
from image_files import write_bomb, write_png
from PIL import Image

from ccnet3d.data import ClassSpec, DatasetSpec, DataSource, LabelledFrame, LabelledSequences, LayoutSpec, open_labels
from ccnet3d.data.check import inspect_frames
from ccnet3d.errors import UserError
from ccnet3d.evaluation import open_predictions
from ccnet3d.video import open_video


def test_training_sees_the_pixels_that_inference_sees(yard: Path) -> None:
    """Gray of 16 bits, and frames that lie on their side."""
    folder = yard / "frames" / "night"
    Image.fromarray(draw_scene(1)[0][..., 0].astype(np.uint16) * 257).save(folder / "0001.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    Image.fromarray(draw_scene(3)[0].swapaxes(0, 1)[::-1].copy()).save(folder / "0003.png", exif=exif)
    dataset = DataSource(yard).open("val")
    with open_video(folder) as reader:
        for frame in reader:
            np.testing.assert_array_equal(dataset.read_image(frame.index).permute(1, 2, 0), frame.image)
    np.testing.assert_array_equal(dataset.read_image(0)[1], draw_scene(1)[0][..., 0])
    np.testing.assert_array_equal(dataset.read_image(1).permute(1, 2, 0), draw_scene(3)[0])
    assert inspect_frames(dataset, equal_sizes=True).problems == []  # labels are upright, and have no orientation


def test_a_label_follows_its_own_orientation(yard: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    path = yard / "labels" / "night" / "0001.png"
    Image.fromarray(draw_scene(1)[1][::-1, ::-1].copy()).save(path, exif=exif)
    expected = torch.from_numpy(draw_scene(1)[1].astype(np.int64))
    assert torch.equal(DataSource(yard).open("val").read_label(0), expected)


def test_ids_of_2_and_4_bits(tmp_path: Path) -> None:
    """As a PNG optimizer stores labels and masks with few ids."""
    ids = np.arange(48).reshape(6, 8) % 4
    for folder, bits in (("labels", 2), ("masks", 4)):
        (tmp_path / folder).mkdir()
        write_png(tmp_path / folder / "0001.png", ids, bits)
    dataset = open_labels(tmp_path / "labels", ["a", "b", "c", "d"])
    np.testing.assert_array_equal(dataset.read_label(0), ids)
    (mask,) = open_predictions(tmp_path / "masks", dataset)(range(1))
    np.testing.assert_array_equal(mask, ids)


def test_names_in_capitals_and_files_of_the_system(yard: Path) -> None:
    """A label is found by its name, whatever the case of its extension; nothing that a system adds is data."""
    lower = DataSource(yard).open("train").frames
    expected = [frame._replace(label=frame.label.with_suffix(".PNG")) for frame in lower]
    for folder in ("frames", "labels"):
        for path in [*(yard / folder / "walk").iterdir(), *(yard / folder / "yard_2").iterdir()]:
            added = path.parent / ".ipynb_checkpoints" / f"{path.stem}-checkpoint.png"
            added.parent.mkdir(exist_ok=True)
            shutil.copy(path, added)
            shutil.copy(path, path.with_name(f"._{path.name}"))
            if folder == "labels":
                path.rename(path.with_suffix(".PNG"))
        (yard / folder / "walk" / "Thumbs.db").touch()
    dataset = DataSource(yard).open("train")
    assert dataset.frames == expected
    assert dataset.left_out == ()
    shutil.rmtree(yard / "labels" / "night")
    labels = open_labels(yard / "labels", ["ground", "box", "rail"])
    assert [frame.label for frame in labels.frames] == [frame.label for frame in expected]
    assert open_predictions(yard / "labels", labels)  # which refuses masks of no labeled frame


def test_what_is_not_paired_is_named(yard: Path) -> None:
    walk = yard / "labels" / "walk"
    for number in (2, 3, 5, 6):
        (walk / f"000{number}.png").unlink()
    (yard / "frames" / "yard_2" / "0014.png").unlink()
    dataset = DataSource(yard).open("train")
    assert [frame.number for frame in dataset.frames] == [1, 4, 7, 10, 12, 16]
    assert dataset.left_out == (
        "images without a label: 4 (frames/walk/0002.png, frames/walk/0003.png, frames/walk/0005.png, ...)",
        "labels without an image: 1 (labels/yard_2/0014.png)",
    )
    shutil.copy(walk / "0001.png", walk / "0001.tif")
    with pytest.raises(UserError, match=r"0001\.png and .*0001\.tif are both the label of .*walk/0001\.png; keep"):
        DataSource(yard).open("train")


def test_frames_and_labels_in_one_folder(yard: Path) -> None:
    for path in (yard / "labels" / "walk").iterdir():
        shutil.move(path, yard / "frames" / "walk" / f"{path.stem}_L.PNG")
    description = THREE_CLASSES.replace('"walk", "yard_2"', '"walk"')
    layout = 'layouts = [{ images = "frames", labels = "frames", label_suffix = "_L" }]'
    (yard / "dataset.toml").write_text(layout + description)
    dataset = DataSource(yard).open("train")
    assert [(frame.image.name, frame.label.name) for frame in dataset.frames] == [
        (f"000{number}.png", f"000{number}_L.PNG") for number in range(1, 8)
    ]
    assert dataset.left_out == ()


def test_a_listed_frame_with_two_images(tmp_path: Path) -> None:
    for folder in ("701_StillsRaw_full/a", "701_StillsRaw_full/b", "LabeledApproved_full"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("a", "b"):
        Image.new("RGB", (8, 6)).save(tmp_path / "701_StillsRaw_full" / folder / "0006R0_f00930.png")
    with pytest.raises(UserError, match=r"a/0006R0_f00930\.png and .*b/.* are both the listed frame 0006R0"):
        DataSource(tmp_path, CAMVID_SPEC).open("train")


def test_bombs_are_named(yard: Path, tmp_path: Path) -> None:
    frame, label = yard / "frames" / "walk" / "0001.png", yard / "labels" / "walk" / "0002.png"
    masks = tmp_path / "masks"
    shutil.copytree(yard / "labels" / "night", masks)
    for path in (frame, label, masks / "0001.png"):
        write_bomb(path)
    problems = inspect_frames(DataSource(yard).open("train"), equal_sizes=True).problems
    assert [problem.split(": ")[0] for problem in problems] == [
        f"cannot read the image {frame}", f"cannot read the image {label}",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"^cannot read the mask .*masks/0001\.png: .*exceeds limit"):
        list(open_predictions(masks, DataSource(yard).open("val"))(range(3)))


@pytest.mark.parametrize("frame_list", ["train.txt", "dataset.toml"])
def test_byte_order_marks(tmp_path: Path, frame_list: str) -> None:
    """As Windows' Notepad and PowerShell write them."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 6)).save(tmp_path / folder / "a_1.png")
    (tmp_path / "train.txt").write_text("a_1\n")
    (tmp_path / "dataset.toml").write_text(
        'name = "x"\nclasses = [{name="a",color=[0,0,0]},{name="b",color=[1,1,1]}]\n'
        'layouts = [{images="images", labels="labels", frame_list="{split}.txt"}]\n'
    )
    path = tmp_path / frame_list
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [frame.image.name for frame in DataSource(tmp_path).open("train").frames] == ["a_1.png"]


@pytest.mark.parametrize(
    ("ids", "void", "hint"),
    [
        ([0, 255], (), "the ids are 0 and 255, as in a black and white mask: write 1 instead of 255"),
        ([1, 2, 3, 255], (255,), "the ids seem to count from 1, and the first class has the id 0: subtract 1"),
        ([0, 1, 7], (255,), r"nor in void_ids$"),
        ([0, 1, -1], (255,), r"has the label -1, .* nor in void_ids$"),
    ],
)
def test_hints_about_ids(tmp_path: Path, ids: list[int], void: tuple[int, ...], hint: str) -> None:
    path = tmp_path / "1.tif"
    Image.fromarray(np.array([ids], np.int32)).save(path)
    spec = DatasetSpec("x", tuple(ClassSpec(name, (0, 0, 0)) for name in "abc"), void_ids=void)
    dataset = LabelledSequences(spec, [LabelledFrame("", 1, path, path)], LayoutSpec())
    with pytest.raises(UserError, match=hint):
        dataset.read_label(0)
