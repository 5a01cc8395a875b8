from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import CAMVID_SPEC, THREE_CLASSES

from ccnet3d.data import DataSource, read_dataset_spec
from ccnet3d.errors import UserError


def test_camvid_is_what_the_papers_use() -> None:
    spec = read_dataset_spec(CAMVID_SPEC)
    assert spec.class_names == (
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
    )  # fmt: skip
    assert spec.void_ids == (11,)
    assert len(spec.source_colors) == 32
    assert len(set(spec.source_colors.values())) == 32
    merged = [name for c in spec.classes for name in c.merges]
    assert len(merged) == len(set(merged)) == 22
    counts = {}
    for split in ("train", "val", "test"):
        names = CAMVID_SPEC.with_name("splits").joinpath(f"{split}.txt").read_text().split()
        for name in names:
            key = split, name.split("_")[0]
            counts[key] = counts.get(key, 0) + 1
    assert counts == {
        ("train", "0001TP"): 62, ("train", "0006R0"): 101, ("train", "0016E5"): 204,
        ("val", "0016E5"): 101, ("test", "0001TP"): 62, ("test", "Seq05VD"): 171,
    }  # fmt: skip


def test_frames_by_folder_and_number(yard: Path) -> None:
    dataset = DataSource(yard).open("train")
    assert [(f.sequence, f.number) for f in dataset.frames] == [
        *(("walk", n) for n in range(1, 8)),
        *(("yard_2", n) for n in (10, 12, 14, 16)),
    ]
    assert dataset.segments == [range(0, 7), range(7, 11)]  # never across a sequence


def test_unlabeled_frames_are_skipped_and_make_gaps(yard: Path) -> None:
    (yard / "labels" / "walk" / "0004.png").unlink()
    (yard / "dataset.toml").write_text(f"max_gap_frames = 1\n{THREE_CLASSES}")
    dataset = DataSource(yard).open("train")
    assert [f.number for f in dataset.frames] == [1, 2, 3, 5, 6, 7, 10, 12, 14, 16]
    assert dataset.segments == [range(0, 3), range(3, 6), *(range(i, i + 1) for i in range(6, 10))]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[splits]", "[split]", "unknown key 'split'"),
        ('name = "yard"', 'name = "yard"\ncolour = 3', "unknown key 'colour'"),
        ('name = "yard"', "", "lacks the key 'name'"),
        ('"box"', '"ground"', "class names must differ"),
        ('"box"', '" "', "class names must not be empty"),
        ('name = "yard"', 'name = ""', "the name of a dataset must not be empty"),
        ('name = "yard"', 'name = "yard"\nmax_gap_frames = -1', "max_gap_frames must be at least 1, or 0"),
        ("color = [200, 40, 40]", "color = [200, 40]", r"classes.color must be .*got \[200, 40\]"),
        ('val = ["night"]', 'val = "night"', "splits.val must be"),
        ('name = "yard"', 'name = "yard"\nvoid_ids = [2]', "void_ids must be above"),
        ('name = "yard"', 'name = "yard"\nframe_pattern = "(.*)"', "needs the groups"),
        ('name = "yard"', 'name = "yard"\nframe_pattern = "(("', "is not a regular expression"),
        ('name = "yard"', 'name = "yard"\nlayouts = [{ pair_list = "all.txt" }]', "need {split} in their name"),
        ("color = [200, 40, 40]", "color = [300, 40, 40]", "color of box must be RGB from 0 to 255"),
        ("[splits]", "[splits", "is not valid TOML"),
        ('color = [90, 140, 60] }', 'color = [90, 140, 60], merges = ["Grass"] }', "merges 'Grass'"),
    ],
)  # fmt: skip
def test_bad_descriptions(yard: Path, old: str, new: str, message: str) -> None:
    path = yard / "dataset.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
        DataSource(yard).open("train")
    assert str(path) in str(error.value)


def test_nested_sequences_are_distinguished(yard: Path) -> None:
    for folder in ("frames", "labels"):
        for day in ("day1", "day2"):
            shutil.copytree(yard / folder / "night", yard / folder / day / "cam0")
    path = yard / "dataset.toml"
    path.write_text(path.read_text().replace('"walk"', '"day1/cam0", "day2/cam0"'))
    dataset = DataSource(yard).open("train")
    assert [f.sequence for f in dataset.frames] == ["day1/cam0"] * 3 + ["day2/cam0"] * 3 + ["yard_2"] * 4
    assert dataset.segments[:2] == [range(0, 3), range(3, 6)]
    shutil.copy(yard / "frames/day1/cam0/0003.png", yard / "frames/day1/cam0/x3.png")
    shutil.copy(yard / "labels/day1/cam0/0003.png", yard / "labels/day1/cam0/x3.png")
    with pytest.raises(ValueError, match="are both frame 3 of sequence day1/cam0"):
        DataSource(yard).open("train")


def test_a_sequence_without_labels_is_an_error(yard: Path) -> None:
    shutil.rmtree(yard / "labels" / "walk")
    with pytest.raises(ValueError, match="no frame in .*walk has a label in"):
        DataSource(yard).open("train")


def test_missing_data(yard: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no split 'test', only \\['train', 'val'\\]"):
        DataSource(yard).open("test")
    with pytest.raises(ValueError, match="cannot read .*dataset.toml"):
        DataSource(tmp_path).open("train")
    with pytest.raises(ValueError, match=r"no camvid data for the split 'train' .*expected train.txt, or 701_Stills"):
        DataSource(tmp_path, CAMVID_SPEC).open("train")
    path = yard / "dataset.toml"
    path.write_text(path.read_text().replace('"walk"', '"nowhere"'))
    with pytest.raises(ValueError, match="the folder .*nowhere does not exist"):
        DataSource(yard).open("train")


@pytest.mark.parametrize("pattern", ["(?P<sequence>.)(?P<frame>.*)", "(?P<sequence>.)(?P<frame>x)?.*"])
def test_frame_numbers_must_be_numbers(yard: Path, pattern: str) -> None:
    path = yard / "dataset.toml"
    path.write_text(f"frame_pattern = '{pattern}'\n{path.read_text()}")
    for folder in ("frames", "labels"):
        (yard / folder / "night" / "0001.png").rename(yard / folder / "night" / "0ab.png")
    with pytest.raises(UserError, match="the group 'frame' of frame_pattern must match a number, got ('ab'|None) in"):
        DataSource(yard).open("val")


def test_a_split_list_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="the split list .*train.txt is not a text file in UTF-8"):
        DataSource(tmp_path, CAMVID_SPEC).open("train")
