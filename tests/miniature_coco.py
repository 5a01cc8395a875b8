"""A drawn miniature of COCO: colored disks, squares and triangles on noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CATEGORIES = [{"id": 7, "name": "disk"}, {"id": 3, "name": "square"}, {"id": 12, "name": "triangle"}]
_COLORS = {7: (220, 60, 50), 3: (60, 200, 70), 12: (70, 90, 230)}


def write_miniature(root: Path, train: int, val: int, size: int = 64) -> Path:
    """Write the splits in COCO's layout and return the folder."""
    (root / "annotations").mkdir(parents=True)
    for split, count, seed in (("train2017", train, 1), ("val2017", val, 2)):
        (root / split).mkdir()
        table = draw_split(root / split, count, np.random.default_rng(seed), size)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(table))
    return root


def draw_split(folder: Path, count: int, random: np.random.Generator, size: int) -> dict[str, Any]:
    """Draw images of one or two objects, and a few of none, and return their annotations."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        image = Image.fromarray(random.integers(90, 130, (size, size, 3)).astype(np.uint8))
        name = f"{number:06d}.png"
        images.append({"id": number, "file_name": name, "height": size, "width": size})
        for half in range(0 if number % 10 == 5 else int(random.integers(1, 3))):
            category = CATEGORIES[int(random.integers(3))]["id"]
            side = int(random.integers(size // 3, size // 2))
            left = half * size // 2 + int(random.integers(0, size // 2 - side + 1))
            top = int(random.integers(0, size - side))
            points = outline(category, left, top, side)
            ImageDraw.Draw(image).polygon(points, fill=_COLORS[category])
            annotations.append(
                {
                    "id": len(annotations) + 100,
                    "image_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "bbox": [left, top, side, side],
                    "area": side**2,
                    "segmentation": [[float(number) for point in points for number in point]],
                }
            )
        image.save(folder / name)
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def outline(category: int, left: int, top: int, side: int) -> list[tuple[float, float]]:
    if category == 3:
        return [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
    if category == 12:
        return [(left + side / 2, top), (left + side, top + side), (left, top + side)]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return [(left + side / 2 * (1 + np.cos(a)), top + side / 2 * (1 + np.sin(a))) for a in angles]
