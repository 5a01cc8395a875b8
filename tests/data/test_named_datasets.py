"""The descriptions in the package, on miniatures of the public layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPOSITORY
from data.miniatures import FILES, LIP, SEQUENCES, Miniature

from ccnet3d.cli import data
from ccnet3d.data import DataSource, read_dataset_spec
from ccnet3d.errors import UserError
from ccnet3d.resources import dataset_names, find_dataset

CLASSES = {"ade20k": 150, "cityscapes": 19, "kitti_step": 19, "lip": 20, "voc12": 21, "vspw": 124}


def test_every_dataset_has_a_miniature_and_a_guide() -> None:
    assert dataset_names() == sorted([*CLASSES, "camvid"])
    for name, count in CLASSES.items():
        spec = read_dataset_spec(find_dataset(name))
        assert (spec.name, len(spec.classes)) == (name, count)
        guide = (REPOSITORY / "datasets" / name / "README.md").read_text(encoding="utf-8")
        assert f"ccnet3d-data check --dataset {name} --data" in guide
        first_image, first_label, _ = FILES[name][0]
        assert {Path(first_image).suffix, Path(first_label).suffix} <= {".png", ".jpg"}
    assert len(set(read_dataset_spec(find_dataset("vspw")).palette)) == 124


@pytest.mark.parametrize("name", CLASSES)
def test_frames_and_labels(name: str, tmp_path: Path) -> None:
    ids = Miniature(tmp_path, (12, 8)).write(name)
    source = DataSource(tmp_path, find_dataset(name))
    train, val = source.open("train"), source.open("val")
    frames, segments = SEQUENCES[name]
    assert [f"{frame.sequence} {frame.number}" for frame in train.frames] == frames
    assert len(train.segments) == segments
    assert len(val) == {"kitti_step": 9, "cityscapes": 1, "voc12": 1}.get(name, 2)
    for split in (train, val):
        for index in range(len(split)):
            label = split.read_label(index)
            assert label.shape == split.read_image(index).shape[1:]
            assert [*dict.fromkeys(label[:, 0].tolist())] == [*dict.fromkeys(ids)]


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("cityscapes", {"leftImg8bit": "leftImg8bit_sequence"}),
        ("lip", {LIP + kind: f"{LIP}{kind}/{LIP}{kind}" for kind in ("images", "parsing_annotations")}),
        ("kitti_step", {"training/image_02": "images/train"}),
    ],
)
def test_other_places_of_the_files(name: str, moves: dict[str, str], tmp_path: Path) -> None:
    Miniature(tmp_path).write(name)
    for old, new in moves.items():
        aside = (tmp_path / old).rename(tmp_path / "aside")
        (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(tmp_path / new)
    frames = DataSource(tmp_path, find_dataset(name)).open("train").frames
    assert [f"{frame.sequence} {frame.number}" for frame in frames] == SEQUENCES[name][0]


def test_check_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert data.main(["check", "--dataset", "cityscapes"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ccnet3d-data: error: no data folder at data/cityscapes; ")
    assert "datasets/cityscapes/README.md says how to get it; name the folder of cityscapes with --data" in error
    Miniature(tmp_path / "data/cityscapes").write("cityscapes")
    assert data.main(["check", "--dataset", "cityscapes"]) == 0
    out = capsys.readouterr().out
    assert "split train: 4 labeled frames in 3 sequences" in out
    # The drawn copies beside the labels are not missed.
    assert not [text for text in ("without a label", "without an image", "in no split") if text in out]
    assert data.main(["check", "--dataset", "vspw", "--data", "data/cityscapes"]) == 2
    message = "no vspw data for the split 'train' in data/cityscapes; expected data/{sequence}/origin and "
    assert f"{message}data/{{sequence}}/mask and train.txt there" in capsys.readouterr().err
    (tmp_path / "data/cityscapes/dataset.toml").write_text(find_dataset("cityscapes").read_text())
    assert data.main(["check", "--data", "data/cityscapes"]) == 0
    assert data.main(["check", "--dataset", "cityscapes"]) == 2
    assert "has a dataset.toml, which describes it; leave --dataset out" in capsys.readouterr().err
    with pytest.raises(UserError, match="nor a dataset named citiscapes; give a dataset.toml or one of ade20k, "):
        find_dataset("citiscapes")
