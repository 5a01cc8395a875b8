"""Miniatures of the public datasets that the package describes: their files, and what their labels mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from data.people_labels import write_image, write_json

Size = tuple[int, int]


def stripes(values: list[int], size: Size) -> np.ndarray:
    """Return a label with a row of equal height for each value."""
    rows = np.repeat(values, -(-size[0] // len(values)))[: size[0]]
    return np.tile(np.array(rows, np.uint8)[:, None], (1, size[1]))


class Miniature:
    """One dataset.

    Args:
        root: the data folder, which is filled.
        size: of the frames.
    """

    def __init__(self, root: Path, size: Size = (6, 8)) -> None:
        self.root = root
        self.size = size

    def write(self, name: str) -> list[int]:
        """Write the files of a dataset and return the class ids, from top to bottom, of every label."""
        stored, ids = STORED[name]
        for image, label, split_sized in FILES[name]:
            size = (self.size[0] + 2, self.size[1]) if split_sized else self.size
            write_image(self.root / image, size=size)
            pixels = stripes(stored, size)
            if name == "kitti_step":  # class, and instance in the other channels
                pixels = np.stack([pixels, np.full_like(pixels, 3), np.full_like(pixels, 77)], -1)
            write_image(self.root / label, pixels)
        for path, text in LISTS.get(name, {}).items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        if name == "cityscapes":
            for label in [*(self.root / "gtFine").rglob("*_labelIds.png")]:
                base = label.name.removesuffix("labelIds.png")
                write_image(label.with_name(f"{base}color.png"), size=self.size)
                write_json(label.with_name(f"{base}polygons.json"), {})
        return ids


STORED = {
    "cityscapes": ([7, 11, 26, 33, 3, 0], [0, 2, 13, 18, 255, 255]),
    "kitti_step": ([0, 18, 255], [0, 18, 255]),
    "ade20k": ([0, 1, 150], [255, 0, 149]),
    "lip": ([0, 5, 19], [0, 5, 19]),
    "vspw": ([0, 1, 124, 255], [255, 0, 123, 255]),
    "voc12": ([0, 20, 255], [0, 20, 255]),
}
"""Values in the labels of each dataset, and their class ids."""


def _cityscapes(images: str = "leftImg8bit") -> Iterator[tuple[str, str, bool]]:
    for split, name in [
        ("train", "aachen_000000_000019"),
        ("train", "aachen_000001_000019"),
        ("train", "hanover_000000_000164"),
        ("train", "hanover_000000_000381"),
        ("val", "frankfurt_000001_000019"),
    ]:
        place = f"{split}/{name.split('_')[0]}/{name}"
        yield f"{images}/{place}_leftImg8bit.png", f"gtFine/{place}_gtFine_labelIds.png", False


KITTI_TRAIN = (0, 1, 3, 4, 5, 9, 11, 12, 15, 17, 19, 20)
LIP = "TrainVal_"

FILES: dict[str, list[tuple[str, str, bool]]] = {
    "cityscapes": [*_cityscapes()],
    "kitti_step": [
        (f"training/image_02/{n:04}/{frame:06}.png", f"panoptic_maps/{split}/{n:04}/{frame:06}.png", False)
        for split, numbers in (("train", KITTI_TRAIN), ("val", (2, 6, 7, 8, 10, 13, 14, 16, 18)))
        for n in numbers
        for frame in (range(2) if n < 2 else range(1))
    ],
    "ade20k": [
        (f"images/{split}/ADE_{short}_{n:08}.jpg", f"annotations/{split}/ADE_{short}_{n:08}.png", n == 2)
        for split, short in (("training", "train"), ("validation", "val"))
        for n in (1, 2)
    ],
    "lip": [
        (
            f"TrainVal_images/{split}_images/{name}.jpg",
            f"TrainVal_parsing_annotations/{split}_segmentations/{name}.png",
            big,
        )
        for split in ("train", "val")
        for name, big in (("77_471474", False), ("77_50001", True))
    ],
    "vspw": [
        (f"data/{video}/origin/{n:08}.jpg", f"data/{video}/mask/{n:08}.png", False)
        for video in ("127_-hIVCYO4C90", "0_wHvSJuZAtzA", "1001_5z1_UcFAIh8")
        for n in (273, 274)
    ],
    "voc12": [(f"JPEGImages/2007_{n:06}.jpg", f"SegmentationClass/2007_{n:06}.png", n == 39) for n in (32, 33, 39, 61)],
}
"""Image, label, and whether this image has another size than others."""

LISTS = {
    "vspw": {"train.txt": "127_-hIVCYO4C90\n0_wHvSJuZAtzA\n", "val.txt": "1001_5z1_UcFAIh8\n"},
    "voc12": {
        "ImageSets/Segmentation/train.txt": "2007_000032\n2007_000039\n2007_000061\n",
        "ImageSets/Segmentation/val.txt": "2007_000033\n",
    },
}

SEQUENCES = {
    "cityscapes": (["aachen_000000 19", "aachen_000001 19", "hanover_000000 164", "hanover_000000 381"], 4),
    "kitti_step": (["0000 0", "0000 1", "0001 0", "0001 1", *(f"{n:04} 0" for n in KITTI_TRAIN[2:])], 12),
    "ade20k": (["ADE_train_00000001 1", "ADE_train_00000002 2"], 2),
    "lip": (["77_471474 471474", "77_50001 50001"], 2),
    "vspw": (["0_wHvSJuZAtzA 273", "0_wHvSJuZAtzA 274", "127_-hIVCYO4C90 273", "127_-hIVCYO4C90 274"], 2),
    "voc12": (["2007_000032 32", "2007_000039 39", "2007_000061 61"], 3),
}
"""Sequence and number of each frame of train, and the number of segments."""
