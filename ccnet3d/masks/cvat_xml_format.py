"""Masks as polygons in XML, which CVAT imports as "CVAT 1.1" into a task made from the same video or images.

The file has the form "CVAT for images 1.1" for videos too: the importer finds the frame of a video by its name, and the
other form, of tracks, has no use for regions without identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from ccnet3d.files import atomic_path
from ccnet3d.masks.mask_format import IndexedMasks, MaskClasses, MaskFormat, MaskSequence
from ccnet3d.masks.polygons import import_cv2, mask_polygons

__all__ = ["CVAT_XML"]


def _check(_: MaskClasses) -> None:
    import_cv2()


def _write(path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    _check(sequence.classes)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        _write_meta(file, sequence)
        for position, (index, mask) in enumerate(masks):
            name = sequence.image_names[position] if sequence.image_names else f"frame_{index:06d}"
            height, width = mask.shape
            file.write(f'<image id="{index}" name={quoteattr(name)} width="{width}" height="{height}">\n')
            for class_id in sequence.classes.shown:
                label = quoteattr(sequence.classes.names[class_id])
                for polygon in mask_polygons(mask == class_id):
                    file.write(
                        f'<polygon label={label} source="auto" occluded="0" points="{_points(polygon)}" z_order="0"/>\n'
                    )
            file.write("</image>\n")
        file.write("</annotations>\n")


def _write_meta(file: IO[str], sequence: MaskSequence) -> None:
    height, width = sequence.size
    file.write(f"<meta>\n<task>\n<size>{len(sequence.frame_indices)}</size>\n<mode>annotation</mode>\n<labels>\n")
    for i in sequence.classes.shown:
        name, color = escape(sequence.classes.names[i]), _hexadecimal(sequence.classes.palette[i])
        file.write(f"<label><name>{name}</name><color>{color}</color><type>polygon</type><attributes/></label>\n")
    file.write(
        f"</labels>\n</task>\n<original_size><width>{width}</width><height>{height}</height></original_size>\n</meta>\n"
    )


def _hexadecimal(color: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in color)


def _points(polygon: np.ndarray) -> str:
    return ";".join(f"{x:g},{y:g}" for x, y in polygon.tolist())


CVAT_XML = MaskFormat(
    "cvat-xml",
    several_sizes=True,
    file_name="cvat.xml",
    write=_write,
    read=None,  # polygons are not exact
    check=_check,
)
