"""Images and objects in COCO's layout: a folder of images and a JSON file of instances."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ccnet3d.config import parse_json
from ccnet3d.data import MOST_PIXELS, ClipRequest, coco_region
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.files import is_file
from ccnet3d.images import read_rgb
from ccnet3d.wording import count_of

__all__ = ["CocoCategory", "CocoImages", "ImageTarget", "open_coco", "quiet_coco"]

_MOST_BYTES = 2 << 30
"""Of an annotation file, which is read as a whole."""

_DOWNLOAD = (
    "get train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org, unpack them into one "
    "folder, and name it with --data"
)


class CocoCategory(NamedTuple):
    """A class of objects."""

    id: int
    """In the annotation file."""
    name: str


@dataclass(frozen=True)
class _Image:
    id: int
    file_name: str
    size: tuple[int, int]
    """Height and width."""


class ImageTarget(NamedTuple):
    """An image and its objects."""

    image: Tensor
    """uint8 ``[3, H, W]``."""
    target: dict[str, Tensor]
    """What torchvision's detectors learn from: ``boxes`` float32 ``[N, 4]`` (left, top, right, bottom), ``labels``
    int64 ``[N]`` from 1, ``masks`` uint8 ``[N, H, W]``."""


class CocoImages(Dataset[ImageTarget]):
    """The images of an annotation file, by the id of the image, with their objects.

    A request is an index with a random seed, which decides whether the image is mirrored. Crowd regions and objects
    without an area are no targets; :meth:`ground_truth` has the crowd regions, which are ignored in the evaluation.

    Args:
        folder: of the images; a file name that leads out of it is refused.
        table: the contents of the annotation file.
        flip: probability that an image is mirrored.

    Attributes:
        categories: the classes, by id; the label of an object is their position, from 1.
        warnings: lines about objects that are left out.
        fingerprint: a hash of the annotations.

    Raises:
        UserError: the file is not one of COCO instances.
    """

    def __init__(self, folder: Path, table: Mapping[str, Any], *, flip: float = 0.0) -> None:
        self.folder = folder
        self.flip = flip
        categories = [CocoCategory(_id(one, "category"), _text(one["name"])) for one in table["categories"]]
        self.categories = tuple(sorted(categories))
        _check_unique([one.id for one in categories], "categories")
        if double := [name for name, count in Counter(one.name for one in categories).items() if count > 1]:
            raise UserError(f"two categories have the name {double[0][:80]!r}")
        if not categories:
            raise UserError("it has no categories")
        images = [_image(one) for one in table["images"]]
        _check_unique([image.id for image in images], "images")
        self.images = sorted(images, key=lambda image: image.id)
        sizes = {image.id: image.size for image in images}
        self._label = {one.id: label for label, one in enumerate(self.categories, 1)}
        self._objects: dict[int, list[dict[str, Any]]] = {image.id: [] for image in images}
        without_region = 0
        for index, one in enumerate(table["annotations"], 1):  # COCOeval takes the id 0 for none, so ids count from 1
            found = _annotation(one, index, sizes, self._label)
            without_region += found is None
            if found is not None:
                self._objects[found["image_id"]].append(found)
        self.warnings = [f"{count_of(without_region, 'object')} without a region left out"] if without_region else []
        self.fingerprint = ""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, request: ClipRequest) -> ImageTarget:
        image, target = self.read(request.anchor)
        if np.random.default_rng(request.seed).random() < self.flip:
            left, top, right, bottom = target["boxes"].unbind(1)
            width = image.shape[2]
            boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
            target = {**target, "boxes": boxes, "masks": target["masks"].flip(2)}
            image = image.flip(2)
        return ImageTarget(image, target)

    def read(self, index: int) -> ImageTarget:
        """Return an image and its objects.

        Raises:
            UserError: the image cannot be read, has another size than the annotations say, or an invalid object.
        """
        image = self.images[index]
        boxes, labels, masks = [], [], []
        for one in self._objects[image.id]:
            box = None if one["iscrowd"] else _box_within(one["bbox"], image.size)
            region = _region(one, image) if box else None
            if region is not None:
                boxes.append(box)
                labels.append(self._label[one["category_id"]])
                masks.append(torch.from_numpy(_decode(region)))
        target = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.stack(masks) if masks else torch.zeros(0, *image.size, dtype=torch.uint8),
        }
        return ImageTarget(self.read_image(index), target)

    def read_image(self, index: int) -> Tensor:
        """Return an image, uint8 ``[3, H, W]``.

        Raises:
            UserError: it cannot be read, or has another size than the annotations say.
        """
        image = self.images[index]
        path = self.folder / image.file_name
        pixels = read_rgb(path)
        if pixels.shape[:2] != image.size:
            (height, width), (h, w) = image.size, pixels.shape[:2]
            raise UserError(f"{path} is {w}x{h}, and {width}x{height} in the annotations; fix one of the two")
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def keep(self, *, empty: bool) -> CocoImages:
        """Leave out the images without an object to learn from, unless ``empty``; return the images themselves."""
        if not empty:
            self.images = [
                image
                for image in self.images
                if any(not one["iscrowd"] and _box_within(one["bbox"], image.size) for one in self._objects[image.id])
            ]
        return self

    def check(self) -> None:
        """Check that all images exist and all regions can be drawn.

        Raises:
            FileProblemsError: some images are missing.
            UserError: a region is invalid.
        """
        missing = [path for image in self.images if not is_file(path := self.folder / image.file_name)]
        if missing:
            raise FileProblemsError([f"{path} is missing" for path in missing])
        for image in self.images:
            for one in self._objects[image.id]:
                _region(one, image)

    def ground_truth(self) -> Any:
        """Return the objects of all images as pycocotools' ``COCO``, with regions that are safe to decode.

        Raises:
            UserError: an object is invalid.
        """
        from pycocotools import mask

        annotations = []
        for image in self.images:
            for one in self._objects[image.id]:
                region = _region(one, image)
                if region is not None:
                    area = one["area"] if one["area"] is not None else float(mask.area(region))
                    annotations.append({**one, "segmentation": region, "area": area})
        return quiet_coco(
            {
                "images": [{"id": one.id, "height": one.size[0], "width": one.size[1]} for one in self.images],
                "categories": [one._asdict() for one in self.categories],
                "annotations": annotations,
            }
        )


def open_coco(folder: Path, annotations: Path, *, flip: float = 0.0) -> CocoImages:
    """Open images in COCO's layout.

    Args:
        folder: of the images.
        annotations: the JSON file of instances.
        flip: probability that an image is mirrored.

    Raises:
        UserError: one of the two is missing, or invalid.
    """
    for path, kind in ((folder, "image folder"), (annotations, "annotation file")):
        if not (path.is_dir() if path is folder else path.is_file()):
            raise UserError(f"there is no {kind} {path}; for COCO, {_DOWNLOAD}")
    try:
        import pycocotools  # noqa: F401 - said before anything is read
    except ImportError as error:
        raise UserError("instance segmentation needs pycocotools; run: pip install 'ccnet3d[coco]'") from error
    try:
        size = annotations.stat().st_size
        if size > _MOST_BYTES:
            raise UserError(f"{size} bytes, an annotation file may have {_MOST_BYTES}; split it")
        data = annotations.read_bytes()
        images = CocoImages(folder, parse_json(data), flip=flip)
    except OSError as error:
        raise UserError(f"cannot read the annotations {annotations}: {error.strerror}") from error
    except KeyError as error:
        raise UserError(f"{annotations} is not a file of COCO instances: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise UserError(f"{annotations} is not a valid file of COCO instances: {str(error)[:200]}") from error
    images.fingerprint = hashlib.sha256(data).hexdigest()
    return images


def quiet_coco(table: Mapping[str, Any]) -> Any:
    """Return pycocotools' ``COCO`` of a table; it prints what it does, which is dropped."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = table
        coco.createIndex()
    return coco


