"""Masks on disk: file formats, the output folder of a run, and reading it back."""

from __future__ import annotations

from ccnet3d.masks.formats import FORMATS
from ccnet3d.masks.mask_format import OTHER, MaskClasses, MaskFormat, MaskSequence
from ccnet3d.masks.palette import encode_mask, encode_png, paint
from ccnet3d.masks.png_format import PNG
from ccnet3d.masks.run_folder import RunFolder, check_settings, is_run_folder
from ccnet3d.masks.run_names import PROBABILITIES_NAME, SUMMARY_NAME, load_summary, numbered_files, summarized_names
from ccnet3d.masks.saved_masks import SavedMasks, open_masks

__all__ = [
    "FORMATS",
    "OTHER",
    "PNG",
    "PROBABILITIES_NAME",
    "SUMMARY_NAME",
    "MaskClasses",
    "MaskFormat",
    "MaskSequence",
    "RunFolder",
    "SavedMasks",
    "check_settings",
    "encode_mask",
    "encode_png",
    "is_run_folder",
    "load_summary",
    "numbered_files",
    "open_masks",
    "paint",
    "summarized_names",
]
