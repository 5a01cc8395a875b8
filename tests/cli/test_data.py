from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import THREE_CLASSES
from PIL import Image

from ccnet3d.cli import data


def run(*arguments: object) -> int:
    return data.main([str(argument) for argument in arguments])


def test_describe_then_check(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = yard / "dataset.toml"
    before = description.read_bytes()
    assert run("describe", yard) == 2
    assert "dataset.toml exists; give --overwrite to replace it" in capsys.readouterr().err
    assert description.read_bytes() == before
    assert run("describe", yard, "--overwrite", "--classes", "ground,box,rail", "--seed", 1) == 0
    out = capsys.readouterr().out
    assert "assumed that 255 is void" in out
    assert "splits: drawn by sequence, val 20% of the labeled frames, seed 1" in out
    text = description.read_text()
    assert "# splits: drawn by sequence" in text
    assert 'name = "rail"  # 8.33% of the pixels' in text  # 4 of 48 rows
    sheet = yard / "sheet.png"
    assert run("check", "--data", yard, "--contact-sheet", sheet) == 0
    out = capsys.readouterr().out
    assert "the dataset can be used" in out
    assert "14 frames in" in out
    assert "  night: 3 frames, 1 to 5" in out
    with Image.open(sheet) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
    assert {(0, 0, 0), (128, 0, 0), (0, 128, 0)} <= colors  # of the legend
    written = sheet.read_bytes()
    assert run("check", "--data", yard, "--contact-sheet", sheet) == 2
    assert sheet.read_bytes() == written


def test_check_names_what_does_not_fit(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yard / "labels/walk/0002.png").unlink()
    (yard / "frames/walk/0005.png").unlink()
    label = np.zeros((48, 64), np.uint8)
    label[0, 0] = 9
    for name in ("night/0001", "night/0003"):
        Image.fromarray(label).save(yard / f"labels/{name}.png")
    for folder in ("frames", "labels"):
        (yard / folder / "spare").mkdir()
        Image.new("L", (64, 48)).save(yard / folder / "spare/0001.png")
    assert run("check", "--data", yard) == 2
    out, err = capsys.readouterr()
    assert "images without a label: 1\n  frames/walk/0002.png\n" in out
    assert "labels without an image: 1\n  labels/walk/0005.png\n" in out
    assert "images in no split: 1\n  frames/spare/0001.png\n" in out
    assert "without a class:\n  id 9 in 2 labels, the first is " in out
    assert "split train: 9 labeled frames in 2 sequences" in out
    assert err.splitlines()[0] == "ccnet3d-data: error: 2 files are invalid; fix them or remove them from the split:"
    assert "night/0001.png has the label 9" in err
    assert run("check", "--data", yard, "--split", "train") == 0
    assert run("check", "--data", yard, "--split", "test") == 2
    assert "there is no split 'test' in" in capsys.readouterr().err
    for option in (["--frames", "3"], ["--overwrite"]):
        assert run("check", "--data", yard, *option) == 2
        assert f"{option[0]} is for the picture of --contact-sheet; add" in capsys.readouterr().err


def test_check_drafts_splits(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yard / "dataset.toml").write_text(THREE_CLASSES.split("[splits]")[0])
    assert run("check", "--data", yard) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no [splits]; a draw by sequence with a val share of 20% and seed 0 is: splits = { train = [" in line
    draft = line.partition(" is: ")[2]
    (yard / "dataset.toml").write_text(f"{draft}\n{THREE_CLASSES.split('[splits]')[0]}")
    assert run("check", "--data", yard) == 0


def test_warnings(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = THREE_CLASSES.replace('"night"', '"night", "walk"').replace("classes = [", "classes = [", 1)
    text = text.replace("\n]\n", '\n    { name = "fog", color = [1, 2, 3] },\n]\n', 1)
    (yard / "dataset.toml").write_text(text)
    Image.new("RGB", (32, 24)).save(yard / "frames/night/0001.png")
    Image.new("L", (32, 24)).save(yard / "labels/night/0001.png")
    assert run("check", "--data", yard) == 0
    out = capsys.readouterr().out
    assert "warning: 7 frames in train and in val: scores on them are not those of new frames" in out
    assert "warning: no pixel of fog in split train" in out
    assert "warning: frames of split val differ in size" in out


def test_nothing_is_written_for_a_folder_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "1.jpg")
    assert run("describe", tmp_path) == 2
    assert "found no labels for the images in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["1.jpg"]
    link = tmp_path / "dataset.toml"
    link.symlink_to(tmp_path / "elsewhere.toml")
    assert run("describe", tmp_path, "--overwrite") == 2
    assert "is a link, which is not replaced" in capsys.readouterr().err


def test_a_folder_that_cannot_be_data(tmp_path: Path, yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is CamVid, which the package describes itself."""
    (tmp_path / "my data").mkdir()
    assert run("check", "--data", tmp_path / "my data") == 2
    assert (
        f"my data has no dataset.toml; write one, or a first draft with: ccnet3d-data describe '{tmp_path}/my data' "
        in (capsys.readouterr().err)
    )
    assert run("check", "--data", tmp_path / "absent") == 2
    assert "absent; give a folder with a dataset.toml" in capsys.readouterr().err
    assert run("check", "--data", yard / "dataset.toml") == 2
    assert "dataset.toml, which is a file; give the folder that it is in" in capsys.readouterr().err


def test_described_data_whose_files_are_missing(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(yard / "labels")
    assert run("check", "--data", yard) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no yard data for the split 'train'" in line
    assert line.endswith("expected frames and labels there")


def test_a_folder_of_labels_alone(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(yard / "frames")
    assert run("describe", yard, "--overwrite") == 2
    assert "look like labels, the first is labels/" in capsys.readouterr().err


def test_the_next_command_can_be_pasted(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = yard.rename(yard.with_name("a yard"))
    assert run("describe", folder, "--overwrite") == 0
    command = capsys.readouterr().out.splitlines()[-1].partition("then: ccnet3d-data ")[2]
    assert run(*shlex.split(command)) == 0
