"""The course of a video through a network: which frames it gets when, and what becomes of its logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ccnet3d.errors import UserError, explain_out_of_memory
from ccnet3d.inference.clip_stream import ClipStream
from ccnet3d.inference.frame_workers import FrameWorkers
from ccnet3d.inference.pixels import resize_frame
from ccnet3d.inference.prediction import LESS_MEMORY, Prediction
from ccnet3d.inference.smoothing import GuidedLogits, smooth
from ccnet3d.inference.working_size import working_size
from ccnet3d.models import ModelInfo

__all__ = ["StreamingSegmenter"]

_ACCELERATOR_BATCH = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class StreamingSegmenter(ABC):
    """What all segmenters share, however their network is computed; see :class:`ccnet3d.inference.VideoSegmenter`."""

    dtype: torch.dtype
    _on_warning: Callable[[str], None]

    @abstractmethod
    def _encode(self, pictures: Sequence[Tensor]) -> list[Any]:
        """Compute all that needs no other frame, from pictures uint8 ``[3, height, width]`` of the working size."""

    @abstractmethod
    def _predict_clip(self, clip: Sequence[Any], offsets: Sequence[int]) -> list[Tensor]:
        """Return the logits, float32 ``[K, h, w]``, at the given offsets of a clip of encoded frames."""

    @abstractmethod
    def _network_settings(self) -> dict[str, Any]:
        """Return the part of :meth:`settings` that says which network it is."""

    def _set_schedule(
        self,
        info: ModelInfo,
        device: torch.device,
        *,
        clip_length: int | None,
        clip_stride: int | None,
        causal: bool,
        smoothing: int,
        input_size: tuple[int, int] | None,
        keep_aspect: bool | None,
        batch_size: int | None,
    ) -> None:
        """Set what does not depend on how the network is computed."""
        self.info, self.device = info, device
        self._concurrent = False  # whether frames may be encoded at the same time
        self.clip_length = info.clip_length if clip_length is None else clip_length
        self.clip_stride = max(1, self.clip_length - 1) if clip_stride is None else clip_stride
        self.causal, self.smoothing = causal, smoothing
        self.input_size = info.input_size if input_size is None else input_size
        self.keep_aspect = input_size is None if keep_aspect is None else keep_aspect
        requested = _ACCELERATOR_BATCH if batch_size is None else batch_size
        self.batch_size = 1 if device.type == "cpu" else requested
        if min(self.clip_length, *self.input_size, requested) < 1:
            raise UserError(
                f"clip_length, input_size and batch_size must be at least 1, got {self.clip_length}, "
                f"{self.input_size} and {requested}"
            )
        if not 1 <= self.clip_stride <= self.clip_length:
            raise UserError(
                f"clip_stride must be 1 to clip_length = {self.clip_length}, so that no frame is left out, got "
                f"{self.clip_stride}"
            )
        _check_smoothing(smoothing)

    def with_causal(self, causal: bool) -> Self:
        """Return a segmenter that shares the network and has this ``causal``; itself if it does."""
        if causal == self.causal:
            return self
        other = copy(self)
        other.causal = causal
        return other

    def with_input_size(self, size: tuple[int, int]) -> Self:
        """Return a segmenter that shares the network and resizes frames to exactly this (height, width)."""
        other = copy(self)
        other.input_size, other.keep_aspect = size, False
        return other

    def allowed_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the working size next to a wanted one: the size itself, as PyTorch computes any."""
        return size

    def working_size(self, frame_size: tuple[int, int], pixel_aspect: Fraction | float = 1) -> tuple[int, int]:
        """Return the (height, width) to which the frames of a video are resized, from the size of its first one."""
        return working_size(frame_size, self.input_size, pixel_aspect) if self.keep_aspect else self.input_size

    def settings(self) -> dict[str, Any]:
        """Return what predictions depend on except the video and the smoothing, as plain JSON."""
        return {
            **self._network_settings(),
            **self.info.model.recurrence(),
            "clip_length": self.clip_length,
            "clip_stride": self.clip_stride,
            "causal": self.causal,
            "input_size": list(self.input_size),
            "keep_aspect": self.keep_aspect,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            **({"align_corners": True} if self.info.model.align_corners else {}),
        }

    def history(self, smoothing: int | None = None) -> int:
        """Return how many frames before a frame its prediction may depend on, so that a run can begin mid-video."""
        return self.clip_length - 1 + (self.smoothing if smoothing is None else smoothing)

    def segment(self, frames: Iterable[np.ndarray], *, smoothing: int | None = None) -> Iterator[np.ndarray]:
        """Yield one mask per frame, in order, as frames arrive.

        Args:
            frames: uint8 ``[H, W, 3]``, RGB; sizes may differ.
            smoothing: instead of the segmenter's own.

        Yields:
            uint8 ``[H, W]``, class ids, at the size of the frame.

        Raises:
            ValueError: a frame of another shape or dtype.
            UserError: not enough memory.
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
    ) -> Iterator[Prediction]:
        """Yield the predictions behind :meth:`segment`, from any frame on.

        Args:
            frames: see :meth:`segment`.
            smoothing: instead of the segmenter's own.
            working_size: of the video, which is to be given if the first of ``frames`` is not its first one; the result
                of :meth:`working_size` for the first of ``frames`` when None.
            first_index: frame index of the first of ``frames`` in the stream, a multiple of ``batch_size``.
            emit_from: frame index of the first prediction to yield. Predictions equal those of a stream from frame 0 if
                ``first_index`` is 0 or at least :meth:`history` frames earlier.
        """
        if first_index % self.batch_size:
            raise ValueError(f"first_index must be a multiple of batch_size = {self.batch_size}, got {first_index}")
        radius = self.smoothing if smoothing is None else smoothing
        _check_smoothing(radius)
        waiting: dict[int, _Encoded] = {}
        with explain_out_of_memory(LESS_MEMORY):
            workers = self._workers()
            blended = self._blend(frames, working_size, first_index, waiting, workers)
            if radius:
                smoothed = smooth(blended, radius, causal=self.causal)
            else:
                smoothed = ((frame.frame_index, frame.logits) for frame in blended)
            for index, logits in workers.beside(smoothed) if workers else smoothed:
                size = waiting[index].size
                for done in [earlier for earlier in waiting if earlier <= index]:
                    del waiting[done]
                if index >= emit_from:
                    yield Prediction(index, logits, size, self.info.model.align_corners)

    def _blend(
        self,
        frames: Iterable[np.ndarray],
        size: tuple[int, int] | None,
        first_index: int,
        waiting: dict[int, _Encoded],
        workers: FrameWorkers | None,
    ) -> Iterator[GuidedLogits]:
        """Yield the logits of each frame, blended over its clips; frames without a prediction are in ``waiting``."""
        stream = ClipStream(
            self._predict_clip, self.clip_length, self.clip_stride, causal=self.causal, first_index=first_index
        )
        index = first_index
        for encoded in self._encoded(frames, size, workers):
            waiting[index] = encoded._replace(features=None)
            index += 1
            for final, logits in stream.push(encoded.features):
                yield GuidedLogits(final, logits, waiting[final].picture)
        for final, logits in stream.finish():
            yield GuidedLogits(final, logits, waiting[final].picture)

    def _encoded(
        self, frames: Iterable[np.ndarray], size: tuple[int, int] | None, workers: FrameWorkers | None
    ) -> Iterator[_Encoded]:
        """Yield every frame as the network has encoded it, at a working size that is the first frame's if None."""

        def pictures() -> Iterator[tuple[Tensor, tuple[int, int]]]:
            nonlocal size
            for frame in frames:
                original = _to_picture(frame)
                size = size or self.working_size(_size(original))
                yield original, size

        def encode(item: tuple[Tensor, tuple[int, int]]) -> _Encoded:
            picture = resize_frame(*item)
            return _Encoded(_size(item[0]), picture, self._encode([picture])[0])

        if workers:
            yield from workers.map_ahead(encode, pictures())
            return
        source = pictures()
        while batch := list(islice(source, self.batch_size)):
            resized = [resize_frame(*item).to(self.device) for item in batch]
            encoded = self._in_batches(self._encode, resized)
            for (original, _), picture, features in zip(batch, resized, encoded, strict=True):
                yield _Encoded(_size(original), picture, features)

    def _workers(self) -> FrameWorkers | None:
        """Return what encodes frames before the one at hand is predicted, each in a thread of its own."""
        if not self._concurrent or self.causal or self.device.type != "cpu" or self.batch_size > 1:
            return None
        workers = FrameWorkers()
        return workers if workers.count > 1 else None

    def _in_batches(self, compute: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
        """Compute the results of all items, in batches that are halved when there is no memory for them."""
        results: list[Result] = []
        start = 0
        while start < len(items):
            size = self.batch_size
            try:
                results += compute(items[start : start + size])
                start += size
                continue
            except RuntimeError as error:  # MPS has no class for it
                if size == 1 or "out of memory" not in str(error).lower():
                    raise
            # Outside of the handler, which keeps what the failed call had allocated.
            self.batch_size = size // 2
            self._on_warning(f"out of memory with a batch of {size} frames; going on with --batch {size // 2}")
        return results


class _Encoded(NamedTuple):
    """A frame, ready for the clips that it is part of."""

    size: tuple[int, int]
    picture: Tensor
    """uint8 ``[3, height, width]``, at the working size."""
    features: Any
    """What :meth:`StreamingSegmenter._encode` returns; None once its clips have it."""


def _check_smoothing(smoothing: int) -> None:
    if smoothing < 0:
        raise UserError(f"smoothing must be a number of frames, 0 or more, got {smoothing}")


def _size(picture: Tensor) -> tuple[int, int]:
    return picture.shape[1], picture.shape[2]


def _to_picture(frame: np.ndarray) -> Tensor:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {frame.shape}")
    # A copy: frames are kept while later ones are read, and a source may have one array for all of them.
    return torch.from_numpy(np.array(frame, order="C")).permute(2, 0, 1)
