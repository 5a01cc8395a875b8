"""Inference on videos.

What needs PyTorch is imported when it is first used, so that commands can check their arguments before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ccnet3d.inference.pieces import Piece, piece_folder, remove_pieces, split_into_pieces
from ccnet3d.inference.remote import local_job, plan_all_jobs, read_remote, write_remote
from ccnet3d.inference.remote_store import is_remote
from ccnet3d.inference.selection import Selection, parse_moment
from ccnet3d.inference.sources import STDIN, Job, plan_jobs
from ccnet3d.inference.working_size import working_size

if TYPE_CHECKING:
    from ccnet3d.inference.devices import best_device, device_problem
    from ccnet3d.inference.exported import (
        ExportedModel,
        ExportedSegmenter,
        ExportInfo,
        fastest_runtime,
        is_exported,
        seconds_per_frame,
    )
    from ccnet3d.inference.pixels import resize_frame
    from ccnet3d.inference.prediction import AveragedPrediction, Prediction
    from ccnet3d.inference.run import RunOptions, segment_video
    from ccnet3d.inference.segmenter import VideoSegmenter
    from ccnet3d.inference.streaming import StreamingSegmenter
    from ccnet3d.inference.tta import TestTimeAugmentation

__all__ = [
    "STDIN",
    "AveragedPrediction",
    "ExportInfo",
    "ExportedModel",
    "ExportedSegmenter",
    "Job",
    "Piece",
    "Prediction",
    "RunOptions",
    "Selection",
    "StreamingSegmenter",
    "TestTimeAugmentation",
    "VideoSegmenter",
    "best_device",
    "device_problem",
    "fastest_runtime",
    "is_exported",
    "is_remote",
    "local_job",
    "parse_moment",
    "piece_folder",
    "plan_all_jobs",
    "plan_jobs",
    "read_remote",
    "remove_pieces",
    "resize_frame",
    "seconds_per_frame",
    "segment_video",
    "split_into_pieces",
    "working_size",
    "write_remote",
]

_MODULE_OF = {
    "AveragedPrediction": "prediction",
    "ExportInfo": "exported",
    "ExportedModel": "exported",
    "ExportedSegmenter": "exported",
    "Prediction": "prediction",
    "RunOptions": "run",
    "StreamingSegmenter": "streaming",
    "TestTimeAugmentation": "tta",
    "VideoSegmenter": "segmenter",
    "best_device": "devices",
    "device_problem": "devices",
    "fastest_runtime": "exported",
    "is_exported": "exported",
    "resize_frame": "pixels",
    "seconds_per_frame": "exported",
    "segment_video": "run",
}
"""The module that each lazy name is imported from; the same as the imports above."""

if not TYPE_CHECKING:  # else type checkers would accept every name

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # so that this function runs once per name
        return value
