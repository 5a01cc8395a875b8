"""The studies, as far as they need no CamVid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from script_runner import run

from ccnet3d.data import DataSource


def write_camvid(root: Path, counts: dict[str, int]) -> None:
    """Write frames of 8x11 pixels whose label has each class and void once per row, in CamVid's layout."""
    label = np.tile(np.arange(12, dtype=np.uint8), (8, 1))
    for split, count in counts.items():
        lines = []
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for number in range(count):
            name = f"0001TP_{30 * number:06d}.png"
            Image.new("RGB", (12, 8), (number, 0, 0)).save(root / split / name)
            Image.fromarray(label).save(root / f"{split}annot" / name)
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n")
        (root / f"{split}.txt").write_text("".join(lines))


def test_twenty_frames_of_three_classes(tmp_path: Path) -> None:
    write_camvid(tmp_path / "camvid", {"train": 45, "val": 3})
    arguments = ["--data", tmp_path / "camvid", "--write-dataset", tmp_path / "three"]
    done = run("finetune_three_classes.py", *arguments)
    assert done.returncode == 0, done.stderr
    train, val = (DataSource(tmp_path / "three").open(split) for split in ("train", "val"))
    assert (len(train), len(val), train.spec.class_names) == (20, 3, ("ground", "traffic", "scenery"))
    assert [int(train.read_image(index)[0, 0, 0]) for index in range(4)] == [0, 2, 4, 6]
    # Sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist, void.
    assert val.read_label(2)[0].tolist() == [2, 2, 2, 0, 0, 2, 2, 2, 1, 1, 1, 255]
    again = run("finetune_three_classes.py", *arguments)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "three exists; give another folder to write" in again.stderr
