"""Detections of image files: a COCO annotation file, and pictures of them."""

from __future__ import annotations

import colorsys
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path, write_atomically
from ccnet3d.images import find_images, read_rgb
from ccnet3d.instances.coco_scores import coco_results, detect
from ccnet3d.instances.detector_file import DetectorInfo
from ccnet3d.journal import claimed_folder

__all__ = ["DETECTIONS_NAME", "draw_detections", "segment_images"]

DETECTIONS_NAME = "detections.json"
_OVERLAYS = "overlays"


def segment_images(
    model: MaskRCNN,
    info: DetectorInfo,
    source: Path,
    out: Path,
    *,
    threshold: float = 0.5,
    overlays: bool = True,
    precision: torch.dtype = torch.float32,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> int:
    """Segment the objects of an image, or of all images in a folder; write them and return their number.

    ``detections.json`` is a COCO annotation file, with the score of each object; ``overlays`` has a PNG for each image.

    Args:
        model: in evaluation mode.
        info: its description.
        source: an image, or a folder of images; folders in it are read too.
        out: folder that is written to.
        threshold: the lowest score of an object.
        overlays: whether pictures are written.
        precision: of autocast; float32 for none.
        progress: shows progress over the indices of the images.

    Raises:
        UserError: there is no image, one cannot be read, or a file of others would be replaced.
    """
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"the output folder {out} is in the folder of images {source}; give another one")
    root, paths = _find(source)
    pictures = _picture_names([path.relative_to(root) for path in paths]) if overlays else []
    table: dict[str, Any] = {
        "info": {"description": "Instance segmentation by ccnet3d-instances"},
        "categories": [
            {"id": id_, "name": name} for id_, name in zip(info.category_ids, info.class_names, strict=True)
        ],
        "images": [],
        "annotations": [],
    }
    with claimed_folder(out, (DETECTIONS_NAME, *pictures)):
        for index in progress(range(len(paths))):
            image = torch.from_numpy(read_rgb(paths[index])).permute(2, 0, 1)
            found = detect(model, image, precision)
            found = {key: value[found["scores"] >= threshold] for key, value in found.items()}
            name, (height, width) = paths[index].relative_to(root).as_posix(), image.shape[1:]
            table["images"].append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for result, mask in zip(coco_results(found, index + 1, info.category_ids), found["masks"], strict=True):
                number = len(table["annotations"]) + 1
                table["annotations"].append({"id": number, **result, "area": int(mask.sum()), "iscrowd": 0})
            if overlays:
                picture = draw_detections(image, found, info.class_names)
                with atomic_path(out / pictures[index]) as temporary:
                    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(temporary, "PNG")
        write_atomically(out / DETECTIONS_NAME, json.dumps(table).encode())
    return len(table["annotations"])


def draw_detections(image: Tensor, found: dict[str, Tensor], class_names: Sequence[str]) -> Tensor:
    """Return an image with its objects: masks, boxes, names and scores, each object in a color of its own.

    >>> image, mask = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.ones(1, 20, 30, dtype=torch.bool)
    >>> found = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1]), "scores": torch.ones(1)}
    >>> draw_detections(image, {**found, "masks": mask}, ["person"]).shape
    torch.Size([3, 20, 30])

    Args:
        image: uint8 ``[3, H, W]``.
        found: of :func:`ccnet3d.instances.detect`.
        class_names: by label, from 1.
    """
    if not len(found["scores"]):
        return image
    colors = [_color(index) for index in range(len(found["scores"]))]
    texts = [
        f"{class_names[label - 1]} {score:.2f}"
        for label, score in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    painted = draw_segmentation_masks(image, found["masks"], alpha=0.5, colors=colors)
    drawn: Tensor = draw_bounding_boxes(painted, found["boxes"], labels=texts, colors=colors, width=2)
    return drawn


def _color(index: int) -> tuple[int, int, int]:
    """Return a bright color; those of neighboring numbers are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618 % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _find(source: Path) -> tuple[Path, list[Path]]:
    """Return the images of a source, and the folder to which their names are relative."""
    if source.is_dir():
        if paths := find_images(source):
            return source, paths
        raise UserError(f"the folder {source} contains no images")
    if source.is_file():
        return source.parent, [source]
    raise UserError(f"there is no image or folder {source}")


def _picture_names(names: Sequence[Path]) -> list[str]:
    """Return the names of the overlays; ``a.jpg`` beside ``a.png`` keeps its extension in that of its overlay."""
    stems = Counter(name.with_suffix("") for name in names)
    return [
        f"{_OVERLAYS}/{(name.with_suffix('') if stems[name.with_suffix('')] == 1 else name).as_posix()}.png"
        for name in names
    ]
