"""Inference on videos."""

from __future__ import annotations

from ccnet3d.inference.devices import best_device, device_problem
from ccnet3d.inference.pixels import resize_frame
from ccnet3d.inference.prediction import AveragedPrediction, Prediction
from ccnet3d.inference.run import RunOptions, segment_video
from ccnet3d.inference.segmenter import VideoSegmenter
from ccnet3d.inference.selection import Selection, parse_moment
from ccnet3d.inference.sources import STDIN, Job, plan_jobs
from ccnet3d.inference.tta import TestTimeAugmentation
from ccnet3d.inference.working_size import working_size

__all__ = [
    "STDIN",
    "AveragedPrediction",
    "Job",
    "Prediction",
    "RunOptions",
    "Selection",
    "TestTimeAugmentation",
    "VideoSegmenter",
    "best_device",
    "device_problem",
    "parse_moment",
    "plan_jobs",
    "resize_frame",
    "segment_video",
    "working_size",
]
