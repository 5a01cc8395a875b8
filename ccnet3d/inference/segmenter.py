"""A stream of frames to a stream of masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ccnet3d.errors import UserError, explain_out_of_memory
from ccnet3d.inference.clip_stream import ClipStream
from ccnet3d.inference.pixels import resize_frame
from ccnet3d.inference.prediction import LESS_MEMORY, Prediction
from ccnet3d.inference.prepare_network import compiled, default_dtype, prepare_network
from ccnet3d.inference.smoothing import GuidedLogits, smooth
from ccnet3d.inference.working_size import working_size
from ccnet3d.models import CCNet3D, DecodedFrames, FrameFeatures, ModelInfo, fingerprint

__all__ = ["VideoSegmenter"]

_ACCELERATOR_BATCH = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class VideoSegmenter:
    """Masks for the frames of a video of any length, in constant memory.

    The backbone runs once per frame. The attention runs over clips of T frames that begin at every S-th frame, and the
    clips' logits are blended; see :class:`ccnet3d.inference.clip_stream.ClipStream`.

    Args:
        model: CCNet3D; a copy for inference is made on its device.
        info: of the model.
        clip_length: T; the model's own when None.
        clip_stride: S, 1 to T; T - 1 when None, so that consecutive clips share a frame.
        causal: predict each frame from itself and the T - 1 before it, before the next one is requested.
        smoothing: frames on each side (only before, when causal) with which a frame's logits are averaged, pixel by
            pixel where the picture stands still; see :func:`ccnet3d.inference.smoothing.smooth`. 0 for none.
            :meth:`segment` and :meth:`predict` accept another value per video.
        input_size: (height, width) in pixels to which frames are resized; the model's own when None.
        keep_aspect: use its area only, and the aspect of the video's first frame; see
            :func:`ccnet3d.inference.working_size`. If None, only without an ``input_size``.
        dtype: of the network's products, float32, bfloat16 or float16; see :func:`default_dtype` when None.
        batch_size: frames that pass the backbone, and then the decoder, together on an accelerator; 8 when None.
            Halved when memory runs out. Ignored on a CPU, where it is 1: single frames are faster there, and
            convolutions of batches round differently.
        compile_model: compile the network with ``torch.compile``, which takes minutes once; needs a C++ compiler.
        on_warning: called with a line for the user when the batch is halved.

    Raises:
        UserError: an argument out of its range.

    >>> from ccnet3d.models import load_model
    >>> segmenter = VideoSegmenter(*load_model(), input_size=(32, 48))
    >>> frames = np.zeros((3, 60, 80, 3), np.uint8)  # RGB
    >>> [mask.shape for mask in segmenter.segment(frames)]
    [(60, 80), (60, 80), (60, 80)]
    >>> [prediction.logits.shape[0] for prediction in segmenter.predict(frames)]  # 11 classes
    [11, 11, 11]
    """

    def __init__(
        self,
        model: CCNet3D,
        info: ModelInfo,
        *,
        clip_length: int | None = None,
        clip_stride: int | None = None,
        causal: bool = False,
        smoothing: int = 0,
        input_size: tuple[int, int] | None = None,
        keep_aspect: bool | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        compile_model: bool = False,
        on_warning: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.model = model.eval()
        self.dtype = default_dtype(model.input_mean.device) if dtype is None else dtype
        self._set_schedule(
            info,
            model.input_mean.device,
            clip_length=clip_length,
            clip_stride=clip_stride,
            causal=causal,
            smoothing=smoothing,
            input_size=input_size,
            keep_aspect=keep_aspect,
            batch_size=batch_size,
        )
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise UserError(f"dtype must be float32, bfloat16 or float16, got {self.dtype}")
        self._on_warning = on_warning
        self._network = prepare_network(model, self.dtype, fuse_all=not compile_model)
        wrap: Callable[[Any], Any] = compiled if compile_model else lambda function: function
        self._encode_batch = wrap(self._encode_frames)
        self._attend = wrap(self._network.attend)
        self._decode = wrap(self._network.decode)
        self._settle = wrap(self._network.settle)

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

    def with_causal(self, causal: bool) -> VideoSegmenter:
        """Return a segmenter that shares the network and has this ``causal``; itself if it does."""
        if causal == self.causal:
            return self
        other = copy(self)
        other.causal = causal
        return other

    def with_input_size(self, size: tuple[int, int]) -> VideoSegmenter:
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

    def _network_settings(self) -> dict[str, Any]:
        return {"weights_sha256": fingerprint(self.model)}

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
        waiting: dict[int, _Waiting] = {}
        with explain_out_of_memory(LESS_MEMORY):
            blended = self._blend(frames, working_size, first_index, waiting)
            if radius:
                smoothed = smooth(blended, radius, causal=self.causal)
            else:
                smoothed = ((frame.frame_index, frame.logits) for frame in blended)
            for index, logits in smoothed:
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
        waiting: dict[int, _Waiting],
    ) -> Iterator[GuidedLogits]:
        """Yield the logits of each frame, blended over its clips; frames without a prediction are in ``waiting``."""
        stream = ClipStream(
            self._predict_clip, self.clip_length, self.clip_stride, causal=self.causal, first_index=first_index
        )
        source, index = iter(frames), first_index
        while batch := list(islice(source, self.batch_size)):
            originals = [_to_picture(frame) for frame in batch]
            size = size or self.working_size((originals[0].shape[1], originals[0].shape[2]))
            pictures = [resize_frame(original, size).to(self.device) for original in originals]
            encoded = self._in_batches(self._encode, pictures)
            for frame, picture, features in zip(batch, pictures, encoded, strict=True):
                waiting[index] = _Waiting((frame.shape[0], frame.shape[1]), picture)
                index += 1
                for final, logits in stream.push(features):
                    yield GuidedLogits(final, logits, waiting[final].picture)
        for final, logits in stream.finish():
            yield GuidedLogits(final, logits, waiting[final].picture)

    def _encode_frames(self, frames: Tensor) -> FrameFeatures | DecodedFrames:
        """Run all of the network that needs no other frame on ``[N, 3, height, width]``, RGB in [0, 1]."""
        features = self._network.frame_features(self._network.extract_features(frames))
        if self._network.mixes_before_decoder:
            return features
        return self._network.decode(features, self._network.attend(features.reduced, clip_length=1))

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[Tensor]) -> list[FrameFeatures | DecodedFrames]:
        """Encode each frame, from pictures uint8 ``[3, height, width]`` of the working size."""
        # Stacked in the order in which a frame lies in memory, row by row of RGB pixels, which is a plain copy.
        stacked = torch.stack([picture.permute(1, 2, 0) for picture in pictures]).permute(0, 3, 1, 2)
        frames = stacked.float().div_(255)
        with self._autocast():
            encoded: FrameFeatures | DecodedFrames = self._encode_batch(frames)
        return [encoded.frame(n) for n in range(len(pictures))]

    @torch.inference_mode()
    def _predict_clip(self, clip: Sequence[FrameFeatures | DecodedFrames], offsets: Sequence[int]) -> list[Tensor]:
        """Return the logits, float32 ``[K, h, w]``, at the given offsets of a clip."""
        with self._autocast():
            if self._network.evidence is None:
                decoded = self._decode_clip(clip, offsets)
                return [logits.float() for logits in decoded.logits]
            decoded = self._decode_clip(clip, range(len(clip)))
            return [*self._settle(decoded, len(clip)).float()[list(offsets)]]

    def _decode_clip(self, clip: Sequence[FrameFeatures | DecodedFrames], offsets: Sequence[int]) -> DecodedFrames:
        """Return the decoded frames at the given offsets; those that were decoded when they arrived are only joined."""
        if not self._network.mixes_before_decoder:
            return DecodedFrames.join([cast(DecodedFrames, clip[offset]) for offset in offsets])
        frames = cast(Sequence[FrameFeatures], clip)
        attended = self._attend(torch.cat([frame.reduced for frame in frames]), len(frames))

        def decode(some: Sequence[int]) -> list[DecodedFrames]:
            return [self._decode(FrameFeatures.join([frames[offset] for offset in some]), attended[[*some]])]

        return DecodedFrames.join(self._in_batches(decode, offsets))

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

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


class _Waiting(NamedTuple):
    """A frame without a prediction."""

    size: tuple[int, int]
    picture: Tensor
    """uint8 ``[3, height, width]``, at the working size."""


def _check_smoothing(smoothing: int) -> None:
    if smoothing < 0:
        raise UserError(f"smoothing must be a number of frames, 0 or more, got {smoothing}")


def _to_picture(frame: np.ndarray) -> Tensor:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {frame.shape}")
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
