"""Masks on disk: file formats, the output folder of a run, and reading it back."""

from __future__ import annotations

from ccnet3d.masks.beside_files import BesideFile, open_beside
from ccnet3d.masks.conversion import check_export, convert_masks, render_masks, select_classes, write_shares
from ccnet3d.masks.cvat_format import cvat_labels
from ccnet3d.masks.detections import to_detections
from ccnet3d.masks.formats import FORMATS
from ccnet3d.masks.label_studio_format import label_studio_setup
from ccnet3d.masks.mask_format import OTHER, MaskClasses, MaskFormat, MaskSequence
from ccnet3d.masks.palette import encode_mask, encode_png, paint
from ccnet3d.masks.png_format import PNG
from ccnet3d.masks.run_folder import RunFolder, check_settings, is_run_folder
from ccnet3d.masks.run_names import (
    BESIDE_KEYS,
    JOURNAL_NAME,
    PROBABILITIES_NAME,
    SUMMARY_NAME,
    load_summary,
    numbered_files,
    summarized_names,
)
from ccnet3d.masks.saved_masks import SavedMasks, match_frames, open_masks
from ccnet3d.masks.shares import ShareWriter, import_pyarrow

__all__ = [
    "BESIDE_KEYS",
    "FORMATS",
    "JOURNAL_NAME",
    "OTHER",
    "PNG",
    "PROBABILITIES_NAME",
    "SUMMARY_NAME",
    "BesideFile",
    "MaskClasses",
    "MaskFormat",
    "MaskSequence",
    "RunFolder",
    "SavedMasks",
    "ShareWriter",
    "check_export",
    "check_settings",
    "convert_masks",
    "cvat_labels",
    "encode_mask",
    "encode_png",
    "import_pyarrow",
    "is_run_folder",
    "label_studio_setup",
    "load_summary",
    "match_frames",
    "numbered_files",
    "open_beside",
    "open_masks",
    "paint",
    "render_masks",
    "select_classes",
    "summarized_names",
    "to_detections",
    "write_shares",
]
