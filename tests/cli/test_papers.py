"""The commands of docs/papers.md without their data: one line that names what is expected, and nothing written."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from conftest import REPOSITORY

from ccnet3d.instances import read_instance_recipe
from ccnet3d.resources import recipe_file
from ccnet3d.training import read_recipe

PAGE = (REPOSITORY / "docs" / "papers.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(command) for command in re.findall(r"`(ccnet3d-\w+ [^`]*FOLDER[^`]*)`", PAGE)]
EXPECTED = {
    "ccnet3d-infer": "there is no model file at runs/cityscapes_r101/model.safetensors",
    "ccnet3d-instances": "for COCO, ",
    "camvid": "expected train.txt, or 701_StillsRaw_full",
    "cityscapes": "expected leftImg8bit and gtFine, or leftImg8bit_sequence and gtFine there",
    "ade20k": "expected images and annotations there",
    "lip": "expected TrainVal_images",
}
"""What the error for an empty folder says, by a part of the command."""


def call(words: list[str], folder: Path) -> int:
    main = import_module(f"ccnet3d.cli.{words[0].removeprefix('ccnet3d-')}").main
    return main([word.replace("FOLDER", str(folder)) for word in words[1:]])


def test_every_experiment_has_its_rows() -> None:
    *experiments, last = re.findall(r"^## (.+)", PAGE, re.MULTILINE)
    assert (len(experiments), last) == (5, "What was tried")
    assert len(COMMANDS) > 25
    runs = [words for words in COMMANDS if words[0] == "ccnet3d-train" or words[1] == "train"]
    outs = [words[words.index("--out") + 1] for words in runs if "--out" in words]
    assert len(set(outs)) == len(outs)  # no row finds the run of another in its folder
    assert len({(words[0], words[1]) for words in runs if "--out" not in words}) == 5


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_missing_data(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.mkdir()
    assert call(words, absent) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (words[0] == "ccnet3d-infer") or str(absent) in error
    assert call(words, empty) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    text = " ".join(words)
    kind = next(kind for kind in EXPECTED if kind in text)
    assert EXPECTED[kind].replace("train.txt", "test.txt" if "test" in words else "train.txt") in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "runs"]


@pytest.mark.parametrize("words", [words for words in COMMANDS if "--set" in words], ids=" ".join)
def test_options_of_the_rows(words: list[str]) -> None:
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    if words[0] == "ccnet3d-train":
        recipe = read_recipe(recipe_file(words[1]), overrides)
        assert recipe != read_recipe(recipe_file(words[1]))
    else:
        assert read_instance_recipe(recipe_file("coco_maskrcnn"), overrides)
