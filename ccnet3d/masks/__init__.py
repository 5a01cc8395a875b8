"""Masks on disk: file formats, the output folder of a run, and reading it back."""

from __future__ import annotations

from ccnet3d.masks.formats import (
    OTHER,
    SUMMARY_NAME,
)
from ccnet3d.masks.run_folder import (
    RunFolder,
    check_settings,
)
from ccnet3d.masks.saved_masks import (
    SavedMasks,
    open_masks,
)

__all__ = [
    "OTHER",
    "SUMMARY_NAME",
    "RunFolder",
    "SavedMasks",
    "check_settings",
    "open_masks",
]
