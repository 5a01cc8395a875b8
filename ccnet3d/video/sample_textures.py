"""Textures of the sample's street, drawn by code."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ccnet3d.video.sample_render import Texture

__all__ = [
    "asphalt",
    "bark",
    "car_back",
    "car_paint",
    "car_side",
    "cyclist",
    "facade",
    "foliage",
    "paving",
    "person",
    "plain",
    "sign",
    "sky",
]

Color = tuple[int, int, int]
Rng = np.random.Generator


def noise(rng: Rng, height: int, width: int, cells: int) -> np.ndarray:
    """Return smooth noise of about -1 to 1, float32 ``[height, width]``, with ``cells`` values along its height."""
    across = max(2, round(cells * width / height))
    values = Image.fromarray(rng.normal(0, 0.5, (max(2, cells), across)).astype(np.float32))
    return np.asarray(values.resize((width, height), Image.Resampling.BICUBIC))


def grain(rng: Rng, height: int, width: int, cells: tuple[int, ...], strengths: tuple[float, ...]) -> np.ndarray:
    """Return the sum of several scales of noise, in gray levels."""
    return sum(
        (s * noise(rng, height, width, c) for c, s in zip(cells, strengths, strict=True)),
        start=np.zeros((height, width), np.float32),
    )


def textured(image: Image.Image, added: np.ndarray, alpha: np.ndarray | None = None) -> Texture:
    """Return an RGB picture with noise added to it."""
    rgb = np.clip(np.asarray(image).astype(np.float32) + added[..., None], 0, 255).astype(np.uint8)
    pixels = np.full((*rgb.shape[:2], 4), 255, np.uint8)
    pixels[..., :3] = rgb
    if alpha is not None:
        pixels[..., 3] = alpha
    return Texture(pixels)


def cutout(image: Image.Image, added: np.ndarray) -> Texture:
    """Return an RGBA picture with noise added to it; transparent pixels are holes."""
    pixels = np.asarray(image)
    return textured(Image.fromarray(pixels[..., :3]), added, pixels[..., 3])


def plain(rng: Rng, color: Color, strength: float = 8, size: int = 64) -> Texture:
    """Return one color with noise."""
    image = Image.new("RGB", (size, size), color)
    return textured(image, grain(rng, size, size, (4, 16, size), (strength, strength, strength)))


def asphalt(rng: Rng) -> Texture:
    """Return 8 m across by 6 m along of a road with two lanes; its rows run along the road."""
    height, width = 384, 512
    image = Image.new("RGB", (width, height), (96, 96, 98))
    draw = ImageDraw.Draw(image)
    draw.rectangle([width // 2 - 4, 0, width // 2 + 4, height // 2], fill=(205, 205, 200))
    for x in (14, width - 20):
        draw.rectangle([x, 0, x + 5, height], fill=(176, 160, 96))
    added = grain(rng, height, width, (3, 12, 96, height), (8, 5, 8, 12))
    columns = np.linspace(0, 4 * np.pi, width, dtype=np.float32)
    return textured(image, added + 5 * np.cos(columns)[None])  # wheels darken their tracks


def paving(rng: Rng) -> Texture:
    """Return 2.4 m by 2.4 m of paving slabs."""
    size, slab = 192, 48
    image = Image.new("RGB", (size, size), (150, 146, 140))
    draw = ImageDraw.Draw(image)
    for row in range(size // slab):
        for column in range(size // slab):
            shade = int(rng.integers(-9, 10))
            box = [column * slab, row * slab, (column + 1) * slab - 1, (row + 1) * slab - 1]
            draw.rectangle(box, fill=(152 + shade, 148 + shade, 141 + shade), outline=(112, 108, 104))
    return textured(image, grain(rng, size, size, (4, 48, size), (8, 6, 8)))


def facade(rng: Rng, color: Color, floors: int, columns: int) -> Texture:
    """Return the front of a house with windows and a door."""
    cell_width, cell_height = 72, 88
    width, height = columns * cell_width, floors * cell_height
    rows, across = np.mgrid[:height, :width]
    brick = ((rows % 6 == 0) | ((across + 6 * (rows // 6 % 2)) % 12 == 0)).astype(np.float32)
    image = Image.new("RGB", (width, height), color)
    added = grain(rng, height, width, (3, 20, 120), (7, 6, 10)) + 22 * brick
    covered = Image.new("L", (width, height), 255)
    draw, cover = ImageDraw.Draw(image), ImageDraw.Draw(covered)
    door = int(rng.integers(columns))
    for floor in range(floors):
        for column in range(columns):
            x, y = column * cell_width + 18, floor * cell_height + 20
            is_door = floor == floors - 1 and column == door
            box = [x, y, x + 34, y + (68 if is_door else 50)]
            frame = (208, 204, 196)
            draw.rectangle([box[0] - 4, box[1] - 5, box[2] + 4, box[3] + 5], fill=frame)
            cover.rectangle([box[0] - 4, box[1] - 5, box[2] + 4, box[3] + 5], fill=40)
            glass = int(rng.integers(38, 76))
            if is_door:
                draw.rectangle(box, fill=tuple(int(v) for v in rng.integers(30, 90, 3)))
                continue
            draw.rectangle(box, fill=(glass, glass + 5, glass + 10))
            draw.polygon(
                [(box[0], box[1]), (box[2], box[1]), (box[0], y + 30)], fill=(glass + 34, glass + 40, glass + 46)
            )
            draw.line([x + 17, y, x + 17, box[3]], fill=frame, width=3)
            draw.line([x, y + 25, box[2], y + 25], fill=frame, width=3)
    draw.rectangle([0, 0, width, 5], fill=(86, 82, 80))
    return textured(image, added * np.asarray(covered, np.float32) / 255)


def foliage(rng: Rng, color: Color = (58, 72, 36)) -> Texture:
    """Return the crown of a tree with a ragged edge and holes that show the sky."""
    size = 256
    rows, columns = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    edge = 1 - np.hypot(columns, rows * 1.05) + 0.25 * noise(rng, size, size, 7) + 0.18 * noise(rng, size, size, 24)
    holes = noise(rng, size, size, 40) + 0.8 * edge
    alpha = np.where((edge > 0.12) & (holes > -0.28), 255, 0).astype(np.uint8)
    image = Image.new("RGB", (size, size), color)
    clumps = grain(rng, size, size, (9, 26, 80, 160), (26, 26, 34, 26)) - 26 * rows.astype(np.float32) - 14 * columns
    return textured(image, clumps.astype(np.float32), alpha)


def bark(rng: Rng) -> Texture:
    """Return bark."""
    image = Image.new("RGB", (24, 128), (66, 56, 46))
    shade = 22 * np.cos(np.linspace(-1.2, 2.2, 24, dtype=np.float32))[None]
    return textured(image, grain(rng, 128, 24, (30, 90), (14, 14)) + shade - 10)


def car_paint(rng: Rng, color: Color) -> Texture:
    """Return painted metal with a soft reflection of the sky toward its top."""
    image = Image.new("RGB", (64, 64), color)
    shade = np.linspace(34, -26, 64, dtype=np.float32)[:, None]
    return textured(image, grain(rng, 64, 64, (3, 64), (7, 4)) + shade)


def car_back(rng: Rng, color: Color, *, front: bool = False) -> Texture:
    """Return the back of a car, 1.75 m by 1.45 m, with its window, lights, plate, bumper and wheels; or its front."""
    width, height = 350, 290
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    dark = tuple(v * 2 // 3 for v in color)
    draw.rounded_rectangle([18, 225, 78, 289], 10, fill=(22, 22, 24))
    draw.rounded_rectangle([width - 78, 225, width - 18, 289], 10, fill=(22, 22, 24))
    draw.polygon([(62, 4), (288, 4), (330, 108), (20, 108)], fill=color)
    draw.rounded_rectangle([2, 98, width - 2, 252], 26, fill=color)
    draw.polygon([(76, 18), (274, 18), (304, 98), (46, 98)], fill=(40, 46, 54))
    draw.polygon([(76, 18), (190, 18), (120, 98), (46, 98)], fill=(82, 92, 104))
    draw.rectangle([6, 196, width - 6, 226], fill=dark)
    draw.rectangle([30, 226, width - 30, 256], fill=(30, 30, 32))
    light = (225, 225, 215) if front else (172, 22, 24)
    for x in (12, width - 72):
        draw.rounded_rectangle([x, 120, x + 60, 156], 9, fill=light)
    if front:
        draw.rounded_rectangle([100, 128, 250, 168], 8, fill=(26, 26, 28))
    draw.rectangle([124, 200, 226, 222], fill=(228, 224, 210) if front else (224, 196, 60))
    draw.line([8, 112, width - 8, 112], fill=dark, width=3)
    pixels = np.asarray(image)
    shade = np.linspace(24, -26, height, dtype=np.float32)[:, None]
    return textured(
        Image.fromarray(pixels[..., :3]), grain(rng, height, width, (4, 140), (7, 5)) + shade, pixels[..., 3]
    )


def car_side(rng: Rng, color: Color) -> Texture:
    """Return the side of a car, 4.2 m by 1.45 m, its front to the right."""
    width, height = 840, 290
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    dark = tuple(v * 2 // 3 for v in color)
    draw.polygon([(60, 110), (130, 8), (430, 4), (590, 110)], fill=color)
    draw.rounded_rectangle([4, 100, 836, 250], 40, fill=color)
    draw.polygon([(92, 104), (142, 20), (290, 18), (290, 104)], fill=(44, 50, 58))
    draw.polygon([(304, 104), (304, 18), (424, 18), (556, 104)], fill=(50, 57, 66))
    draw.polygon([(304, 104), (304, 18), (360, 18), (330, 104)], fill=(92, 102, 114))
    draw.rectangle([4, 220, 836, 250], fill=dark)
    for x in (298, 560):
        draw.line([x, 104, x - 6, 236], fill=dark, width=3)
    for x in (150, 690):
        draw.ellipse([x - 74, 158, x + 74, 300], fill=(20, 20, 22))
        draw.ellipse([x - 60, 172, x + 60, 289], fill=(32, 32, 34))
        draw.ellipse([x - 36, 194, x + 36, 266], fill=(142, 144, 148))
    draw.rectangle([4, 124, 30, 154], fill=(172, 22, 24))
    draw.rectangle([806, 128, 836, 156], fill=(225, 225, 215))
    pixels = np.asarray(image)
    shade = np.linspace(22, -26, height, dtype=np.float32)[:, None]
    return textured(
        Image.fromarray(pixels[..., :3]), grain(rng, height, width, (4, 140), (7, 5)) + shade, pixels[..., 3]
    )


def person(rng: Rng, coat: Color, stride: float) -> Texture:
    """Return a person who walks, 0.8 m by 1.75 m, with the feet ``stride`` apart, -1 to 1."""
    width, height = 160, 350
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    middle, reach = width // 2, 34 * stride
    for side, gray in ((1, 34), (-1, 46)):
        foot = middle + side * reach
        draw.line(
            [(middle, 186), (middle + side * reach * 0.55, 262), (foot, 336)],
            fill=(gray, gray, gray + 14),
            width=27,
            joint="curve",
        )
        draw.ellipse([foot - 14, 328, foot + 24, 348], fill=(24, 22, 22))
    darker = tuple(v * 3 // 4 for v in coat)
    draw.rounded_rectangle([middle - 34, 62, middle + 34, 206], 22, fill=coat)
    draw.line(
        [(middle, 84), (middle - reach * 0.5, 146), (middle - reach * 0.2, 200)], fill=darker, width=22, joint="curve"
    )
    draw.ellipse([middle - 20, 6, middle + 22, 62], fill=(188, 148, 126))
    draw.chord([middle - 23, 2, middle + 22, 56], 160, 350, fill=(56, 42, 34))
    pixels = np.asarray(image)
    shade = np.linspace(14, -14, width, dtype=np.float32)[None]
    return textured(
        Image.fromarray(pixels[..., :3]), grain(rng, height, width, (12, 120), (12, 7)) + shade, pixels[..., 3]
    )


def cyclist(rng: Rng, coat: Color, lift: float) -> Texture:
    """Return a cyclist from behind, 0.7 m by 1.75 m, with one foot higher than the other by ``lift``, -1 to 1."""
    width, height = 140, 350
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    middle = width // 2
    draw.ellipse([middle - 7, 206, middle + 7, 349], fill=(24, 24, 26))
    draw.rectangle([middle - 9, 214, middle + 9, 236], fill=(150, 26, 28))
    draw.line([10, 150, width - 10, 150], fill=(40, 40, 42), width=9)
    for side, gray in ((1, 40), (-1, 50)):
        foot = 300 + side * 22 * lift
        draw.line(
            [(middle + side * 16, 184), (middle + side * 26, foot - 56), (middle + side * 20, foot)],
            fill=(gray, gray, gray + 18),
            width=24,
            joint="curve",
        )
        draw.ellipse([middle + side * 20 - 12, foot - 8, middle + side * 20 + 12, foot + 14], fill=(26, 24, 24))
        draw.line([(middle + side * 28, 80), (middle + side * 48, 118), (middle + side * 50, 148)], fill=coat, width=18)
    draw.rounded_rectangle([middle - 34, 60, middle + 34, 200], 24, fill=coat)
    draw.ellipse([middle - 20, 10, middle + 20, 62], fill=(176, 138, 118))
    draw.chord([middle - 24, 4, middle + 24, 56], 170, 370, fill=(200, 202, 206))
    pixels = np.asarray(image)
    shade = np.linspace(14, -14, width, dtype=np.float32)[None]
    return textured(
        Image.fromarray(pixels[..., :3]), grain(rng, height, width, (12, 120), (12, 7)) + shade, pixels[..., 3]
    )


def sign(rng: Rng) -> Texture:
    """Return a round traffic sign with a red rim."""
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse([0, 0, 95, 95], fill=(178, 28, 32))
    draw.ellipse([14, 14, 81, 81], fill=(226, 226, 222))
    draw.rectangle([34, 30, 42, 66], fill=(30, 30, 32))
    draw.ellipse([48, 30, 68, 66], outline=(30, 30, 32), width=8)
    return cutout(image, grain(rng, 96, 96, (8,), (6,)))


def sky(rng: Rng, height: int, width: int, horizon: float) -> np.ndarray:
    """Return a hazy sky with clouds, float32 ``[height, width, 3]``."""
    up = np.clip(1 - np.arange(height, dtype=np.float32) / (horizon * height), 0, 1)[:, None, None]
    color = np.array([232, 235, 238], np.float32) * (1 - up) + np.array([178, 200, 226], np.float32) * up
    clouds = np.clip(noise(rng, height, width, 4) + 0.6 * noise(rng, height, width, 9), -0.2, 1)
    return color + (22 * clouds)[..., None]
