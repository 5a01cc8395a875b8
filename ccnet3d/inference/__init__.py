"""Inference on videos."""

from __future__ import annotations

from ccnet3d.inference.options import (
    RunOptions,
)
from ccnet3d.inference.pixels import (
    resize_frame,
)
from ccnet3d.inference.run import (
    segment_video,
)
from ccnet3d.inference.segmenter import (
    Prediction,
    VideoSegmenter,
)
from ccnet3d.inference.selection import (
    Selection,
    parse_position,
)
from ccnet3d.inference.sources import (
    STDIN,
    Job,
    plan_jobs,
)
from ccnet3d.inference.tta import (
    TestTimeAugmentation,
)
from ccnet3d.masks import (
    SavedMasks,
    open_masks,
)

__all__ = [
    "STDIN",
    "Job",
    "Prediction",
    "RunOptions",
    "SavedMasks",
    "Selection",
    "TestTimeAugmentation",
    "VideoSegmenter",
    "open_masks",
    "parse_position",
    "plan_jobs",
    "resize_frame",
    "segment_video",
]
