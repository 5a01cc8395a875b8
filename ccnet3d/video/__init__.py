"""Reading and writing videos; PyAV and decord are imported when a video is opened."""

from __future__ import annotations

from ccnet3d.video.gray_video import GrayVideoWriter, read_gray_video
from ccnet3d.video.image_reader import images_in_folder
from ccnet3d.video.reader import open_video
from ccnet3d.video.sample import draw_sample_frame, write_sample_video
from ccnet3d.video.types import VideoError, VideoFrame, VideoInfo, VideoReader
from ccnet3d.video.writer import VideoWriter

__all__ = [
    "GrayVideoWriter",
    "VideoError",
    "VideoFrame",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "draw_sample_frame",
    "images_in_folder",
    "open_video",
    "read_gray_video",
    "write_sample_video",
]
