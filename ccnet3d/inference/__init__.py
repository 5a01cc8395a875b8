"""Inference on videos."""

from ccnet3d.inference.options import RunOptions
from ccnet3d.inference.run import segment_video
from ccnet3d.inference.saved import SavedMasks, open_masks
from ccnet3d.inference.segmenter import Prediction, VideoSegmenter
from ccnet3d.inference.selection import Selection, parse_position
from ccnet3d.inference.views import ViewsSegmenter

__all__ = [
    "Prediction",
    "RunOptions",
    "SavedMasks",
    "Selection",
    "VideoSegmenter",
    "ViewsSegmenter",
    "open_masks",
    "parse_position",
    "segment_video",
]
