"""Reading and writing videos; PyAV, decord and TorchCodec are imported when a video is opened."""

from __future__ import annotations

from ccnet3d.video.alpha_writer import AlphaVideoWriter
from ccnet3d.video.file_kinds import FileKinds, is_image, match_pattern, sort_files
from ccnet3d.video.gray_video import GrayVideoWriter, read_gray_video
from ccnet3d.video.image_reader import images_in_folder
from ccnet3d.video.pipe import is_pipe
from ccnet3d.video.reader import open_video
from ccnet3d.video.sample import SAMPLE_CLASSES, draw_sample_frame, draw_sample_labels, write_sample_video
from ccnet3d.video.types import VideoError, VideoFrame, VideoInfo, VideoReader
from ccnet3d.video.urls import is_address, safe_name, short_name
from ccnet3d.video.writer import VideoWriter

__all__ = [
    "SAMPLE_CLASSES",
    "AlphaVideoWriter",
    "FileKinds",
    "GrayVideoWriter",
    "VideoError",
    "VideoFrame",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "draw_sample_frame",
    "draw_sample_labels",
    "images_in_folder",
    "is_address",
    "is_image",
    "is_pipe",
    "match_pattern",
    "open_video",
    "read_gray_video",
    "safe_name",
    "short_name",
    "sort_files",
    "write_sample_video",
]
