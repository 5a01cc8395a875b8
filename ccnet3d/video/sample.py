"""A small synthetic clip, for a first run without a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ccnet3d.video.writer import VideoWriter

__all__ = ["draw_sample_frame", "write_sample_video"]


def draw_sample_frame(index: int, height: int = 360, width: int = 480) -> np.ndarray:
    """Draw the clip's frame at ``index``: a road under the sky, a wall, a pole and a box that comes closer.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    >>> from ccnet3d.video import draw_sample_frame
    >>> draw_sample_frame(0, height=48, width=64).shape
    (48, 64, 3)
    """
    image = Image.new("RGB", (width, height), (150, 180, 215))
    draw = ImageDraw.Draw(image)
    horizon, middle = height * 0.45, width * 0.5
    draw.rectangle([0, height * 0.15, width * 0.3, height * 0.6], fill=(120, 95, 85))
    draw.rectangle([width * 0.72, height * 0.2, width, height * 0.6], fill=(135, 120, 100))
    draw.rectangle([0, height * 0.55, width, height], fill=(125, 120, 115))
    draw.polygon(
        [(middle - 8, horizon), (middle + 8, horizon), (width * 0.95, height), (width * 0.05, height)],
        fill=(82, 82, 86),
    )
    for mark in range(6):  # lane marks move toward the camera
        depth = ((mark + index / 8) % 6 / 6) ** 2
        y = horizon + depth * (height - horizon)
        draw.rectangle([middle - 1 - 4 * depth, y, middle + 1 + 4 * depth, y + 3 + 22 * depth], fill=(225, 225, 220))
    x = width * (0.12 + 0.002 * index)
    draw.rectangle([x, height * 0.1, x + 5, height * 0.75], fill=(70, 70, 72))
    size = 16 + index
    left, bottom = middle + 12 + 0.8 * size, horizon + 12 + 1.2 * size
    draw.rectangle([left, bottom - 0.75 * size, left + size, bottom], fill=(150, 25, 30))
    draw.rectangle(
        [left + 0.12 * size, bottom - 0.68 * size, left + 0.88 * size, bottom - 0.4 * size], fill=(45, 50, 60)
    )
    noise = np.random.default_rng(index).normal(0, 4, (height, width, 1))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def write_sample_video(path: Path, frames: int = 30, frames_per_second: float = 15.0) -> None:
    """Write the synthetic clip to an mp4 file.

    >>> from pathlib import Path
    >>> from ccnet3d.video import open_video, write_sample_video
    >>> write_sample_video(Path("sample.mp4"), frames=3)
    >>> with open_video("sample.mp4") as reader:
    ...     len(reader)
    3
    """
    with VideoWriter(path, frames_per_second) as writer:
        for index in range(frames):
            writer.write(draw_sample_frame(index), None)
