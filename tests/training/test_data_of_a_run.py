"""What a run says about its data, and that it resumes on this data alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_scene
from PIL import Image
from tiny_run import RECIPE, make_trainer

from ccnet3d.errors import UserError
from ccnet3d.training.checkpoint import Progress, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_EPOCH = replace(RECIPE, epochs=1)


def recode(yard: Path, ids: list[int]) -> None:
    """Write other ids instead of 0, 1 and 2 into the labels."""
    table = np.arange(256, dtype=np.uint8)
    table[:3] = ids
    for path in (yard / "labels").rglob("*.png"):
        Image.fromarray(table[np.array(Image.open(path))]).save(path)


@pytest.mark.parametrize(
    ("ids", "warnings"),
    [
        ([0, 1, 2], []),
        ([0, 1, 1], ["rail"]),
        (
            [0, 255, 255],
            ["box, rail; the labels have only the ids 0 and 255, and 255 is void: if it marks a class, write the id of "
             "the class"],
        ),
        ([1, 2, 2], ["ground; no label has the id 0: if your ids count from 1, subtract 1"]),
    ],
)  # fmt: skip
def test_classes_without_a_training_pixel(yard: Path, tmp_path: Path, ids: list[int], warnings: list[str]) -> None:
    recode(yard, ids)
    assert make_trainer(yard, tmp_path / "run").warnings == [
        f"train split: classes without a pixel: {line}" for line in warnings
    ]


def test_files_without_a_partner_are_named(yard: Path, tmp_path: Path) -> None:
    (yard / "labels" / "walk" / "0004.png").unlink()
    (yard / "frames" / "night" / "0003.png").unlink()
    assert make_trainer(yard, tmp_path / "run").warnings == [
        "train split: images without a label: 1 (frames/walk/0004.png)",
        "val split: labels without an image: 1 (labels/night/0003.png)",
    ]


def drop_a_label(root: Path) -> None:
    (root / "labels" / "walk" / "0004.png").unlink()


def number_a_frame_anew(root: Path) -> None:
    for folder in ("frames", "labels"):
        (root / folder / "night" / "0003.png").rename(root / folder / "night" / "0004.png")


def rename_a_class(root: Path) -> None:
    path = root / "dataset.toml"
    path.write_text(path.read_text().replace('"rail"', '"track"'))


def test_a_run_resumes_on_its_own_data_alone(yard: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = make_trainer(yard, out, ONE_EPOCH)
    first.run()
    before = (out / "checkpoint.pt").read_bytes()
    moved = tmp_path / "elsewhere" / "copy"  # the same data in another place, with other times
    shutil.copytree(yard, moved, copy_function=shutil.copy)
    assert make_trainer(moved, out, ONE_EPOCH).data_fingerprints == first.data_fingerprints
    for change, split in ((drop_a_label, "train"), (number_a_frame_anew, "val"), (rename_a_class, "train, val")):
        other = tmp_path / change.__name__
        shutil.copytree(yard, other)
        change(other)
        message = f"belongs to other data: files or classes of {split} differ; give the data that the run began with"
        with pytest.raises(UserError, match=message):
            make_trainer(other, out, ONE_EPOCH).run(resume=True)
    assert (out / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("part", ["frames", "labels"])
def test_other_pixels_in_files_of_equal_names_and_sizes(yard: Path, tmp_path: Path, part: str) -> None:
    """Uncompressed images of one size have files of one size."""
    for path in [*(yard / part).rglob("*.png")]:
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    first = make_trainer(yard, tmp_path / "run").data_fingerprints
    for path in [*(yard / part / "walk").iterdir()]:
        image, label = draw_scene(int(path.stem) + 20)
        Image.fromarray(image if part == "frames" else label).save(path)
    second = make_trainer(yard, tmp_path / "run").data_fingerprints
    assert first["train"] != second["train"]
    assert first["val"] == second["val"]


def test_a_checkpoint_of_an_earlier_version_still_resumes(tmp_path: Path) -> None:
    path, progress = tmp_path / "checkpoint.pt", Progress(3)
    save_checkpoint(path, RECIPE, {"train": "x"}, progress, {})
    assert load_checkpoint(path, RECIPE, {"train": "x"}, {}) == progress
    state = torch.load(path, weights_only=True)
    del state["data"]
    torch.save(state, path)
    assert load_checkpoint(path, RECIPE, {"train": "y"}, {}) == progress
