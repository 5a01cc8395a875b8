"""Reading and writing videos; PyAV and decord are imported when a video is opened."""

from ccnet3d.video.reader import VideoError, VideoFrame, VideoInfo, VideoReader, open_video
from ccnet3d.video.writer import GrayVideoWriter, VideoWriter

__all__ = ["GrayVideoWriter", "VideoError", "VideoFrame", "VideoInfo", "VideoReader", "VideoWriter", "open_video"]
