"""The tables of the formats; a new one is one file beside this one and one entry in each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccnet3d.masks.mask_format import MaskFormat

    FORMATS: dict[str, MaskFormat]

__all__ = ["FORMATS", "FORMAT_HELP"]

FORMAT_HELP = {
    "png": "one palette PNG per frame",
    "npz": "masks.npz",
    "ffv1": "masks.mkv, lossless",
    "cvat": "cvat.zip for import into CVAT",
    "cvat-xml": "cvat.xml, polygons for import into CVAT (needs OpenCV)",
    "coco-rle": "coco.json, COCO annotations as RLE (needs pycocotools)",
    "label-studio": "label_studio.json, tasks with brush predictions",
}
"""One line for the help of commands by the name of a format; the first is the default."""


def _formats() -> dict[str, MaskFormat]:
    from ccnet3d.masks.coco_rle_format import COCO_RLE
    from ccnet3d.masks.cvat_format import CVAT
    from ccnet3d.masks.cvat_xml_format import CVAT_XML
    from ccnet3d.masks.ffv1_format import FFV1
    from ccnet3d.masks.label_studio_format import LABEL_STUDIO
    from ccnet3d.masks.npz_format import NPZ
    from ccnet3d.masks.png_format import PNG

    return {one.name: one for one in (PNG, NPZ, FFV1, CVAT, CVAT_XML, COCO_RLE, LABEL_STUDIO)}


def __getattr__(name: str) -> object:
    """Make ``FORMATS``, every format by its name, when it is first used: the formats import NumPy and more."""
    if name != "FORMATS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    globals()[name] = formats = _formats()
    return formats
