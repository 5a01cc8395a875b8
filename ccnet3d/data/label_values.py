"""What the labels of a folder contain: how they are encoded, and how often each id or color occurs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ccnet3d.data.label_reader import read_label_ids
from ccnet3d.errors import UserError
from ccnet3d.images import LOSSLESS_SUFFIXES, read_rgb

__all__ = ["count_values", "guess_encoding", "looks_like_label"]

_MOST_COLORS = 256
"""Of a label; a photograph has thousands."""

_MOST_GRAYS = 64
"""Of a gray label that is not declared in any other way; a photograph has about 200."""

Progress = Callable[[Iterable[Path]], Iterable[Path]]


def looks_like_label(path: Path) -> bool:
    """Return whether an image is a label rather than a frame: stored without loss, and of few values.

    Raises:
        UserError: it cannot be read.
    """
    if path.suffix.lower() not in LOSSLESS_SUFFIXES:
        return False
    rgb = read_rgb(path)
    with Image.open(path) as image:
        mode = image.mode
    if mode in ("I", "I;16", "I;16B", "I;16L", "1"):
        return True
    values = np.unique(_packed(rgb)).size
    return values <= (_MOST_GRAYS if mode == "L" else _MOST_COLORS)


def guess_encoding(paths: Sequence[Path]) -> tuple[str, int]:
    """Return the encoding and the instance divisor of some label images.

    Raises:
        UserError: color images of more colors than a dataset has classes.
    """
    modes = set()
    colors: set[int] = set()
    for path in paths:
        rgb = read_rgb(path)
        with Image.open(path) as image:
            modes.add(image.mode)
        colors |= set(np.unique(_packed(rgb)).tolist())
    if not modes & {"RGB", "RGBA"}:
        largest = max(int(read_label_ids(path, "id").max()) for path in paths)
        return "id", 1000 if largest >= 1000 else 0
    if all((color >> 16) == (color >> 8) & 255 == color & 255 for color in colors):
        return "red", 0
    if len(colors) <= _MOST_COLORS:
        return "color", 0
    ids = {(color >> 16) + (color & 0xFF00) + ((color & 255) << 16) for color in colors}
    if len({id_ // 1000 if id_ >= 1000 else id_ for id_ in ids}) < _MOST_COLORS and max(ids) < 256_000:
        return "rgb_id", 1000
    if len({color >> 16 for color in colors}) <= _MOST_GRAYS:
        return "red", 0
    raise UserError(
        f"the labels have {len(colors)} colors in the first {len(paths)} files, as {paths[0]}; expected at most "
        f"{_MOST_COLORS}. Store labels without loss (PNG, not JPEG) and without blended edges"
    )


def count_values(paths: Sequence[Path], encoding: str, divisor: int, progress: Progress) -> Counter[int]:
    """Return the number of pixels of each id, or of each color as R << 16 | G << 8 | B.

    Args:
        paths: all labels.
        encoding: of the label images.
        divisor: of instance ids, 0 for none.
        progress: wraps the paths while they are read.

    Raises:
        UserError: a file that cannot be read.
    """

    def count(path: Path) -> Counter[int]:
        values = _packed(read_rgb(path)) if encoding == "color" else read_label_ids(path, encoding, divisor)
        lowest, highest = int(values.min()), int(values.max())
        if lowest >= 0 and highest < 1 << 16:
            counts = np.bincount(values.ravel())
            return Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
        found, numbers = np.unique(values, return_counts=True)
        return Counter(dict(zip(found.tolist(), numbers.tolist(), strict=True)))

    total: Counter[int] = Counter()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        for _, counts in zip(progress(paths), threads.map(count, paths), strict=True):
            total.update(counts)
    return total


def _packed(rgb: np.ndarray) -> np.ndarray:
    wide = rgb.astype(np.int64)
    return (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]
