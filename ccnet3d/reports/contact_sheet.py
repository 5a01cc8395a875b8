"""Frames of a dataset under their labels, in one picture with a legend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import DatasetSpec, LabelledSequences
from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.masks import encode_png, paint

__all__ = ["check_picture", "write_contact_sheet"]

_COLUMNS = 4
_WIDTH = 320
_LINE = 22
_MARGIN = 8
_SWATCH = 14
_BACKGROUND, _INK = (24, 26, 29), (236, 238, 240)


def check_picture(path: Path, *, overwrite: bool) -> None:
    """Fail early if a picture would replace something.

    Raises:
        UserError: it is a link, or exists and ``overwrite`` is false.
    """
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not replaced; give the picture another name")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; give the picture another name, or --overwrite to replace it")


def write_contact_sheet(splits: Mapping[str, LabelledSequences], path: Path, *, count: int = 24) -> int:
    """Write a PNG with frames of each split, evenly spread, and return how many it shows.

    Classes are painted over the frames; void pixels stay as they are. Frames that cannot be read are left out.

    Args:
        splits: by name; at least one.
        path: the picture.
        count: of frames, shared out by the sizes of the splits, at least one each.

    Raises:
        UserError: no frame can be read.
    """
    total = sum(map(len, splits.values()))
    tiles = []
    seen: set[int] = set()
    for name, split in splits.items():
        wanted = min(len(split), max(1, round(count * len(split) / total)))
        for index in np.linspace(0, len(split) - 1, wanted).round().astype(int).tolist():
            tile = _tile(name, split, index, seen)
            if tile is not None:
                tiles.append(tile)
    if not tiles:
        raise UserError("no frame can be read, so there is no contact sheet")
    spec = next(iter(splits.values())).spec
    rows = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    heights = [max(tile.height for tile in row) for row in rows]
    width = min(_COLUMNS, len(tiles)) * (_WIDTH + _MARGIN) + _MARGIN
    legend = _legend(spec, seen, width)
    sheet = Image.new("RGB", (width, sum(heights) + len(rows) * _MARGIN + _MARGIN + legend.height), _BACKGROUND)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (_MARGIN + column * (_WIDTH + _MARGIN), top))
        top += height + _MARGIN
    sheet.paste(legend, (0, top))
    write_atomically(path, encode_png(sheet))
    return len(tiles)


def _tile(name: str, split: LabelledSequences, index: int, seen: set[int]) -> Image.Image | None:
    """Return a frame under its label with a caption, None if it cannot be read; adds its ids to ``seen``."""
    try:
        image, label = split.read_image(index), split.read_label(index)
    except UserError:
        return None
    if image.shape[-2:] != label.shape:
        return None
    ids = label.numpy().astype(np.uint8)
    seen |= set(np.unique(ids).tolist())
    painted = paint(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), ids, split.spec.palette, 0.6)
    picture = Image.fromarray(painted)
    height = max(1, round(picture.height * _WIDTH / picture.width))
    picture = picture.resize((_WIDTH, min(height, 4 * _WIDTH)), Image.Resampling.BILINEAR)
    tile = Image.new("RGB", (_WIDTH, picture.height + _LINE), _BACKGROUND)
    tile.paste(picture, (0, 0))
    frame = split.frames[index]
    _write(tile, (0, picture.height + 3), f"{name}: {frame.sequence} {frame.number}", _WIDTH)
    return tile


def _legend(spec: DatasetSpec, seen: set[int], width: int) -> Image.Image:
    """Return a row of swatches for the classes that the frames show, wrapped to a width."""
    entries = [(one.name, one.color) for id_, one in enumerate(spec.classes) if id_ in seen]
    entries += [("void: not painted", None)] if IGNORE_INDEX in seen else []  # type: ignore[list-item]
    font = ImageFont.load_default(size=14)
    places, left, top = [], _MARGIN, 0
    for name, _ in entries:
        length = min(_SWATCH + 6 + round(font.getlength(name)) + 16, width - 2 * _MARGIN)
        if left + length > width and left > _MARGIN:
            left, top = _MARGIN, top + _LINE
        places.append((left, top, length))
        left += length
    legend = Image.new("RGB", (width, top + _LINE + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(legend)
    for (name, color), (x, y, length) in zip(entries, places, strict=True):
        draw.rectangle([x, y + 3, x + _SWATCH, y + 3 + _SWATCH], fill=color, outline=_INK)
        _write(legend, (x + _SWATCH + 6, y + 2), name, length)
    return legend


def _write(image: Image.Image, place: tuple[int, int], text: str, width: int) -> None:
    """Write a line of text, shortened to a width; characters that the font lacks are drawn as boxes."""
    font = ImageFont.load_default(size=14)
    while text and font.getlength(text) > width:
        text = text[:-4] + "..." if len(text) > 4 else ""
    ImageDraw.Draw(image).text(place, text, fill=_INK, font=font)
