from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CAMVID_SPEC
from PIL import Image

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import Augmentation, ClipRequest, ClipSample, DataSource, read_dataset_spec
from ccnet3d.data.clips import clip_at


def write_common_camvid(root: Path) -> None:
    """The 480x360 layout in miniature: ids 0 to 11, lists with image and label."""
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(parents=True)
    lines = []
    for number in (30, 60, 90, 2040):
        name = f"0016E5_{number:05d}.png"
        Image.fromarray(np.full((6, 8, 3), number % 256, np.uint8)).save(root / "train" / name)
        label = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
        Image.fromarray(label).save(root / "trainannot" / name)
        lines.append(f"/SegNet/CamVid/train/{name} /SegNet/CamVid/trainannot/{name}\n")
    (root / "train.txt").write_text("".join(lines))


def test_common_camvid_layout(tmp_path: Path) -> None:
    write_common_camvid(tmp_path)
    dataset = DataSource(tmp_path, CAMVID_SPEC).open("train")
    assert [(f.sequence, f.number) for f in dataset.frames] == [("0016E5", n) for n in (30, 60, 90, 2040)]
    assert dataset.segments == [range(0, 3), range(3, 4)]  # the gap of 1950 frames
    expected = torch.arange(48).view(6, 8) % 12
    assert torch.equal(dataset.read_label(0), expected.where(expected != 11, IGNORE_INDEX))


def test_official_camvid_layout_merges_32_colors(tmp_path: Path) -> None:
    spec = read_dataset_spec(CAMVID_SPEC)
    images, labels = tmp_path / "701_StillsRaw_full", tmp_path / "LabeledApproved_full"
    images.mkdir()
    labels.mkdir()
    names = list(spec.source_colors)
    colors = np.array([spec.source_colors[name] for name in names], np.uint8).reshape(4, 8, 3)
    Image.fromarray(colors).save(images / "0006R0_f00930.png")
    Image.fromarray(colors).save(labels / "0006R0_f00930_L.png")
    dataset = DataSource(tmp_path, CAMVID_SPEC).open("train")
    assert [(f.sequence, f.number) for f in dataset.frames] == [("0006R0", 930)]
    (missing,) = dataset.left_out
    assert missing == ("missing of the 367 listed frames: 366 (0001TP_006690, 0001TP_006720, 0001TP_006750, ...)")
    by_name = dict(zip(names, dataset.read_label(0).flatten().tolist(), strict=True))
    merged = {
        "Sky": ["Sky"], "Building": ["Building", "Wall"], "Pole": ["Column_Pole"],
        "Road": ["Road", "LaneMkgsDriv", "LaneMkgsNonDriv", "RoadShoulder"], "Pavement": ["Sidewalk", "ParkingBlock"],
        "Tree": ["Tree", "VegetationMisc"], "SignSymbol": ["SignSymbol", "Misc_Text", "TrafficLight"],
        "Fence": ["Fence"], "Car": ["Car", "SUVPickupTruck", "Truck_Bus"], "Pedestrian": ["Pedestrian"],
        "Bicyclist": ["Bicyclist", "MotorcycleScooter"],
    }  # fmt: skip
    expected = dict.fromkeys(names, IGNORE_INDEX)
    for class_id, name in enumerate(spec.class_names):
        expected.update(dict.fromkeys(merged[name], class_id))
    assert by_name == expected
    Image.fromarray(np.full((4, 8, 3), 1, np.uint8)).save(labels / "0006R0_f00930_L.png")
    with pytest.raises(ValueError, match=r"has the color \(1, 1, 1\)"):
        dataset.read_label(0)


