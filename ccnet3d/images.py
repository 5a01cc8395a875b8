"""Image files: one rule for their names, and one way to read them, for frames, labels and masks."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ccnet3d.constants import IMAGE_SUFFIXES
from ccnet3d.errors import UserError

__all__ = ["LOSSLESS_SUFFIXES", "find_images", "is_image_name", "is_system_name", "read_ids", "read_rgb"]

LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""File extensions of labels and masks, whose values must survive compression."""

_SYSTEM_NAMES = (".", "@eaDir", "__MACOSX")
"""How the names begin that operating systems, file servers and notebooks add: ``._x.png``, ``.ipynb_checkpoints``."""

_ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

_GRAY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow spreads gray values of 2 and 4 bits over 0 to 255; by these steps."""


def is_system_name(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or was added by a system, and so is no data."""
    return name.startswith(_SYSTEM_NAMES)


def is_image_name(name: str, suffixes: Collection[str] | None = None) -> bool:
    """Return whether a file of this name is data: an extension in ``suffixes``, in any case, and no system file.

    Without ``suffixes``, the extensions are those of the images that Pillow reads.

    >>> [is_image_name(name) for name in ("0001.png", "0001.PNG", "._0001.png", "Thumbs.db")]
    [True, True, False, False]
    """
    if is_system_name(name):
        return False
    suffix = Path(name).suffix.lower()
    if suffixes is not None:
        return suffix in suffixes
    return suffix in IMAGE_SUFFIXES or suffix in _pillow_suffixes()


@cache
def _pillow_suffixes() -> frozenset[str]:
    """Return the extensions of the images that Pillow reads, not those of documents and scientific data."""
    Image.init()
    return frozenset(
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
    )


def find_images(folder: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """Return the images in a folder and the folders below it, sorted; hidden folders are left out.

    ``suffixes`` are as in :func:`is_image_name`.

    Raises:
        UserError: a folder cannot be read.
    """

    def report(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read ({error.strerror})") from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=report):
        folders[:] = [name for name in folders if not is_system_name(name)]
        found += [Path(parent, name) for name in names if is_image_name(name, suffixes)]
    return sorted(found)


def read_rgb(path: Path) -> np.ndarray:
    """Return an image as uint8 ``[H, W, 3]``, upright as its EXIF orientation says; transparency is dropped.

    16 bits are scaled to 8.

    Raises:
        UserError: the file cannot be read, or has values whose scale is unknown.
    """
    with _reasons(path, "image"), Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "I" or image.mode.startswith("I;16"):  # convert() would clip them at 255
            return _gray_of_16_bits(np.asarray(image), path)
        if image.mode == "F":
            raise UserError(f"{path} has floating-point values, whose scale is unknown; convert it to 8 or 16 bits")
        return np.array(image.convert("RGB"))


def _gray_of_16_bits(values: np.ndarray, path: Path) -> np.ndarray:
    wide = values.astype(np.int32)
    if wide.min() < 0 or wide.max() > 65535:
        raise UserError(f"{path} has values from {wide.min()} to {wide.max()}; convert it to 8 or 16 bits")
    gray = ((wide + 128) // 257).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def read_ids(path: Path, *, kind: str = "image", palette_only: bool = False, hint: str = "") -> np.ndarray:
    """Return the values that a gray or palette image stores, integers ``[H, W]``, upright as :func:`read_rgb`.

    Args:
        path: the file, whose checksums are verified.
        kind: what it is, for messages.
        palette_only: whether gray images are refused, too.
        hint: follows the message about a color image.

    Raises:
        UserError: the file cannot be read, or is a color image.
    """
    with _reasons(path, kind), path.open("rb") as file:
        with Image.open(file) as image:
            image.verify()  # the checksums, which reading alone ignores
        file.seek(0)
        with Image.open(file) as image:
            if palette_only and image.mode != "P":
                raise UserError(
                    f"{path} is not a mask: it is an image of mode {image.mode}, expected a palette image (P)"
                )
            if image.mode not in _ID_MODES:
                what = "a color image" if image.mode != "F" else "an image of mode F"
                raise UserError(f"{path} is {what}, expected class ids in a gray or palette image{hint}")
            step = _gray_step(image)
            ImageOps.exif_transpose(image, in_place=True)
            ids = np.array(image)
    return ids // step if step > 1 else ids


def _gray_step(image: ImageFile.ImageFile) -> int:
    """Return the factor by which Pillow multiplies the values of an image that is not loaded yet."""
    if image.mode != "L" or not image.tile:
        return 1
    arguments = image.tile[0][3]
    raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return _GRAY_STEPS.get(str(raw_mode), 1)


@contextmanager
def _reasons(path: Path, kind: str) -> Iterator[None]:
    """Raise what Pillow raises for damage, which is almost anything, as a UserError that names the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"cannot read the {kind} {path}: damaged, or of an unknown format") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"cannot read the {kind} {path}: {str(reason).splitlines()[0]}") from error
