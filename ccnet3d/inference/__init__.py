"""Inference on videos."""

from ccnet3d.inference.output import write_masks
from ccnet3d.inference.segmenter import VideoSegmenter

__all__ = ["VideoSegmenter", "write_masks"]
