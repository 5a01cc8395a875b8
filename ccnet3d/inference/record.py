"""The end of a run's pipeline: masks to disk, and what the summary tells of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.inference.options import RunOptions
from ccnet3d.masks import RunFolder, formats
from ccnet3d.models import ModelInfo
from ccnet3d.video import VideoFrame, VideoWriter


class Answer(NamedTuple):
    frame: VideoFrame
    mask: np.ndarray
    """uint8 ``[H, W]``."""
    probabilities: np.ndarray | None
    """uint8 ``[K, h, w]`` in 255ths."""
    saved: bool
    """The mask is in the folder already."""


class Record:
    """Writes what each frame adds to a run, and remembers what the summary needs.

    Args:
        run: the output folder.
        info: of the model.
        shown: each class id as masks have it, uint8 ``[256]``.
        options: of the run.
        overlay: the open overlay, if there is one.
        on_frame: told of each frame when its mask is on disk.
    """

    def __init__(
        self,
        run: RunFolder,
        info: ModelInfo,
        shown: np.ndarray,
        options: RunOptions,
        overlay: VideoWriter | None,
        on_frame: Callable[[dict[str, Any]], None],
    ) -> None:
        self._run = run
        self._info = info
        self._class_ids = [i for i in range(len(info.class_names)) if shown[i] == i]
        self._options = options
        self._overlay = overlay
        self._on_frame = on_frame
        self._size: tuple[int, int] | None = None
        self._numbers: list[int] = []
        self._times: list[float | None] = []
        self._pixels = np.zeros(256, np.int64)

    def add(self, answer: Answer) -> None:
        """Write a frame's mask and what goes with it.

        Raises:
            ValueError: a frame of another size, for a format that holds one.
            OSError: it cannot be written.
        """
        frame, mask = answer.frame, answer.mask
        self._size = self._size or (mask.shape[0], mask.shape[1])
        if mask.shape != self._size and self._options.format in ("npz", "ffv1"):
            raise UserError(
                f"frame {frame.index} is {mask.shape[1]}x{mask.shape[0]}, those before are "
                f"{self._size[1]}x{self._size[0]}, and {self._options.format} holds one size; use --format png"
            )
        if self._overlay:
            painted = formats.paint(frame.image, mask, self._info.palette, self._options.opacity)
            self._overlay.write(painted, frame.pts_seconds)
        if not answer.saved:
            if answer.probabilities is not None:
                self._run.probabilities.mkdir(exist_ok=True)
                path = self._run.probabilities / f"{frame.index:06d}.npz"
                write_atomically(path, formats.encode_probabilities(answer.probabilities))
            # The mask comes last: where it is, all of its frame is.
            write_atomically(self._path(frame.index), formats.encode_mask(mask, self._info.palette))
        pixels = np.array(Image.fromarray(mask).histogram())  # faster than bincount, which wants 64-bit ids
        self._pixels += pixels
        self._numbers.append(frame.index)
        self._times.append(frame.pts_seconds)
        names = self._info.class_names
        self._on_frame(
            {
                "frame": frame.index,
                "pts_seconds": frame.pts_seconds,
                "class_pixels": {names[i]: int(pixels[i]) for i in self._class_ids if pixels[i]},
            }
        )

    def _path(self, number: int) -> Path:
        return formats.mask_path(self._run.masks, number)

    def pack(self, frames_per_second: float | None) -> None:
        """Make the one file of formats that have one."""
        if self._run.file is None:
            return
        masks = formats.saved_masks(self._run.masks, self._numbers)
        if self._options.format == "npz":
            assert self._size is not None
            formats.write_npz(self._run.file, masks, self._numbers, self._size)
        elif self._options.format == "ffv1":
            formats.write_ffv1(self._run.file, masks, frames_per_second)
        else:
            formats.write_cvat(self._run.file, masks, self._info.class_names, self._info.palette)

    def table(self) -> dict[str, Any]:
        """What the summary tells of the masks."""
        height, width = self._size or (0, 0)
        total = int(self._pixels.sum())
        return {
            "frames": len(self._numbers),
            "frame_numbers": self._numbers,
            "width": width,
            "height": height,
            "pts_seconds": self._times,
            "classes": [
                {
                    "id": i,
                    "name": self._info.class_names[i],
                    "color": list(self._info.palette[i]),
                    "pixel_share": int(self._pixels[i]) / total,
                }
                for i in self._class_ids
            ],
        }
