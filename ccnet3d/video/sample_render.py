"""A small renderer: textured parallelograms in perspective, with the class that each pixel shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["Camera", "Surface", "Texture", "render"]

_NEAR = 0.4
"""Nothing closer to the camera is drawn, in meters."""

Vector = tuple[float, float, float]


class Texture:
    """A picture with its smaller versions, for surfaces far away.

    Args:
        pixels: uint8 ``[H, W, 4]``, RGBA; pixels with an alpha below 128 are holes.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels)
        levels = [pixels]
        while min(image.size) > 1:
            image = image.reduce(2)
            levels.append(np.asarray(image))
        self.heights = np.array([level.shape[0] for level in levels])
        self.widths = np.array([level.shape[1] for level in levels])
        self.starts = np.cumsum([0, *(self.heights * self.widths)[:-1]])
        self.flat = np.concatenate([level.reshape(-1, 4) for level in levels])

    def at(self, across: np.ndarray, down: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the pixels, ``[N, 4]``, at places in [0, 1]; ``scale`` is texels per pixel of the picture."""
        level = np.clip(np.log2(np.maximum(scale, 1.0)), 0, len(self.starts) - 1).astype(np.intp)
        widths, heights = self.widths[level], self.heights[level]
        column = np.minimum((across * widths).astype(np.intp), widths - 1)
        row = np.minimum((down * heights).astype(np.intp), heights - 1)
        return self.flat[self.starts[level] + row * widths + column]


@dataclass(frozen=True)
class Surface:
    """A textured parallelogram; coordinates are meters to the right, upward and forward.

    The texture's columns run along ``across``, its rows along ``down``.
    """

    corner: Vector
    across: Vector
    down: Vector
    texture: Texture
    label: int
    """Class id of its pixels."""
    light: float = 1.0
    """Factor of its colors."""
    tiles: tuple[int, int] = (1, 1)
    """How often the texture repeats across and down."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks forward."""

    position: Vector
    focal: float
    """In pixels."""
    center: tuple[float, float]
    """The pixel (x, y) straight ahead."""


def render(
    surfaces: Iterable[Surface], camera: Camera, image: np.ndarray, labels: np.ndarray, haze: np.ndarray
) -> None:
    """Draw surfaces over a background, the nearest in front.

    Args:
        surfaces: in any order.
        camera: where they are seen from.
        image: float32 ``[H, W, 3]``, the background; drawn over.
        labels: uint8 ``[H, W]``, its classes; drawn over.
        haze: float32 ``[3]``, the color that far surfaces approach.
    """
    depths = np.full(labels.shape, np.inf, np.float32)
    for surface in sorted(surfaces, key=lambda one: one.corner[2]):  # the nearest first saves work
        _draw(surface, camera, image, labels, depths, haze)


def _draw(
    surface: Surface, camera: Camera, image: np.ndarray, labels: np.ndarray, depths: np.ndarray, haze: np.ndarray
) -> None:
    origin = np.subtract(surface.corner, camera.position)
    across, down = np.array(surface.across), np.array(surface.down)
    box = _bounds(origin, across, down, camera, labels.shape)
    if box is None:
        return
    top, bottom, left, right = box
    x = ((np.arange(left, right) + 0.5 - camera.center[0]) / camera.focal).astype(np.float32)[None, :]
    y = (-(np.arange(top, bottom) + 0.5 - camera.center[1]) / camera.focal).astype(np.float32)[:, None]
    normal = _cross(across, down)
    facing = (normal[0] * x + normal[1] * y + normal[2]).astype(np.float32)  # normal . (x, y, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.float32(normal @ origin) / facing
    inside = (depth > _NEAR) & (depth < depths[top:bottom, left:right])
    # Dual vectors give the place on the surface: across . dual_across = 1, down . dual_across = 0.
    square = normal @ normal
    places = []
    for dual in (_cross(down, normal) / square, _cross(normal, across) / square):
        place = depth * (dual[0] * x + dual[1] * y + dual[2]).astype(np.float32) - np.float32(dual @ origin)
        inside &= (place >= 0) & (place < 1)
        places.append(place)
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return
    depth, a, b = depth[rows, columns], places[0][rows, columns], places[1][rows, columns]
    texture, tiles = surface.texture, surface.tiles
    texels = np.sqrt(texture.widths[0] * texture.heights[0] * tiles[0] * tiles[1] / np.sqrt(square))  # per meter
    slant = np.abs(facing[rows, columns]) / np.sqrt(square)
    scale = texels * depth / camera.focal / np.sqrt(np.maximum(slant, 0.02))
    colors = texture.at((a * tiles[0]) % 1, (b * tiles[1]) % 1, scale)
    solid = colors[:, 3] >= 128
    rows, columns, depth, colors = rows[solid] + top, columns[solid] + left, depth[solid], colors[solid]
    clear = np.exp(-depth / 150)[:, None]
    image[rows, columns] = colors[:, :3] * (surface.light * clear) + haze * (1 - clear)
    labels[rows, columns] = surface.label
    depths[rows, columns] = depth


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cross product; NumPy's costs more than drawing a small surface."""
    (a, b, c), (d, e, f) = one.tolist(), other.tolist()
    return np.array([b * f - c * e, c * d - a * f, a * e - b * d])


def _bounds(
    origin: np.ndarray, across: np.ndarray, down: np.ndarray, camera: Camera, shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Return the rows and columns that a surface may cover, None if it is out of sight."""
    corners = [origin, origin + across, origin + across + down, origin + down]
    seen = []
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        if start[2] > _NEAR:
            seen.append(start)
        if (start[2] > _NEAR) != (end[2] > _NEAR):
            seen.append(start + (end - start) * (_NEAR - start[2]) / (end[2] - start[2]))
    if not seen:
        return None
    points = np.array(seen)
    columns = points[:, 0] / points[:, 2] * camera.focal + camera.center[0]
    rows = -points[:, 1] / points[:, 2] * camera.focal + camera.center[1]
    left, right = max(0, int(columns.min())), min(shape[1], int(columns.max()) + 1)
    top, bottom = max(0, int(rows.min())), min(shape[0], int(rows.max()) + 1)
    return (top, bottom, left, right) if top < bottom and left < right else None
