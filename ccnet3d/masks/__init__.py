"""Masks on disk: file formats, the output folder of a run, and reading it back.

The names are imported when they are first used, so that commands can list the formats at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccnet3d.masks.beside_files import BesideFile, open_beside
    from ccnet3d.masks.conversion import check_export, convert_masks, render_masks, select_classes, write_shares
    from ccnet3d.masks.cvat_format import cvat_labels
    from ccnet3d.masks.detections import to_detections
    from ccnet3d.masks.formats import FORMAT_HELP, FORMATS
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
    "FORMAT_HELP",
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

_MODULE_OF = {
    "BESIDE_KEYS": "run_names",
    "BesideFile": "beside_files",
    "FORMATS": "formats",
    "FORMAT_HELP": "formats",
    "JOURNAL_NAME": "run_names",
    "MaskClasses": "mask_format",
    "MaskFormat": "mask_format",
    "MaskSequence": "mask_format",
    "OTHER": "mask_format",
    "PNG": "png_format",
    "PROBABILITIES_NAME": "run_names",
    "RunFolder": "run_folder",
    "SUMMARY_NAME": "run_names",
    "SavedMasks": "saved_masks",
    "ShareWriter": "shares",
    "check_export": "conversion",
    "check_settings": "run_folder",
    "convert_masks": "conversion",
    "cvat_labels": "cvat_format",
    "encode_mask": "palette",
    "encode_png": "palette",
    "import_pyarrow": "shares",
    "is_run_folder": "run_folder",
    "label_studio_setup": "label_studio_format",
    "load_summary": "run_names",
    "match_frames": "saved_masks",
    "numbered_files": "run_names",
    "open_beside": "beside_files",
    "open_masks": "saved_masks",
    "paint": "palette",
    "render_masks": "conversion",
    "select_classes": "conversion",
    "summarized_names": "run_names",
    "to_detections": "detections",
    "write_shares": "conversion",
}
"""The module that each name is imported from; the same as the imports above."""

if not TYPE_CHECKING:  # else type checkers would accept every name

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # so that this function runs once per name
        return value
