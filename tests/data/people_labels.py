"""Miniatures of the labels that people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = 'classes = [{name="ground",color=[90,140,60]}, {name="box",color=[200,40,40]}, {name="rail",color=[9,9,99]}]'


def write_image(path: Path, pixels: np.ndarray | None = None, size: tuple[int, int] = (6, 8)) -> Path:
    """Write an image, of noise if there are no pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        seed = sum(map(ord, path.as_posix()[-20:]))
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def coco(names: list[str], annotations: dict[str, list[tuple[str, Any]]], size: tuple[int, int]) -> dict[str, Any]:
    """Return COCO instances with ids that are no positions; ``annotations``: (category, segmentation) by file name."""
    ids = {name: 10 + 7 * place for place, name in enumerate(names)}
    images = {name: 1000 + 3 * place for place, name in enumerate(annotations)}
    found = [(images[file], ids[name], shape) for file, shapes in annotations.items() for name, shape in shapes]
    return {
        "categories": [{"id": id_, "name": name} for name, id_ in ids.items()],
        "images": [{"id": id_, "file_name": name, "height": size[0], "width": size[1]} for name, id_ in images.items()],
        "annotations": [
            {"id": place, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": 0}
            for place, (image, category, shape) in enumerate(found, 1)
        ],
    }


def cvat(images: dict[str, str], labels: list[str], size: tuple[int, int]) -> str:
    """Return CVAT for images 1.1; ``images``: XML of the shapes by file name."""
    declared = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in labels)
    body = "".join(
        f'<image id="{place}" name="{name}" width="{size[1]}" height="{size[0]}">{shapes}</image>'
        for place, (name, shapes) in enumerate(images.items())
    )
    meta = f"<version>1.1</version><meta><task><labels>{declared}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{body}</annotations>'


def labelme(shapes: list[dict[str, Any]], size: tuple[int, int] | None, name: str = "x.jpg") -> dict[str, Any]:
    height, width = size or (None, None)
    return {"version": "5.4.1", "shapes": shapes, "imagePath": name, "imageHeight": height, "imageWidth": width}
