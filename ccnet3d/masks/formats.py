"""Masks as files: palette PNG, npz, FFV1 video, CVAT archive, and painted over their frame."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path
from ccnet3d.video import GrayVideoWriter

Palette = Sequence[tuple[int, int, int]]

NumberedMasks = Iterable[tuple[int, np.ndarray]]
"""Number of a frame in its video and its mask, uint8 ``[H, W]``, in order."""

SUMMARY_NAME, PROBABILITIES_NAME = "summary.json", "probabilities"
NPZ_NAME, FFV1_NAME, CVAT_NAME = "masks.npz", "masks.mkv", "cvat.zip"

FILE_NAMES = {"png": None, "npz": NPZ_NAME, "ffv1": FFV1_NAME, "cvat": CVAT_NAME}
"""The formats, and the name of the one file of those that have one."""

OTHER = 255
"""Id of pixels of classes that were not asked for."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # archives of equal content are equal


def encode_mask(mask: np.ndarray, palette: Palette) -> bytes:
    """A palette PNG whose pixel values are the class ids.

    Args:
        mask: uint8 ``[H, W]``.
        palette: RGB of each class; ids without one are black.
    """
    image = Image.fromarray(mask)
    image.putpalette(_full_palette(palette).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def decode_mask(path: Path) -> np.ndarray:
    """The mask uint8 ``[H, W]`` of a file of :func:`encode_mask`.

    Raises:
        ValueError: the file is something else, or damaged.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # the checksums, which reading alone does not look at
        with Image.open(path) as image:
            if image.mode == "P":
                return np.array(image)
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG
        raise UserError(f"cannot read the mask {path}: {error}") from error
    raise UserError(f"{path} is no mask: it is an image of mode {image.mode}, expected a palette image (P)")


def paint(image: np.ndarray, mask: np.ndarray, palette: Palette, opacity: float = 0.5) -> np.ndarray:
    """Paint the classes over a frame; pixels of the id OTHER stay as they are.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        mask: uint8 ``[H, W]``.
        palette: RGB of each class.
        opacity: share of the class colour, in [0, 1].

    Returns:
        uint8 ``[H, W, 3]``.
    """
    share = round(256 * opacity)  # in 256ths, so that 16-bit integers hold all of it
    colors = _full_palette(palette).astype(np.uint16) * share + 128
    keep = np.full(256, 256 - share, np.uint16)
    colors[OTHER], keep[OTHER] = 0, 256
    # take() is several times as fast as indexing with an array
    mixed = image * keep.take(mask)[..., None]
    mixed += colors.take(mask, axis=0)
    return (mixed >> 8).astype(np.uint8)


def _full_palette(palette: Palette) -> np.ndarray:
    """uint8 ``[256, 3]``."""
    full = np.zeros((256, 3), np.uint8)
    full[: len(palette)] = palette
    return full


def write_npz(path: Path, masks: NumberedMasks, numbers: Sequence[int], size: tuple[int, int]) -> None:
    """``masks`` uint8 ``[N, H, W]`` and ``frames`` int64 ``[N]`` in a compressed npz file, one mask in memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(numbers), *size)}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        with file.open(_entry("masks.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for _, mask in masks:
                member.write(mask.tobytes())
        with file.open(_entry("frames.npy"), "w") as member:
            np.lib.format.write_array(member, np.asarray(numbers, np.int64), version=(1, 0))


def write_ffv1(path: Path, masks: NumberedMasks, frames_per_second: float | None) -> None:
    """A Matroska file with lossless gray FFV1 video whose pixel values are the class ids."""
    with GrayVideoWriter(path, frames_per_second) as writer:
        for _, mask in masks:
            writer.write(mask)


def write_cvat(path: Path, masks: NumberedMasks, class_names: Sequence[str], palette: Palette) -> None:
    """An archive that CVAT imports as "Segmentation mask 1.1", for a task made from the same video.

    Raises:
        ValueError: two classes have one colour, or one is black, which CVAT reads as background.
    """
    if len({(0, 0, 0), *map(tuple, palette)}) <= len(palette):
        raise UserError(
            "cvat tells classes by colour and takes black for background, but the model's palette has black or a "
            "colour twice; use another --format"
        )
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(class_names, palette, strict=True)]
    full = _full_palette(palette)
    names = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        file.writestr(_entry("labelmap.txt"), "\n".join(lines) + "\n")
        for number, mask in masks:
            names.append(f"frame_{number:06d}")  # as CVAT names the frames of a video
            buffer = io.BytesIO()
            Image.fromarray(full[mask]).save(buffer, "PNG", compress_level=2)
            file.writestr(_entry(f"SegmentationClass/{names[-1]}.png"), buffer.getvalue())
        file.writestr(_entry("ImageSets/Segmentation/default.txt"), "".join(f"{name}\n" for name in names))


def encode_probabilities(probabilities: np.ndarray) -> bytes:
    """A compressed npz file with ``probabilities``, uint8 ``[K, h, w]`` in 255ths."""
    buffer = io.BytesIO()
    array = io.BytesIO()
    np.lib.format.write_array(array, probabilities, version=(1, 0))
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(_entry("probabilities.npy"), array.getvalue(), compresslevel=1)
    return buffer.getvalue()


def saved_numbers(folder: Path) -> list[int]:
    """Numbers of the frames whose masks lie in a folder as PNGs, in order; other images there are left out."""
    paths = (path for path in folder.glob("*.png") if path.stem.isdecimal() and len(path.stem) >= 6)
    return sorted(int(path.stem) for path in paths if _has_palette(path))


def _has_palette(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode == "P"
    except OSError:
        return False


def mask_path(folder: Path, number: int) -> Path:
    """Where the mask of a frame lies."""
    return folder / f"{number:06d}.png"


def saved_masks(folder: Path, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Read the PNGs of :func:`encode_mask` one after the other."""
    for number in numbers:
        yield number, decode_mask(mask_path(folder, number))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
