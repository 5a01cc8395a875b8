"""Shapes of annotation tools, drawn as class ids.

Each kind is drawn by the library that defines it: COCO's and CVAT's shapes by pycocotools, whose polygons have their
corners between pixels, and those of LabelMe and Cityscapes by Pillow, whose polygons have them on pixels.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ccnet3d.errors import UserError

__all__ = ["MOST_PIXELS", "Annotated", "Shape", "check_points", "coco_region", "draw_shapes"]

MOST_PIXELS = 178_956_970
"""Of a label: as many as an image may have."""

_LONGEST_OUTLINE = 1 << 24
"""Pixels; pycocotools allocates memory for each pixel of an outline, and counts them in 32 bits, five times finer."""

_COMPRESSED_RLE = re.compile(rb"(?:[P-o]{0,6}[0-O])*")
"""Numbers of at most 35 bits; pycocotools reads past the end of others."""


class Shape(NamedTuple):
    """A region with a name."""

    name: str
    """Of its class, as the annotation tool has it."""
    kind: str
    """How to read ``data``: ``coco``, ``polygon``, ``rectangle``, ``circle``, ``png`` or ``rows``; shapes of other
    kinds have no area and are not drawn."""
    data: Any
    """``coco``: polygons, or an RLE; ``rows``: left, top, width and run lengths; ``png``: left, top and base64 of a
    mask; else ``[x, y]`` pairs."""


class Annotated(NamedTuple):
    """The shapes of an image, from the lowest to the topmost."""

    name: str
    """Of the image, as the annotation tool has it."""
    size: tuple[int, int] | None
    """Height and width, None where the file does not say."""
    shapes: tuple[Shape, ...]
    largest_first: bool = False
    """Whether the file has no order: then smaller shapes are on top of larger ones."""


def draw_shapes(
    annotated: Annotated, size: tuple[int, int], value_of: Callable[[str], int | None], background: int
) -> np.ndarray:
    """Return the ids of an image's pixels, uint8 ``[H, W]``.

    >>> square = Shape("box", "coco", [[1, 0, 3, 0, 3, 2, 1, 2]])
    >>> draw_shapes(Annotated("1.png", None, (square,)), (3, 4), {"box": 7}.get, background=0).tolist()
    [[0, 7, 7, 0], [0, 7, 7, 0], [0, 0, 0, 0]]

    Args:
        annotated: the shapes.
        size: height and width.
        value_of: from a shape's name to its id, None for shapes that are not drawn.
        background: id of the pixels in no shape.

    Raises:
        UserError: a shape that cannot be drawn.
    """
    canvas = Image.new("L", size[::-1], background)
    shapes = [(shape, value) for shape in annotated.shapes if (value := value_of(shape.name)) is not None]
    if annotated.largest_first:
        shapes.sort(key=lambda pair: -_coco_area(pair[0], size))  # stable: ties are drawn in the order of the file
    for shape, value in shapes:
        _PAINTERS.get(shape.kind, _skip)(canvas, shape, value)
    return np.array(canvas)


def coco_region(segmentation: object, size: tuple[int, int]) -> dict[str, Any] | None:
    """Return a COCO segmentation as compressed RLE that is safe to decode, None for one without an area.

    >>> coco_region([[1, 0, 3, 0, 3, 2, 1, 2]], (3, 4))
    {'size': [3, 4], 'counts': b'32103'}

    Args:
        segmentation: polygons, or an RLE.
        size: height and width of its image.

    Raises:
        UserError: it is something else, or damaged.
    """
    region: dict[str, Any] | None = _coco_rle(Shape("object", "coco", segmentation), size)
    return region


def check_points(points: object, *, least: int = 1) -> list[tuple[float, float]]:
    """Return ``[x, y]`` pairs as numbers.

    Raises:
        UserError: they are something else, or too far away to be drawn.
    """
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"points must be [x, y] pairs of numbers, got {str(points)[:80]}") from error
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise UserError(f"points must be [x, y] pairs of numbers, got {str(points)[:80]}")
    if len(array) < least:
        raise UserError(f"a shape needs at least {least} points, got {len(array)}")
    if np.abs(array - np.roll(array, 1, axis=0)).max(1).sum() + np.abs(array).max() > _LONGEST_OUTLINE:
        raise UserError("a shape is too large to be drawn; check its points")
    return [(float(x), float(y)) for x, y in array]


def _skip(canvas: Image.Image, shape: Shape, value: int) -> None:
    """Draw nothing: points and lines have no area."""


def _paint_polygon(canvas: Image.Image, shape: Shape, value: int) -> None:
    points = check_points(shape.data)
    # Pillow draws fewer than two points nowhere, and LabelMe refuses fewer than three.
    if len(points) >= 3:
        ImageDraw.Draw(canvas).polygon(points, fill=value, outline=value)


def _paint_rectangle(canvas: Image.Image, shape: Shape, value: int) -> None:
    points = check_points(shape.data, least=2)
    (left, right), (top, bottom) = (sorted(axis[:2]) for axis in zip(*points, strict=True))
    ImageDraw.Draw(canvas).rectangle([left, top, right, bottom], fill=value, outline=value)


def _paint_circle(canvas: Image.Image, shape: Shape, value: int) -> None:
    (x, y), (edge_x, edge_y) = check_points(shape.data, least=2)[:2]
    radius = math.hypot(x - edge_x, y - edge_y)
    ImageDraw.Draw(canvas).ellipse([x - radius, y - radius, x + radius, y + radius], fill=value, outline=value)


def _paint_png(canvas: Image.Image, shape: Shape, value: int) -> None:
    left, top, text = shape.data
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            inside = np.array(image.convert("L")) > 0
    except (OSError, ValueError, TypeError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise UserError(f"the mask of a shape {shape.name!r} is not a PNG in base64") from error
    _paste(canvas, inside, left, top, value)


def _paint_rows(canvas: Image.Image, shape: Shape, value: int) -> None:
    left, top, width, runs = shape.data
    total = sum(runs) if min(runs, default=-1) >= 0 else -1
    if width < 1 or not 0 < total <= MOST_PIXELS or total % width:
        raise UserError(f"the run lengths of a mask {shape.name!r} do not fill rows of {width} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(-1, width)
    _paste(canvas, inside, left, top, value)


def _paint_coco(canvas: Image.Image, shape: Shape, value: int) -> None:
    if (rle := _coco_rle(shape, canvas.size[::-1])) is not None:
        inside = _mask_api().decode(rle).astype(bool)
        _paste(canvas, inside, 0, 0, value)


def _paste(canvas: Image.Image, inside: np.ndarray, left: int, top: int, value: int) -> None:
    if max(abs(left), abs(top)) > MOST_PIXELS:
        raise UserError(f"a mask lies at {left}, {top}, outside of any image")
    canvas.paste(value, (left, top), Image.fromarray(inside.astype(np.uint8) * 255))


_PAINTERS: dict[str, Callable[[Image.Image, Shape, int], None]] = {
    "coco": _paint_coco,
    "polygon": _paint_polygon,
    "rectangle": _paint_rectangle,
    "circle": _paint_circle,
    "png": _paint_png,
    "rows": _paint_rows,
}


def _coco_area(shape: Shape, size: tuple[int, int]) -> int:
    rle = _coco_rle(shape, size) if shape.kind == "coco" else None
    return int(_mask_api().area(rle)) if rle is not None else 0


def _coco_rle(shape: Shape, size: tuple[int, int]) -> Any:
    """Return the compressed RLE of a COCO segmentation, None for one without an area."""
    api = _mask_api()
    if isinstance(shape.data, Mapping):
        return _checked_rle(api, shape.data, size)
    polygons = []
    for flat in shape.data if isinstance(shape.data, Sequence) and not isinstance(shape.data, str) else [None]:
        if not isinstance(flat, Sequence) or isinstance(flat, str) or len(flat) % 2:
            raise UserError(f"a segmentation must be lists of x, y, x, y, ... or an RLE, got {str(flat)[:80]}")
        if len(flat) >= 6:  # a polygon of fewer than three points has no area
            polygons.append(
                [number for point in check_points(list(zip(flat[::2], flat[1::2], strict=True))) for number in point]
            )
    return api.merge(api.frPyObjects(polygons, *size)) if polygons else None


def _checked_rle(api: Any, rle: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """Return an RLE of a file as pycocotools has it, once it is safe to decode."""
    counts = rle.get("counts")
    if list(rle.get("size", [])) != [*size]:
        raise UserError(f"an RLE has the size {rle.get('size')}, and its image {[*size]}")
    if isinstance(counts, Sequence) and not isinstance(counts, str):
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
            raise UserError(f"the counts of an RLE must be whole numbers that add up to {size[0] * size[1]}")
        return api.frPyObjects({"size": [*size], "counts": list(counts)}, *size)
    text = counts.encode("latin-1", "replace") if isinstance(counts, str) else b"?"
    if not _COMPRESSED_RLE.fullmatch(text):
        raise UserError("the counts of an RLE are damaged")
    compressed = {"size": [*size], "counts": text}
    try:
        api.decode(compressed)
    except ValueError as error:
        raise UserError("the counts of an RLE are damaged") from error
    return compressed


def _mask_api() -> Any:
    """Return pycocotools' module.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError("labels of COCO and CVAT need pycocotools; run: pip install 'ccnet3d[coco]'") from error
    return mask
