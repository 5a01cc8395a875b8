"""The table of the formats; a new one is one file beside this one and one entry here."""

from __future__ import annotations

from ccnet3d.masks.coco_rle_format import COCO_RLE
from ccnet3d.masks.cvat_format import CVAT
from ccnet3d.masks.cvat_xml_format import CVAT_XML
from ccnet3d.masks.ffv1_format import FFV1
from ccnet3d.masks.label_studio_format import LABEL_STUDIO
from ccnet3d.masks.npz_format import NPZ
from ccnet3d.masks.png_format import PNG

__all__ = ["FORMATS"]

FORMATS = {mask_format.name: mask_format for mask_format in (PNG, NPZ, FFV1, CVAT, CVAT_XML, COCO_RLE, LABEL_STUDIO)}
"""Every format by its name; the first is the default."""