def _region(one: Mapping[str, Any], image: _Image) -> dict[str, Any] | None:
    try:
        return coco_region(one["segmentation"], image.size)
    except UserError as error:
        raise UserError(f"annotation {one['id']}, of the image {image.file_name[:80]!r}: {error}") from error


def _decode(region: Mapping[str, Any]) -> np.ndarray:
    from pycocotools import mask

    pixels: np.ndarray = mask.decode(region)
    return np.ascontiguousarray(pixels)


def _id(one: Mapping[str, Any], kind: str) -> int:
    if type(one["id"]) is not int or not 0 <= one["id"] < 1 << 62:
        raise UserError(f"the id of a {kind} must be a whole number, got {str(one['id'])[:80]!r}")
    return one["id"]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"expected a name, got {str(value)[:80]!r}")
    return value


def _check_unique(ids: list[int], kind: str) -> None:
    (most_common, count), *_ = [*Counter(ids).most_common(1), (0, 1)]
    if count > 1:
        raise UserError(f"two {kind} have the id {most_common}")


def _image(one: Mapping[str, Any]) -> _Image:
    name, size = _text(one["file_name"]), (one["height"], one["width"])
    if not all(type(side) is int and side > 0 for side in size) or math.prod(size) > MOST_PIXELS:
        raise UserError(f"the image {name[:80]!r} has {str(size[1])[:20]}x{str(size[0])[:20]} pixels")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts) or "\0" in name:
        raise UserError(f"the file name {name[:80]!r} leads out of the image folder")
    return _Image(_id(one, "image"), name, size)


def _annotation(
    one: Mapping[str, Any], index: int, sizes: Mapping[int, tuple[int, int]], labels: Mapping[int, int]
) -> dict[str, Any] | None:
    """Return the checked values of an annotation, None for one without a region. The region is checked when it is read.

    Raises:
        UserError: an invalid value.
    """
    where = f"annotation {index}"
    if one["image_id"] not in sizes:
        raise UserError(f"{where} is of the image {str(one['image_id'])[:80]}, which the file does not list")
    if one["category_id"] not in labels:
        raise UserError(f"{where} has the category {str(one['category_id'])[:80]}, which the file does not list")
    if one.get("iscrowd", 0) not in (0, 1):
        raise UserError(f"{where} has iscrowd {str(one['iscrowd'])[:80]}, expected 0 or 1")
    segmentation, area = one.get("segmentation"), one.get("area")
    if not segmentation or (isinstance(segmentation, list) and all(len(polygon) < 6 for polygon in segmentation)):
        return None
    box = [float(number) for number in one["bbox"]]
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise UserError(f"{where} has the bbox {str(one['bbox'])[:80]}, expected left, top, width and height")
    if area is not None and not (isinstance(area, int | float) and 0 <= area < math.inf):
        raise UserError(f"{where} has the area {str(area)[:80]}")
    return {
        "id": index,
        "image_id": one["image_id"],
        "category_id": one["category_id"],
        "iscrowd": int(one.get("iscrowd", 0)),
        "segmentation": segmentation,
        "bbox": box,
        "area": area,
    }


def _box_within(bbox: list[float], size: tuple[int, int]) -> list[float] | None:
    """Return left, top, right and bottom within the image, None for a box of less than a pixel."""
    left, top, width, height = bbox
    right, bottom = min(left + width, size[1]), min(top + height, size[0])
    left, top = max(left, 0.0), max(top, 0.0)
    return [left, top, right, bottom] if right - left >= 1 and bottom - top >= 1 else None
