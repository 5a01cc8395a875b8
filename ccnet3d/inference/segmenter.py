"""A stream of frames to a stream of masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.inference.pixels import look_up
from ccnet3d.inference.prepare_network import compiled, default_dtype, prepare_network
from ccnet3d.inference.streaming import StreamingSegmenter
from ccnet3d.models import CCNet3D, DecodedFrames, FrameFeatures, ModelInfo, fingerprint

__all__ = ["VideoSegmenter"]


class VideoSegmenter(StreamingSegmenter):
    """Masks for the frames of a video of any length, in constant memory.

    The backbone runs once per frame. The attention runs over clips of T frames that begin at every S-th frame, and the
    clips' logits are blended; see :class:`ccnet3d.inference.clip_stream.ClipStream`. On a CPU with several threads,
    frames are encoded ahead, each by one of them, unless ``causal``, ``compile_model`` or a context module before the
    decoder forbids it; this does not change the predictions.

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

    >>> import numpy as np
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
        # Functions of torch.compile keep Python's other threads waiting; clips would wait for their decoder.
        self._concurrent = not compile_model and not self._network.mixes_before_decoder
        wrap: Callable[[Any], Any] = compiled if compile_model else lambda function: function
        values = (torch.arange(256.0) / 255).expand(1, 3, 1, 256).to(self.device)
        self._normalized_values = self._network.normalize(values).view(3, 256).to(self.dtype)
        self._encode_batch = wrap(self._encode_frames)
        self._attend = wrap(self._network.attend)
        self._decode = wrap(self._network.decode)
        self._settle = wrap(self._network.settle)

    def _encode_frames(self, frames: Tensor) -> FrameFeatures | DecodedFrames:
        """Run all of the network that needs no other frame on normalized frames, ``[N, 3, height, width]``."""
        features = self._network.frame_features(self._network.backbone_levels(frames))
        if self._network.mixes_before_decoder:
            return features
        return self._network.decode(features, self._network.attend(features.reduced, clip_length=1))

    def _network_settings(self) -> dict[str, Any]:
        return {"weights_sha256": fingerprint(self.model)}

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[Tensor]) -> list[FrameFeatures | DecodedFrames]:
        """Encode each frame, from pictures uint8 ``[3, height, width]`` of the working size."""
        frames = look_up(pictures[0], self._normalized_values) if len(pictures) == 1 else None
        if frames is None:
            stacked = torch.stack([picture.permute(1, 2, 0) for picture in pictures]).permute(0, 3, 1, 2)
            frames = self._network.normalize(stacked.float().div_(255))
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
            settled = self._settle(decoded, len(clip)).float()
            return [settled[offset] for offset in offsets]

    def _decode_clip(self, clip: Sequence[FrameFeatures | DecodedFrames], offsets: Sequence[int]) -> DecodedFrames:
        """Return the decoded frames at the given offsets; those that were decoded when they arrived are only joined."""
        if not self._network.mixes_before_decoder:
            return DecodedFrames.join([cast(DecodedFrames, clip[offset]) for offset in offsets])
        frames = cast(Sequence[FrameFeatures], clip)
        attended = self._attend(torch.cat([frame.reduced for frame in frames]), len(frames))

        def decode(some: Sequence[int]) -> list[DecodedFrames]:
            return [self._decode(FrameFeatures.join([frames[offset] for offset in some]), attended[[*some]])]

        return DecodedFrames.join(self._in_batches(decode, offsets))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
