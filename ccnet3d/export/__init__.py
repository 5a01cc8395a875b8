"""Models exported to other formats, and how their predictions differ."""

from __future__ import annotations

from ccnet3d.export.exporter import DEFAULT_MIN_EQUAL, PRECISIONS, TARGETS, export_model
from ccnet3d.export.parity import Parity, compare_segmenters

__all__ = ["DEFAULT_MIN_EQUAL", "PRECISIONS", "TARGETS", "Parity", "compare_segmenters", "export_model"]