def test_labels_in_the_classes_own_colors(yard: Path) -> None:
    """Color labels of a user's dataset only need the layout to declare them; other colors are void by name."""
    path = yard / "dataset.toml"
    by_id = DataSource(yard).open("val")
    expected = [by_id.read_label(i) for i in range(len(by_id))]
    palette = np.array([*by_id.spec.palette, (9, 9, 9)], np.uint8)
    for frame, label in zip(by_id.frames, expected, strict=True):
        Image.fromarray(palette[label.clamp(max=3).numpy()]).save(frame.label)
    path.write_text(path.read_text() + '[[layouts]]\nlabel_encoding = "color"\n')
    with pytest.raises(ValueError, match=r"has the color \(9, 9, 9\)"):
        DataSource(yard).open("val").read_label(0)
    colors = {c.name: list(c.color) for c in by_id.spec.classes} | {"nothing": [9, 9, 9]}
    path.write_text(path.read_text() + "[source_colors]\n" + "".join(f"{k} = {v}\n" for k, v in colors.items()))
    by_color = DataSource(yard).open("val")
    for index, label in enumerate(expected):
        assert torch.equal(by_color.read_label(index), label)


def test_padding_is_ignored(yard: Path) -> None:
    dataset = DataSource(yard).open("val")
    sample = dataset.read_clip(clip_at(dataset.segments[0], 0, 5))
    assert sample["clip"].shape == (5, 3, 48, 64)
    assert sample["clip"].dtype == torch.uint8
    for t in range(3):
        assert torch.equal(sample["labels"][t], dataset.read_label(t))
    assert (sample["labels"][3:] == IGNORE_INDEX).all()
    assert torch.equal(sample["clip"][4], sample["clip"][2])


def test_an_item_contains_its_anchor(yard: Path) -> None:
    dataset = DataSource(yard).open("train")
    for offset in range(3):
        sample = dataset[ClipRequest(anchor=3, offset=offset, length=3, seed=0)]
        assert torch.equal(sample["clip"][offset], dataset.read_image(3))
        assert torch.equal(sample["labels"][offset], dataset.read_label(3))


