"""Masks as an archive that CVAT imports as "Segmentation mask 1.1" into a task made from the same video or images."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path, timeless_entry
from ccnet3d.masks.mask_format import OTHER, IndexedMasks, MaskClasses, MaskFormat, MaskSequence, Palette
from ccnet3d.masks.palette import color_table, encode_png

__all__ = ["CVAT", "cvat_labels"]


def cvat_labels(class_names: Sequence[str], palette: Palette) -> str:
    """Return the labels of a CVAT task, as its "Raw" editor of labels accepts them.

    Args:
        class_names: the classes of the masks.
        palette: RGB of each of them.

    >>> print(cvat_labels(["road", "car"], [(128, 64, 128), (64, 0, 128)]))
    [
      {"name": "road", "color": "#804080", "attributes": []},
      {"name": "car", "color": "#400080", "attributes": []}
    ]
    """
    labels = [
        json.dumps({"name": name, "color": f"#{r:02x}{g:02x}{b:02x}", "attributes": []}, ensure_ascii=False)
        for name, (r, g, b) in zip(class_names, palette, strict=True)
    ]
    return "[\n  " + ",\n  ".join(labels) + "\n]"


def _check(classes: MaskClasses) -> None:
    colors = {tuple(classes.palette[i]) for i in classes.shown}
    if len({(0, 0, 0), *colors}) <= len(classes.shown):
        raise UserError(
            "CVAT identifies classes by color and reads black as background, but the model's palette has black or a "
            "color twice; choose another --format"
        )
    for name in (classes.names[i] for i in classes.shown):
        if not name.isprintable() or name != name.strip() or ":" in name or name[:1] in ("", "#"):
            raise UserError(
                f"CVAT's list of labels has no place for the class name {name!r}: a colon, # in front, space around it "
                "or a line break has a meaning there; choose another --format"
            )


def _check_images(names: Sequence[str]) -> None:
    for name, count in Counter(_without_suffix(name) for name in names).items():
        if count > 1:
            raise UserError(
                f"CVAT identifies images by their names without extension, and {count} of these are named {name}; "
                "choose another --format"
            )


def _write(path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    classes = sequence.classes
    _check(classes)
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{classes.names[i]}:{','.join(map(str, classes.palette[i]))}::" for i in classes.shown]
    colors = color_table(classes.palette)
    names = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        file.writestr(timeless_entry("labelmap.txt"), "\n".join(lines) + "\n")
        for position, (index, mask) in enumerate(masks):
            if sequence.image_names:
                names.append(_without_suffix(sequence.image_names[position]))
            else:
                names.append(f"frame_{index:06d}")  # as CVAT names the frames of a video
            pictures = {"SegmentationClass": colors[mask]}
            if len(classes.shown) < len(classes.names):
                pictures["SegmentationObject"] = _OBJECT_COLORS[mask]
            for folder, picture in pictures.items():
                file.writestr(timeless_entry(f"{folder}/{names[-1]}.png"), encode_png(Image.fromarray(picture)))
        file.writestr(timeless_entry("ImageSets/Segmentation/default.txt"), "".join(f"{name}\n" for name in names))


def _without_suffix(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _object_colors() -> np.ndarray:
    """Return the color of every id in a picture of objects, uint8 ``[256, 3]``: object c + 1 is class c.

    The objects are those of Pascal VOC: bit 3j + i of an object's number is bit 7 - j of its color's channel i. Pixels
    of object 0 have no label at all, while CVAT would label a black pixel without a picture of objects as background.
    """
    objects = np.arange(1, 257)
    objects[OTHER] = 0
    channels = [sum((objects >> (3 * j + i) & 1) << (7 - j) for j in range(8)) for i in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


_OBJECT_COLORS = _object_colors()


CVAT = MaskFormat(
    "cvat",
    several_sizes=True,
    file_name="cvat.zip",
    write=_write,
    read=None,  # CVAT's background stands for OTHER, and its colors need the labels of the task
    check=_check,
    check_images=_check_images,
)
