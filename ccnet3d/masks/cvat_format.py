"""Masks as an archive that CVAT imports as "Segmentation mask 1.1" into a task made from the same video."""

from __future__ import annotations

import zipfile
from pathlib import Path

from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path, timeless_entry
from ccnet3d.masks.mask_format import IndexedMasks, MaskClasses, MaskFormat, MaskSequence
from ccnet3d.masks.palette import color_table, encode_png

__all__ = ["CVAT"]


def _check(classes: MaskClasses) -> None:
    if len({(0, 0, 0), *map(tuple, classes.palette)}) <= len(classes.palette):
        raise UserError(
            "CVAT identifies classes by color and reads black as background, but the model's palette has black or a "
            "color twice; choose another --format"
        )


def _write(path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    classes = sequence.classes
    _check(classes)
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(classes.names, classes.palette, strict=True)]
    colors = color_table(classes.palette)
    names = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        file.writestr(timeless_entry("labelmap.txt"), "\n".join(lines) + "\n")
        for index, mask in masks:
            names.append(f"frame_{index:06d}")  # as CVAT names the frames of a video
            file.writestr(
                timeless_entry(f"SegmentationClass/{names[-1]}.png"), encode_png(Image.fromarray(colors[mask]))
            )
        file.writestr(timeless_entry("ImageSets/Segmentation/default.txt"), "".join(f"{name}\n" for name in names))


CVAT = MaskFormat(
    "cvat",
    help="cvat.zip for import into CVAT",
    several_sizes=True,
    file_name="cvat.zip",
    write=_write,
    read=None,  # CVAT's background stands for OTHER, and its colors need the labels of the task
    check=_check,
)