def test_one_draw_for_a_whole_clip(yard: Path) -> None:
    """Five copies of one frame remain equal: crop, scale, flip and color are drawn once."""
    augmentation = Augmentation((32, 40), brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    dataset = DataSource(yard).open("train", transform=augmentation)
    plain = DataSource(yard).open("train").read_clip(clip_at(range(0, 1), 0, 5))
    plain["labels"][1:] = plain["labels"][0]
    assert dataset.transform is not None
    results = [dataset.transform(plain, seed) for seed in range(8)]
    for sample in results:
        assert sample["clip"].shape == (5, 3, 32, 40)
        assert sample["labels"].shape == (5, 32, 40)
        assert (sample["clip"] == sample["clip"][:1]).all()
        assert (sample["labels"] == sample["labels"][:1]).all()
        assert set(sample["labels"].unique().tolist()) <= {0, 1, 2, IGNORE_INDEX}
    assert not torch.equal(results[0]["clip"], results[1]["clip"])
    again = dataset.transform(plain, 3)
    assert torch.equal(again["clip"], results[3]["clip"])


def test_crops_around_drawn_classes() -> None:
    """One pixel in a corner is class 2: few crops of a tenth of the area contain it, but a third of those around a
    drawn class do, plus a few by chance."""
    labels = torch.zeros(1, 60, 80, dtype=torch.long)
    labels[0, 20:40, 20:60] = 1
    labels[0, :, -1] = IGNORE_INDEX
    labels[0, 59, 78] = 2
    sample: ClipSample = {"clip": torch.zeros(1, 3, 60, 80, dtype=torch.uint8), "labels": labels}
    shares = []
    for class_crops in (0.0, 1.0):
        # Not reduced in size, so that nearest-neighbor resizing cannot drop the one pixel.
        transform = Augmentation((60, 80), crop_area=(0.1, 0.1), crop_aspect=(4 / 3, 4 / 3), class_crops=class_crops)
        found = [bool((transform(sample, seed)["labels"] == 2).any()) for seed in range(300)]
        shares.append(sum(found) / len(found))
    assert shares[0] < 0.05
    assert 0.25 < shares[1] < 0.45
    sample["labels"][:] = IGNORE_INDEX  # nothing to draw from
    assert (transform(sample, 0)["labels"] == IGNORE_INDEX).all()


def test_blur_removes_fine_texture(yard: Path) -> None:
    sample = DataSource(yard).open("train").read_clip(clip_at(range(0, 1), 0, 1))
    plain, blurred = Augmentation((48, 64)), Augmentation((48, 64), blur=1.0)
    rough = [transform(sample, 4)["clip"].float().diff(dim=-1).abs().mean() for transform in (plain, blurred)]
    assert rough[1] < 0.7 * rough[0]


def test_clips_from_frames_at_a_higher_resolution(yard: Path, tmp_path: Path) -> None:
    """Frames of one sequence at twice the size, except one frame: clips come from there with the given probability if
    all of their frames exist."""
    double = tmp_path / "double"
    for path in [*yard.rglob("walk/*.png"), yard / "dataset.toml"]:
        target = double / path.relative_to(yard)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.resize((128, 96), Image.Resampling.NEAREST).save(target)
        else:
            target.write_text(path.read_text().replace('"walk", "yard_2"', '"walk"'))
    (double / "labels" / "walk" / "0005.png").unlink()
    dataset = DataSource(yard, high_resolution=double).open("train", high_resolution_share=0.5)
    plain = DataSource(yard).open("train")

    def request(anchor: int, length: int) -> list[bool]:
        """Whether each of 100 draws came from the enlarged frames, whose content equals that of the others."""
        enlarged = []
        for seed in range(100):
            clip_request = ClipRequest(anchor, 0, length, seed)
            sample, expected = dataset[clip_request], plain[clip_request]
            scale = sample["clip"].shape[-1] // 64
            assert torch.equal(sample["clip"][..., ::scale, ::scale], expected["clip"])
            assert torch.equal(sample["labels"][..., ::scale, ::scale], expected["labels"])
            enlarged.append(scale == 2)
        return enlarged

    assert 35 <= sum(request(1, 2)) <= 65
    assert sum(request(3, 2)) == 0  # frames 4 and 5
    assert sum(request(4, 1)) == 0
    assert sum(request(8, 2)) == 0  # of the other sequence
    assert sum(request(5, 2)) > 0


def test_labels_follow_the_image(yard: Path) -> None:
    """A frame painted with its own label matches it after crop, scale and flip, except at the borders of areas."""
    dataset = DataSource(yard).open("train")
    sample = dataset.read_clip(clip_at(range(0, 3), 0, 3))
    sample["clip"] = (sample["labels"] % 255 * 80).to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()
    transform = Augmentation((64, 80), crop_area=(0.3, 1.0))
    for seed in range(6):
        result = transform(sample, seed)
        same = result["clip"][:, 0] == (result["labels"] % 255 * 80).to(torch.uint8)
        assert same.float().mean() > 0.85


def test_augmentation_leaves_the_global_random_state(yard: Path) -> None:
    dataset = DataSource(yard).open("train", transform=Augmentation((16, 16)))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[ClipRequest(0, 0, 2, 9)]
    assert torch.equal(torch.rand(3), expected)


def test_bad_files(yard: Path) -> None:
    dataset = DataSource(yard).open("train")
    path = dataset.frames[0].label
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"has the label 7, which is neither a class id \(0 to 2\) nor in void_ids"):
        dataset.read_label(0)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="is a color image"):
        dataset.read_label(0)
    path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match="cannot read the image"):
        dataset.read_label(0)
    Image.fromarray(np.zeros((40, 64), np.uint8)).save(path)
    with pytest.raises(ValueError, match="differ in size"):
        dataset.read_clip(clip_at(range(0, 3), 0, 3))


@pytest.mark.real_data
def test_real_camvid(camvid: Path) -> None:
    train = DataSource(camvid, CAMVID_SPEC).open("train")
    val = DataSource(camvid, CAMVID_SPEC).open("val")
    assert (len(train), len(val)) == (367, 101)
    # 0001TP, 0006R0, and 0016E5 in three segments: val is a part of it, and there is one more gap.
    assert [len(segment) for segment in train.segments] == [62, 101, 68, 120, 16]
    assert [len(segment) for segment in val.segments] == [101]
    sample = val.read_clip(val.covering_clips(5)[-1])
    assert sample["clip"].shape == (5, 3, 360, 480)
    assert (sample["labels"][:-1] == IGNORE_INDEX).all()  # 101 = 20 * 5 + 1: only the last frame is new
    assert (sample["labels"][-1] != IGNORE_INDEX).any()
