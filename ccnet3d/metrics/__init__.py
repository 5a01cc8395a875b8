"""Metrics: meters that count each frame, and scores that are computed from the counts."""

from __future__ import annotations

from ccnet3d.metrics.aggregation import Samples
from ccnet3d.metrics.boundary import BoundaryF, boundary_f
from ccnet3d.metrics.boundary_iou import BoundaryIou
from ccnet3d.metrics.confusion import (
    ConfusionMeter,
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_class_accuracy,
    mean_iou,
    pixel_accuracy,
)
from ccnet3d.metrics.consistency import ChangedPixels, KeptPixels, OpticalFlow, TemporalConsistency, VideoConsistency
from ccnet3d.metrics.flicker import Flicker, flicker_mask
from ccnet3d.metrics.flow import dis_flow, raft_flow
from ccnet3d.metrics.meter import Meter, share
from ccnet3d.metrics.scores import (
    MeterOptions,
    Metric,
    Score,
    choose_metrics,
    find_metric,
    find_score,
    scores_of_options,
)

__all__ = [
    "BoundaryF",
    "BoundaryIou",
    "ChangedPixels",
    "ConfusionMeter",
    "Flicker",
    "KeptPixels",
    "Meter",
    "MeterOptions",
    "Metric",
    "OpticalFlow",
    "Samples",
    "Score",
    "TemporalConsistency",
    "VideoConsistency",
    "boundary_f",
    "choose_metrics",
    "class_accuracy",
    "class_iou",
    "confusion_matrix",
    "dis_flow",
    "find_metric",
    "find_score",
    "flicker_mask",
    "frequency_weighted_iou",
    "mean_class_accuracy",
    "mean_iou",
    "pixel_accuracy",
    "raft_flow",
    "scores_of_options",
    "share",
]
