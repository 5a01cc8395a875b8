"""Annotation files of COCO, CVAT, LabelMe and Cityscapes as shapes with names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

from ccnet3d.config import parse_json
from ccnet3d.data.shapes import MOST_PIXELS, Annotated, Shape, check_points
from ccnet3d.errors import UserError

__all__ = ["annotation_suffix", "read_annotations", "read_categories"]

_MOST_BYTES = 2 << 30
"""Of an annotation file, which is read as a whole."""

_ELLIPSE_POINTS = 72


def annotation_suffix(encoding: str) -> str:
    """Return the extension of the annotation files of an encoding."""
    return ".xml" if encoding == "cvat" else ".json"


def read_annotations(path: Path, encoding: str) -> dict[str, Annotated]:
    """Return the annotated images of a file, by their name in it.

    Args:
        path: the file.
        encoding: ``coco``, ``cvat``, ``labelme`` or ``cityscapes``.

    Raises:
        UserError: it cannot be read, or is not of that kind.
    """
    return _read(path, encoding)[0]


def read_categories(path: Path, encoding: str) -> tuple[str, ...]:
    """Return the names of the classes that a file declares, used or not, in its order.

    Raises:
        UserError: as :func:`read_annotations`.
    """
    return _read(path, encoding)[1]


_Content = tuple[dict[str, Annotated], tuple[str, ...]]


def _read(path: Path, encoding: str) -> _Content:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read the annotations {path}: {error.strerror}") from error
    if status.st_size > _MOST_BYTES:
        raise UserError(f"{path} has {status.st_size} bytes; an annotation file may have {_MOST_BYTES}, split it")
    # A file with the labels of many frames is parsed once; one for each frame is not worth keeping.
    if encoding in ("labelme", "cityscapes"):
        return _parse(path, encoding)
    return _parse_once(path, encoding, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _parse_once(path: Path, encoding: str, _size: int, _modified: int) -> _Content:
    return _parse(path, encoding)


def _parse(path: Path, encoding: str) -> _Content:
    kind = {"coco": "COCO instances", "cvat": "CVAT for images", "labelme": "LabelMe", "cityscapes": "Cityscapes"}
    with _reasons(path, kind[encoding]):
        if encoding == "cvat":
            return _CvatParser().parse(path)
        table = parse_json(path.read_bytes())
        if encoding == "coco":
            return _coco(table)
        annotated = (_labelme if encoding == "labelme" else _cityscapes)(table)
        return {annotated.name: annotated}, tuple(dict.fromkeys(shape.name for shape in annotated.shapes))


@contextmanager
def _reasons(path: Path, kind: str) -> Iterator[None]:
    """Raise what a file of another form causes as a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read the annotations {path}: {error.strerror}") from error
    except KeyError as error:
        raise UserError(f"{path} is not a {kind} file: it lacks {error}") from error
    except (UserError, TypeError, ValueError, AttributeError, LookupError, OverflowError, expat.ExpatError) as error:
        raise UserError(f"{path} is not a valid {kind} file: {str(error)[:200]}") from error


def _size(height: Any, width: Any) -> tuple[int, int]:
    size = int(height), int(width)
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise UserError(f"an image has {size[1]}x{size[0]} pixels; expected 1 to {MOST_PIXELS}")
    return size


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"expected a name, got {str(value)[:80]!r}")
    return value


def _coco(table: Mapping[str, Any]) -> _Content:
    names = {one["id"]: _text(one["name"]) for one in table["categories"]}
    shapes: dict[Any, list[Shape]] = {one["id"]: [] for one in table["images"]}
    for one in table["annotations"]:
        if one["image_id"] not in shapes:
            raise UserError(f"an annotation is of the image {one['image_id']}, which the file does not list")
        if one["category_id"] not in names:
            raise UserError(f"an annotation has the category {one['category_id']}, which the file does not list")
        kind = "coco" if one.get("segmentation") else "box"  # a box alone is no region
        shapes[one["image_id"]].append(Shape(names[one["category_id"]], kind, one.get("segmentation")))
    images: dict[str, Annotated] = {}
    for one in table["images"]:
        name = _text(one["file_name"])
        if name in images:
            raise UserError(f"two images have the file_name {name!r}")
        images[name] = Annotated(name, _size(one["height"], one["width"]), tuple(shapes[one["id"]]), True)
    return images, tuple(dict.fromkeys(names.values()))


