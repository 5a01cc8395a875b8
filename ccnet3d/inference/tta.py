"""Test-time augmentation: masks from several views of each frame, at several scales, mirrored, or in windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from fractions import Fraction
from itertools import chain, tee
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.errors import UserError, explain_out_of_memory
from ccnet3d.inference.pixels import resize_frame
from ccnet3d.inference.prediction import AveragedPrediction
from ccnet3d.inference.streaming import StreamingSegmenter

__all__ = ["TestTimeAugmentation", "window_starts"]

_MOST_SCALE = 16
"""The largest factor of the working size, and the inverse of the smallest."""


class TestTimeAugmentation:
    """Segment like a :class:`ccnet3d.inference.VideoSegmenter`, by the mean of the class probabilities of all views.

    Every view is a video that streams in parallel with the others, so that memory is constant in the video's length.
    Clips are blended and predictions smoothed within each view, before the views are averaged.

    Args:
        segmenter: the model and how it is run.
        scales: factors of the working size, as in DeepLab (Chen et al., TPAMI 2018, section 4.1).
        flip: also segment each view mirrored left to right.
        window: height and width in pixels of windows that are cut from the frame at its own size (times the scale), for
            frames that are too large for the working size; None shows the whole frame at the working size.
        overlap: least share of a window that its neighbor also covers. Where windows overlap, the weight of a pixel
            grows with its distance from the window's edges.

    Raises:
        UserError: an argument out of its range.

    >>> from ccnet3d.inference import VideoSegmenter
    >>> from ccnet3d.models import load_model
    >>> segmenter = VideoSegmenter(*load_model(), input_size=(32, 48))
    >>> augmented = TestTimeAugmentation(segmenter, scales=[1.0, 1.5], flip=True)
    >>> [mask.shape for mask in augmented.segment(np.zeros((2, 60, 80, 3), np.uint8))]
    [(60, 80), (60, 80)]
    """

    __test__ = False  # pytest takes classes of this name for tests

    def __init__(
        self,
        segmenter: StreamingSegmenter,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: tuple[int, int] | None = None,
        overlap: float = 1 / 3,
    ) -> None:
        if not scales or not all(1 / _MOST_SCALE <= scale <= _MOST_SCALE for scale in scales):
            raise UserError(
                f"scales must be numbers from 1/{_MOST_SCALE} to {_MOST_SCALE}, at least one, got {list(scales)}"
            )
        if window is not None and min(window) < 1:
            raise UserError(f"window must be at least 1 pixel high and wide, got {window}")
        if not 0 <= overlap < 1:
            raise UserError(f"overlap must be a share of a window from 0 to less than 1, got {overlap}")
        self.info = segmenter.info
        self.segmenter = segmenter
        self.smoothing = segmenter.smoothing
        self.scales = tuple(scales)
        self.flip = flip
        self.window = window
        self.overlap = overlap

    @property
    def batch_size(self) -> int:
        """Of the segmenter, which halves it when memory runs out."""
        return self.segmenter.batch_size

    @property
    def clip_length(self) -> int:
        """Of the segmenter."""
        return self.segmenter.clip_length

    @property
    def causal(self) -> bool:
        """Whether predictions depend on earlier frames only."""
        return self.segmenter.causal

    def with_causal(self, causal: bool) -> TestTimeAugmentation:
        """Return one that shares the network and has this ``causal``."""
        other = copy(self)
        other.segmenter = self.segmenter.with_causal(causal)
        return other

    def working_size(self, frame_size: tuple[int, int], pixel_aspect: Fraction | float = 1) -> tuple[int, int]:
        """Return the working size at the scale 1, of a window if there are any; see the segmenter's method."""
        if self.window:
            return min(self.window[0], frame_size[0]), min(self.window[1], frame_size[1])
        return self.segmenter.working_size(frame_size, pixel_aspect)

    def settings(self) -> dict[str, Any]:
        """Return what predictions depend on except the video and the smoothing, as plain JSON."""
        views: dict[str, Any] = {"scales": list(self.scales), "flip": self.flip}
        if self.window:
            views |= {"window": list(self.window), "overlap": self.overlap}
        return {**self.segmenter.settings(), "views": views}

    def history(self, smoothing: int | None = None) -> int:
        """Return how many frames before a frame its prediction may depend on."""
        return self.segmenter.history(smoothing)

    def segment(self, frames: Iterable[np.ndarray], *, smoothing: int | None = None) -> Iterator[np.ndarray]:
        """Yield one mask per frame, in order; see :meth:`StreamingSegmenter.segment`.

        Raises:
            UserError: frames of several sizes, where windows are cut from them, or not enough memory.
        """
        for prediction in self.predict(frames, smoothing=smoothing):
            yield prediction.mask()

    def predict(
        self,
        frames: Iterable[np.ndarray],
        *,
        smoothing: int | None = None,
        working_size: tuple[int, int] | None = None,
        first_index: int = 0,
        emit_from: int = 0,
    ) -> Iterator[AveragedPrediction]:
        """Yield the predictions behind :meth:`segment`; see :meth:`StreamingSegmenter.predict`.

        Raises:
            UserError: as :meth:`segment` does.
        """
        options = {"smoothing": smoothing, "first_index": first_index, "emit_from": emit_from}
        views = [(scale, mirrored) for scale in self.scales for mirrored in ([False, True] if self.flip else [False])]
        shared = tee(frames, len(views))
        streams = [
            self._view(frames, scale, mirrored, working_size, options)
            for frames, (scale, mirrored) in zip(shared, views, strict=True)
        ]
        with explain_out_of_memory("use fewer or smaller --scales, a smaller --input-size or another --device"):
            for index, total in enumerate(streams[0], emit_from):
                for stream in streams[1:]:
                    total += next(stream)
                yield AveragedPrediction(index, total, len(views))

    def _view(
        self,
        frames: Iterable[np.ndarray],
        scale: float,
        mirrored: bool,
        working_size: tuple[int, int] | None,
        options: Mapping[str, Any],
    ) -> Iterator[Tensor]:
        """Yield each frame's class probabilities in one view, float32 ``[K, H, W]`` at the frame's size."""
        seen = (np.ascontiguousarray(frame[:, ::-1]) for frame in frames) if mirrored else frames
        if self.window is None:
            parts = self._whole(seen, scale, working_size, options)
        else:
            parts = self._windows(seen, scale, self.window, options)
        return (part.flip(-1) for part in parts) if mirrored else parts

    def _whole(
        self,
        frames: Iterable[np.ndarray],
        scale: float,
        working_size: tuple[int, int] | None,
        options: Mapping[str, Any],
    ) -> Iterator[Tensor]:
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            return
        wanted = _scaled(working_size or self.working_size((first.shape[0], first.shape[1])), scale)
        size = self.segmenter.allowed_size(wanted)
        for prediction in self.segmenter.predict(chain([first], frames), working_size=size, **options):
            yield self._enlarge(prediction.logits, prediction.size).softmax(0)

    def _windows(
        self, frames: Iterable[np.ndarray], scale: float, window: tuple[int, int], options: Mapping[str, Any]
    ) -> Iterator[Tensor]:
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            return
        size = first.shape[0], first.shape[1]
        scaled = _scaled(size, scale)
        height, width = min(window[0], scaled[0]), min(window[1], scaled[1])
        corners = [
            (top, left)
            for top in window_starts(scaled[0], height, self.overlap)
            for left in window_starts(scaled[1], width, self.overlap)
        ]

        def crops(pictures: Iterable[np.ndarray], top: int, left: int) -> Iterator[np.ndarray]:
            return (picture[top : top + height, left : left + width] for picture in pictures)

        def pictures() -> Iterator[np.ndarray]:
            yield _resize_picture(first, scaled)
            for frame in frames:
                if frame.shape[:2] != size:
                    raise UserError(
                        f"windows need frames of one size, got {size[1]}x{size[0]} and then "
                        f"{frame.shape[1]}x{frame.shape[0]}; leave the window out"
                    )
                yield _resize_picture(frame, scaled)

        shared = tee(pictures(), len(corners))
        seen = self.segmenter.allowed_size((height, width))
        streams = [
            self.segmenter.predict(crops(p, *corner), working_size=seen, **options)
            for p, corner in zip(shared, corners, strict=True)
        ]
        weight = _ramp(height)[:, None] * _ramp(width)
        for predictions in zip(*streams, strict=True):
            weight = weight.to(predictions[0].logits.device)
            total = weight.new_zeros(len(predictions[0].logits), *scaled)
            weights = weight.new_zeros(scaled)
            for (top, left), prediction in zip(corners, predictions, strict=True):
                area = slice(top, top + height), slice(left, left + width)
                total[:, *area] += self._enlarge(prediction.logits, (height, width)).softmax(0) * weight
                weights[area] += weight
            yield _resize(total / weights, size)

    def _enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits ``[K, h, w]`` at the size of what the network saw, as the model enlarges them."""
        if not self.info.model.align_corners:
            return _resize(logits, size)
        return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=True)[0]


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin that cover ``length`` pixels evenly, from the first to the last.

    Args:
        length: pixels to cover.
        window: pixels of a window.
        overlap: least share of a window that the next one also covers.

    >>> window_starts(20, 10, overlap=0.5)
    [0, 5, 10]
    """
    step = max(1, math.floor(window * (1 - overlap)))
    count = math.ceil((length - window) / step) + 1
    return [round(n * (length - window) / max(1, count - 1)) for n in range(count)]


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``[K, h, w]`` at another size, bilinear."""
    return planes if planes.shape[-2:] == size else F.interpolate(planes[None], size=size, mode="bilinear")[0]


def _resize_picture(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a frame uint8 ``[H, W, 3]`` at another size."""
    picture = resize_frame(torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1), size)
    return picture.permute(1, 2, 0).numpy()


def _ramp(length: int) -> Tensor:
    """Return weights, float32, above 0, that fall off to both ends."""
    centers = torch.arange(length) + 0.5
    return torch.minimum(centers, length - centers)
