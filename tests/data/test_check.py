from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import CAMVID_SPEC, draw_scene
from PIL import Image
from tiny_run import RECIPE, make_trainer

from ccnet3d.data import (
    DataSource,
    LabelledFrame,
    LabelledSequences,
    LayoutSpec,
    inspect_frames,
    read_dataset_spec,
)
from ccnet3d.errors import FileProblemsError


def test_pixels_are_counted(yard: Path) -> None:
    dataset = DataSource(yard, CAMVID_SPEC).open("train")
    inspection = inspect_frames(dataset, equal_sizes=True)
    assert inspection.problems == []
    expected = sum(np.bincount(draw_scene(n)[1].ravel(), minlength=256) for n in [*range(1, 8), 10, 12, 14, 16])
    assert inspection.pixel_counts.tolist() == expected.tolist()


def spoil(yard: Path) -> list[str]:
    """Six invalid files; return patterns of their messages."""
    walk = yard / "frames" / "walk", yard / "labels" / "walk"
    (walk[0] / "0001.png").write_bytes(b"damaged")
    whole = (walk[0] / "0002.png").read_bytes()
    (walk[0] / "0002.png").write_bytes(whole[: len(whole) // 2])
    label = draw_scene(3)[1]
    label[20, 20] = 77
    Image.fromarray(label).save(walk[1] / "0003.png")
    Image.fromarray(draw_scene(4)[1][:-8]).save(walk[1] / "0004.png")
    for image, folder in zip(draw_scene(5, height=40), walk, strict=True):
        Image.fromarray(image).save(folder / "0005.png")
    (yard / "labels" / "night" / "0003.png").write_bytes(b"")
    return [
        r"cannot read the image \S+walk/0001.png",
        r"cannot read the image \S+walk/0002.png",
        r"walk/0003.png has the label 77",
        r"labels/walk/0004.png is 64x40, its image \S+frames/walk/0004.png is 64x48",
        r"frames/walk/0005.png is 64x40, most of its sequence 64x48",
        r"cannot read the image \S+labels/night/0003.png",
    ]


def test_all_problems_of_all_splits_are_named_before_anything_is_written(yard: Path, tmp_path: Path) -> None:
    faults = spoil(yard)
    with pytest.raises(FileProblemsError, match="^6 files are invalid; fix them") as error:
        make_trainer(yard, tmp_path / "run", RECIPE)
    lines = str(error.value).splitlines()
    assert len(lines) == 7
    for line, fault in zip(lines[1:], faults, strict=True):
        assert re.search(fault, line), line
    assert not (tmp_path / "run").exists()


def test_sizes_may_differ_outside_clips(yard: Path) -> None:
    for image, folder in zip(draw_scene(5, height=40), ("frames", "labels"), strict=True):
        Image.fromarray(image).save(yard / folder / "walk" / "0005.png")
    dataset = DataSource(yard, CAMVID_SPEC).open("train")
    assert inspect_frames(dataset, equal_sizes=False).problems == []
    assert len(inspect_frames(dataset, equal_sizes=True).problems) == 1


def test_many_problems_are_counted(yard: Path, tmp_path: Path) -> None:
    for path in (yard / "labels").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(FileProblemsError, match="14 files are invalid") as error:
        make_trainer(yard, tmp_path / "run")
    assert len(str(error.value).splitlines()) == 12
    assert str(error.value).endswith("\n  and 4 more")
    assert len(error.value.problems) == 14


def test_all_listed_files_that_do_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "listed"
    root.mkdir()
    (root / "train.txt").write_text("".join(f"train/s_{n}.png trainannot/s_{n}.png\n" for n in range(3)))
    (root / "dataset.toml").write_text(
        'name = "listed"\nclasses = [{name="a",color=[0,0,0]},{name="b",color=[1,1,1]}]\n'
        'layouts = [{pair_list="{split}.txt"}]\n'
    )
    with pytest.raises(FileProblemsError, match="6 files are invalid") as error:
        DataSource(root).open("train")
    assert all("is listed in the split 'train' but does not exist" in line for line in error.value.problems)


def test_labels_without_a_class(yard: Path, tmp_path: Path) -> None:
    for sequence in ("walk", "yard_2"):
        for path in (yard / "labels" / sequence).iterdir():
            Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    with pytest.raises(ValueError, match="no pixel of the split 'train' in .* has a class"):
        make_trainer(yard, tmp_path / "run")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_damaged_image_is_a_problem(tmp_path: Path, suffix: str) -> None:
    """With random bytes in its header an image is decoded or reported in one form, whatever Pillow raises."""
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(draw_scene(1)[0]).save(path)
    frame = LabelledFrame("walk", 1, path, path)
    dataset = LabelledSequences(read_dataset_spec(CAMVID_SPEC), [frame], LayoutSpec())
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = []
    for _ in range(150):
        damaged = bytearray(whole)
        for position in random.integers(0, 200, 3):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        refused += [line for line in inspect_frames(dataset, equal_sizes=False).problems if "cannot read" in line]
    assert len(refused) > 10
    assert all(line.startswith(f"cannot read the image {path}: ") for line in refused)