def _labelme(table: Mapping[str, Any]) -> Annotated:
    height, width = table.get("imageHeight"), table.get("imageWidth")
    shapes = []
    for one in table["shapes"]:
        kind, data = one.get("shape_type") or "polygon", one["points"]
        if kind == "mask":
            (left, top), _ = check_points(data, least=2)[:2]
            kind, data = "png", (round(left), round(top), one["mask"])
        shapes.append(Shape(_text(one["label"]), kind, data))
    name = _text(table.get("imagePath") or "image")
    return Annotated(name, _size(height, width) if height and width else None, tuple(shapes))


def _cityscapes(table: Mapping[str, Any]) -> Annotated:
    size = _size(table["imgHeight"], table["imgWidth"])
    shapes = [
        Shape(_text(one["label"]), "polygon", one["polygon"]) for one in table["objects"] if not one.get("deleted")
    ]
    return Annotated("image", size, tuple(shapes))


class _CvatParser:
    """Reads CVAT for images 1.1. Without a document type there are no entities, and so none that expand."""

    def __init__(self) -> None:
        self.images: dict[str, Annotated] = {}
        self.names: dict[str, None] = {}
        self._path: list[str] = []
        self._size = (1, 1)
        self._name = ""
        self._shapes: list[tuple[int, Shape]] = []
        self._label_name: list[str] | None = None

    def parse(self, path: Path) -> _Content:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse_document_type
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        with path.open("rb") as file:
            parser.ParseFile(file)
        return self.images, tuple(self.names)

    def _refuse_document_type(self, *_: object) -> None:
        raise UserError("it has a document type (DOCTYPE), which annotations do not need; remove it")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) == 1 and tag != "annotations":
            raise UserError(f"its root element is <{tag[:80]}>, expected <annotations>")
        if self._path[1:] == ["track"]:
            raise UserError("it has tracks; export the task as CVAT for images 1.1")
        if self._path[1:] == ["image"]:
            self._name = _text(attributes["name"])
            self._size = _size(attributes["height"], attributes["width"])
            self._shapes = []
        elif self._path[1:-1] == ["image"] and "label" in attributes:
            label = _text(attributes["label"])
            self.names.setdefault(label)
            self._shapes.append((int(attributes.get("z_order", 0)), _cvat_shape(tag, label, attributes)))
        elif self._path[-3:] == ["labels", "label", "name"]:
            self._label_name = []

    def _characters(self, text: str) -> None:
        if self._label_name is not None:
            self._label_name.append(text)

    def _end(self, tag: str) -> None:  # noqa: ARG002
        if self._label_name is not None:
            self.names.setdefault("".join(self._label_name).strip())
            self._label_name = None
        if self._path[1:] == ["image"]:
            if self._name in self.images:
                raise UserError(f"two images have the name {self._name!r}")
            self._shapes.sort(key=lambda one: one[0])  # stable: equal z_order keeps the order of the file
            self.images[self._name] = Annotated(self._name, self._size, tuple(shape for _, shape in self._shapes))
        self._path.pop()


def _cvat_shape(tag: str, label: str, attributes: Mapping[str, str]) -> Shape:
    if tag == "polygon":
        points = [float(number) for pair in attributes["points"].split(";") for number in pair.split(",")]
        return Shape(label, "coco", [points])
    if tag == "box":
        left, top, right, bottom = (float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return Shape(label, "coco", [_turned(corners, attributes)])
    if tag == "ellipse":
        x, y, rx, ry = (float(attributes[key]) for key in ("cx", "cy", "rx", "ry"))
        angles = [2 * math.pi * index / _ELLIPSE_POINTS for index in range(_ELLIPSE_POINTS)]
        return Shape(
            label, "coco", [_turned([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles], attributes)]
        )
    if tag == "mask":
        left, top, width = (int(float(attributes[key])) for key in ("left", "top", "width"))
        return Shape(label, "rows", (left, top, width, [int(count) for count in attributes["rle"].split(",")]))
    return Shape(label, tag, None)


def _turned(points: list[tuple[float, float]], attributes: Mapping[str, str]) -> list[float]:
    """Return x, y, x, y, ... of points turned clockwise around their center by CVAT's ``rotation`` in degrees."""
    angle = math.radians(float(attributes.get("rotation", 0)))
    if not angle:
        return [number for point in points for number in point]
    x0, y0 = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    cos, sin = math.cos(angle), math.sin(angle)
    return [
        number
        for x, y in points
        for number in (x0 + cos * (x - x0) - sin * (y - y0), y0 + sin * (x - x0) + cos * (y - y0))
    ]
