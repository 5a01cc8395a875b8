"""A drawn drive through a street, for a first run without a video."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ccnet3d.video import sample_textures as textures
from ccnet3d.video.sample_render import Camera, Surface, Texture, render
from ccnet3d.video.writer import VideoWriter

__all__ = ["SAMPLE_CLASSES", "SAMPLE_FRAMES", "draw_sample_frame", "draw_sample_labels", "write_sample_video"]

SAMPLE_FRAMES = 45
"""Length of the clip: three seconds."""

SAMPLE_CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
    *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
"""Names of the classes that :func:`draw_sample_labels` returns, which are those of CamVid."""

_SKY, _BUILDING, _POLE, _ROAD, _PAVEMENT, _TREE, _SIGN, _FENCE, _CAR, _PERSON, _CYCLIST = range(11)

_SPEED = 0.45
"""Of the camera, in meters per frame."""
_CURB, _WALL = 4.0, 6.8
"""Where the road and the pavement end, in meters from the middle."""
_END = 120.0
"""Length of the street in meters."""
_STEPS = 8
"""Pictures of a walk, which repeats."""
_PARKED = ((36, 38, 112), (150, 152, 156), (120, 22, 26), (40, 42, 44), (196, 198, 200))
"""Colors of the parked cars."""
_HAZE = np.array([208, 212, 216], np.float32)


def draw_sample_frame(index: int, height: int = 360, width: int = 480) -> np.ndarray:
    """Draw the clip's frame at ``index``: a street with houses, trees, cars and people, seen from a car.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    >>> from ccnet3d.video import draw_sample_frame
    >>> draw_sample_frame(0, height=48, width=64).shape
    (48, 64, 3)
    """
    picture, _ = _draw(index, height, width)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(width / 900))
    grain = np.random.default_rng(index).normal(0, 3, (height, width, 1))
    return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)


def draw_sample_labels(index: int, height: int = 360, width: int = 480) -> np.ndarray:
    """Return what each pixel of :func:`draw_sample_frame` shows, as an index into ``SAMPLE_CLASSES``.

    Returns:
        uint8 ``[H, W]``.
    """
    return _draw(index, height, width)[1]


def write_sample_video(path: Path, frames: int | None = None, frames_per_second: float = 15.0) -> None:
    """Write the drawn drive to an mp4 file, by default ``SAMPLE_FRAMES`` of it.

    >>> from pathlib import Path
    >>> from ccnet3d.video import open_video, write_sample_video
    >>> write_sample_video(Path("sample.mp4"), frames=3)
    >>> with open_video("sample.mp4") as reader:
    ...     len(reader)
    3
    """
    with VideoWriter(path, frames_per_second) as writer:
        for index in range(SAMPLE_FRAMES if frames is None else frames):
            writer.write(draw_sample_frame(index), None)


def _draw(index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    horizon = 0.46
    sway = (1.2 * math.sin(index / 5), 0.9 * math.sin(index / 3.1))  # pixels at a width of 480
    camera = Camera(
        (-1.9, 1.45, index * _SPEED),
        0.95 * width,
        ((0.5 * width) + sway[0] * width / 480, horizon * height + sway[1] * width / 480),
    )
    picture = _sky(height, width, horizon).copy()
    labels = np.full((height, width), _SKY, np.uint8)
    render([*_street(), *_traffic(index)], camera, picture, labels, _HAZE)
    return picture, labels


@cache
def _sky(height: int, width: int, horizon: float) -> np.ndarray:
    return textures.sky(np.random.default_rng(4), height, width, horizon)


@cache
def _street() -> tuple[Surface, ...]:
    """Return everything that stands still."""
    rng = np.random.default_rng(7)
    road, paving, curb = textures.asphalt(rng), textures.paving(rng), textures.plain(rng, (168, 166, 160))
    surfaces = [Surface((-_CURB, 0, 0), (2 * _CURB, 0, 0), (0, 0, _END), road, _ROAD, tiles=(1, int(_END / 6)))]
    for side in (-1, 1):
        inner, outer = side * _CURB, side * _WALL
        surfaces += [
            Surface(
                (inner, 0.12, 0), (outer - inner, 0, 0), (0, 0, _END), paving, _PAVEMENT, tiles=(1, int(_END / 2.4))
            ),
            Surface((inner, 0.12, 0), (0, 0, _END), (0, -0.12, 0), curb, _PAVEMENT, tiles=(40, 1)),
            *_houses(rng, side),
        ]
    bark = textures.bark(rng)
    crowns = [textures.foliage(rng), textures.foliage(rng, (72, 80, 40)), textures.foliage(rng, (52, 66, 40))]
    for side, z in ((1, 14.0), (-1, 21.0), (1, 34.0), (-1, 47.0), (1, 52.0), (1, 70.0), (-1, 78.0), (-1, 100.0)):
        surfaces += _tree(rng, bark, crowns, side * 5.6, z)
    surfaces += _end_of_street(rng, crowns)
    metal = textures.plain(rng, (70, 72, 74), 5)
    for side, z in ((-1, 13.0), (1, 25.0), (-1, 37.0), (1, 49.0), (-1, 61.0), (1, 73.0)):
        surfaces += [
            Surface((side * 4.5 - 0.07, 6.5, z), (0.14, 0, 0), (0, -6.4, 0), metal, _POLE),
            Surface((side * 4.5 - 0.07, 6.5, z), (-side * 1.4, 0, 0), (0, -0.12, 0), metal, _POLE),
        ]
    for side, z in ((-1, 20.0), (1, 31.0)):
        surfaces += [
            Surface((side * 4.4 - 0.05, 2.4, z), (0.1, 0, 0), (0, -2.3, 0), metal, _POLE),
            Surface((side * 4.4 - 0.4, 3.0, z - 0.1), (0.8, 0, 0), (0, -0.8, 0), textures.sign(rng), _SIGN),
        ]
    for z, color in (
        (16.0, (36, 38, 112)),
        (27.0, (150, 152, 156)),
        (39.0, (120, 22, 26)),
        (46.0, (40, 42, 44)),
        (58.0, (196, 198, 200)),
    ):
        surfaces += _car(rng, color, 3.0, z)
    return tuple(surfaces)


def _houses(rng: np.random.Generator, side: int) -> list[Surface]:
    colors = [(142, 92, 74), (164, 138, 104), (128, 84, 70), (178, 166, 146), (150, 116, 88), (118, 88, 76)]
    kinds = []
    for color in colors:
        floors, columns = int(rng.integers(2, 5)), int(rng.integers(3, 6))
        kinds.append((floors, columns, textures.facade(rng, color, floors, columns), textures.plain(rng, color)))
    surfaces, x, z, kind = [], side * _WALL, 1.0 + side, 0
    while z < _END - 20:
        kind = (kind + int(rng.integers(1, len(kinds)))) % len(kinds)  # never the same twice in a row
        floors, columns, front, gable = kinds[kind]
        length, height = columns * 2.6, floors * 3.1
        surfaces += [
            Surface((x, height, z), (0, 0, length), (0, -height, 0), front, _BUILDING, 0.8 if side > 0 else 1.0),
            Surface((x, height, z), (side * 9.0, 0, 0), (0, -height, 0), gable, _BUILDING, 0.9),
        ]
        z += length + (0.0 if rng.random() < 0.7 else 2.0)
    return surfaces


def _end_of_street(rng: np.random.Generator, crowns: list[Texture]) -> list[Surface]:
    """Return what closes the view: a house and trees before it."""
    front = textures.facade(rng, (150, 118, 92), 3, 12)
    house = Surface((-20, 9, _END - 12), (40, 0, 0), (0, -9, 0), front, _BUILDING)
    trees = [
        Surface((x, 9, _END - 25 - abs(x)), (8, 0, 0), (0, -9, 0), crowns[i % 3], _TREE)
        for i, x in enumerate((-14.0, -9.0, -4.0, 1.0, 6.0))
    ]
    return [house, *trees]


def _tree(rng: np.random.Generator, bark: Texture, crowns: list[Texture], x: float, z: float) -> list[Surface]:
    size = float(rng.uniform(3.8, 5.0))
    first, second = rng.permutation(len(crowns))[:2]
    low = 2.1
    return [
        Surface((x - 0.17, 3.6, z), (0.34, 0, 0), (0, -3.5, 0), bark, _TREE),
        Surface((x - size / 2, low + size, z), (size, 0, 0), (0, -size, 0), crowns[first], _TREE),
        Surface(
            (x - size / 3, low + 0.9 * size, z - 0.8),
            (0.8 * size, 0, 0),
            (0, -0.8 * size, 0),
            crowns[second],
            _TREE,
            1.1,
        ),
    ]


def _car(
    rng: np.random.Generator, color: tuple[int, int, int], x: float, z: float, *, oncoming: bool = False
) -> list[Surface]:
    """Return a car whose near end is at z, centered at x."""
    width, length, height = 1.75, 4.2, 1.45
    near, far = (textures.car_back(rng, color, front=oncoming), textures.car_back(rng, color, front=not oncoming))
    side, paint, glass = (
        textures.car_side(rng, color),
        textures.car_paint(rng, color),
        textures.plain(rng, (54, 62, 72), 5),
    )
    shadow = textures.plain(rng, (44, 44, 46), 4)
    left, right, top = x - width / 2, x + width / 2, height
    start, step = ((z + length), -length) if oncoming else (z, length)  # the side's texture has the front at its right
    surfaces = [
        Surface((left - 0.1, 0.02, z - 0.15), (width + 0.2, 0, 0), (0, 0, length), shadow, _ROAD),
        Surface((left, top, z), (width, 0, 0), (0, -height, 0), near, _CAR),
        Surface((left, top, z + length), (width, 0, 0), (0, -height, 0), far, _CAR, 0.8),
        Surface((left + 0.3, top - 0.02, z + 0.7), (width - 0.6, 0, 0), (0, 0, 1.5), paint, _CAR, 1.15),
        Surface((left + 0.1, 0.95, z), (width - 0.2, 0, 0), (0, 0, length), paint, _CAR, 1.1),
    ]
    surfaces += [
        Surface((edge, top, start), (0, 0, step), (0, -height, 0), side, _CAR, light)
        for edge, light in ((left, 0.85), (right, 0.7))
    ]
    if oncoming:
        surfaces.append(Surface((left + 0.25, top - 0.04, z + 1.9), (width - 0.5, 0, 0), (0, -0.5, -0.7), glass, _CAR))
    return surfaces


@cache
def _moving() -> tuple[list[Surface], list[Surface], list[Surface], list[Surface]]:
    """Return the car ahead, the oncoming one, and the steps of a walk and of a ride, all at z = 0."""
    rng = np.random.default_rng(11)
    ahead = _car(rng, (168, 172, 178), -1.9, 0.0)
    oncoming = _car(rng, (28, 62, 54), 0.9, 0.0, oncoming=True)
    walk, ride = [], []
    for step in range(_STEPS):
        swing = math.sin(step / _STEPS * 2 * math.pi)
        walker = textures.person(np.random.default_rng(5), (46, 40, 60), swing)
        rider = textures.cyclist(np.random.default_rng(6), (150, 40, 44), swing)
        walk.append(Surface((0, 1.87, 0), (0.8, 0, 0), (0, -1.75, 0), walker, _PERSON))
        ride.append(Surface((0, 1.76, 0), (0.7, 0, 0), (0, -1.75, 0), rider, _CYCLIST))
    return ahead, oncoming, walk, ride


def _traffic(index: int) -> list[Surface]:
    """Return everything that moves."""
    ahead, oncoming, walk, ride = _moving()
    step = index // 2
    return [
        *_moved(ahead, 0, 15 + index * _SPEED * 1.06),
        *_moved(oncoming, 0, 48 - index * 0.55),
        *_moved([walk[step % _STEPS]], -5.9, 11 + index * 0.32),
        *_moved([walk[(step + 3) % _STEPS]], 5.0, 30 - index * 0.08),
        *_moved([ride[step % _STEPS]], -3.75, 10 + index * 0.36),
    ]


def _moved(surfaces: list[Surface], x: float, z: float) -> list[Surface]:
    return [
        replace(surface, corner=(surface.corner[0] + x, surface.corner[1], surface.corner[2] + z))
        for surface in surfaces
    ]
