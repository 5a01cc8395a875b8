"""Everything that a run writes: masks, probabilities, files beside them, the one file of a format, and the summary."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.inference.frame_log import FrameLog
from ccnet3d.inference.source_files import image_names
from ccnet3d.journal import relative_name
from ccnet3d.masks import BESIDE_KEYS, OTHER, BesideFile, MaskClasses, MaskSequence, RunFolder
from ccnet3d.video import VideoFrame, VideoInfo

__all__ = ["FrameOutput", "RunWriter"]


class FrameOutput(NamedTuple):
    """What a run knows of a frame when it is written."""

    frame: VideoFrame
    mask: np.ndarray
    """uint8 ``[H, W]``."""
    probabilities: np.ndarray | None
    """uint8 ``[K, h, w]`` in 255ths, where they are to be written."""
    saved: bool
    """The mask is in the folder already."""


class RunWriter:
    """Write the outputs of one run and collect the statistics of its summary.

    Call :meth:`begin`, then :meth:`add` for every frame within ``with writer``, then :meth:`complete`. The files
    beside the masks appear under their names when the block ends without an error.

    Args:
        run: the output folder.
        classes: of the model, and those that masks show.
        video: its name, path and frame rate.
        on_frame: called for each frame when its mask is on disk.
    """

    def __init__(
        self, run: RunFolder, classes: MaskClasses, video: VideoInfo, on_frame: Callable[[dict[str, Any]], None]
    ) -> None:
        self._run = run
        self._classes = classes
        self._video = video
        self._on_frame = on_frame
        self._context = ExitStack()
        self._beside: Sequence[BesideFile] = ()
        self._size: tuple[int, int] | None = None
        self._log = FrameLog()
        self._frame_indices: list[int] = []  # both once the block has ended
        self._times: list[float | None] = []
        self._pixels = np.zeros(256, np.int64)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._log:
            self._context.__exit__(kind, error, trace)
            if error is None:
                self._frame_indices, self._times = self._log.indices(), self._log.times()
                return
        with suppress(UserError):  # the error itself counts
            self._run.give_up()

    def begin(
        self,
        settings: Mapping[str, Any],
        *,
        beside: Sequence[BesideFile],
        resume: bool,
        overwrite: bool,
        frames: Container[int],
    ) -> list[int]:
        """Take possession of the output folder and open the files beside it.

        Args:
            settings: what a run that resumes this one must have in common with it.
            beside: the files elsewhere.
            resume: continue an interrupted run.
            overwrite: replace what an earlier run wrote.
            frames: the frame indices that may occur.

        Returns:
            The frame indices of the masks that are in the folder already.

        Raises:
            UserError: the folder or a file cannot be used.
        """

        def open_files() -> None:
            for file in beside:
                self._context.enter_context(file.writer)

        saved = self._run.begin(
            {**settings, **dict.fromkeys(BESIDE_KEYS), **{one.key: str(one.path.absolute()) for one in beside}},
            resume=resume,
            overwrite=overwrite,
            beside=[file.path for file in beside],
            frames=frames,
            when_checked=open_files,
        )
        self._beside = beside
        for file in beside:
            self._run.claim(file.path)
        self._context.push(self._before_files_appear)
        return saved

    def _before_files_appear(self, _: object, error: BaseException | None, __: object) -> None:
        """Check that nobody has written a file of those names while the run lasted."""
        for file in self._beside if error is None else ():
            self._run.claim(file.path)

    def add(self, output: FrameOutput) -> None:
        """Write a frame's mask and what belongs to it.

        Raises:
            UserError: a frame of another size, for a format of one size.
            OutputError: a file cannot be written.
        """
        frame, mask = output.frame, output.mask
        self._size = self._size or (mask.shape[0], mask.shape[1])
        if mask.shape != self._size and not self._run.format.several_sizes:
            raise UserError(
                f"frame {frame.index} is {mask.shape[1]}x{mask.shape[0]}, those before are "
                f"{self._size[1]}x{self._size[0]}, and {self._run.format.name} stores one size; use --format png"
            )
        pixels = np.array(Image.fromarray(mask).histogram())  # faster than bincount, which needs 64-bit ids
        for file in self._beside:
            file.add(frame, mask, pixels)
        if not output.saved:
            if output.probabilities is not None:
                self._run.write_probabilities(frame.index, output.probabilities)
            # The mask comes last: where it is, everything of its frame is.
            self._run.write_mask(frame.index, mask, self._classes.palette)
        self._pixels += pixels
        self._log.add(frame.index, frame.pts_seconds)
        names = self._classes.names
        self._on_frame(
            {
                "frame": frame.index,
                "pts_seconds": frame.pts_seconds,
                "class_pixels": {names[i]: int(pixels[i]) for i in self._classes.shown if pixels[i]},
            }
        )

    def complete(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the one file of a format that has one, and ``summary.json``.

        Args:
            facts: further entries of the summary.

        Returns:
            The summary.
        """
        names = image_names(self._video)
        sequence = MaskSequence(
            self._classes,
            self._frame_indices,
            self._size or (0, 0),
            self._video.frames_per_second,
            [names[index] for index in self._frame_indices] if names else None,
            self._video.name,
        )
        self._run.write_file(sequence)
        summary = {
            "video": self._video.name,
            **({"image_names": sequence.image_names} if names else {}),
            "format": self._run.format.name,
            **({"mask_files": [f"{self._run.stem}.png"]} if self._run.stem else {}),
            **self._statistics(),
            "frames_per_second": self._video.frames_per_second,
            **dict.fromkeys(BESIDE_KEYS),
            **{file.key: relative_name(self._run.folder, file.path) for file in self._beside},
            **facts,
        }
        self._run.complete(summary)
        return summary

    def _statistics(self) -> dict[str, Any]:
        height, width = self._size or (0, 0)
        total = int(self._pixels.sum()) or 1  # a piece may have no frame
        return {
            "frames": len(self._frame_indices),
            "frame_numbers": self._frame_indices,
            "width": width,
            "height": height,
            "pts_seconds": self._times,
            "classes": [
                {
                    "id": i,
                    "name": self._classes.names[i],
                    "color": list(self._classes.palette[i]),
                    "pixel_share": int(self._pixels[i]) / total,
                }
                for i in self._classes.shown
            ],
            "unassigned_pixel_share": int(self._pixels[OTHER]) / total,
        }
