"""Inference on videos."""

from __future__ import annotations

from ccnet3d.inference.pieces import Piece, piece_folder, remove_pieces, split_into_pieces
from ccnet3d.inference.pixels import resize_frame
from ccnet3d.inference.prediction import AveragedPrediction, Prediction
from ccnet3d.inference.remote import local_job, plan_all_jobs, read_remote, write_remote
from ccnet3d.inference.remote_store import is_remote
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
    "Piece",
    "Prediction",
    "RunOptions",
    "Selection",
    "TestTimeAugmentation",
    "VideoSegmenter",
    "is_remote",
    "local_job",
    "parse_moment",
    "piece_folder",
    "plan_all_jobs",
    "plan_jobs",
    "read_remote",
    "remove_pieces",
    "resize_frame",
    "segment_video",
    "split_into_pieces",
    "working_size",
    "write_remote",
]
