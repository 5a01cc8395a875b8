"""A stream of frames to a stream of masks, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.models import CCNet3D, ModelInfo


def default_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # Older torch does not tell what the CPU can do.
    tell: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = tell() if device.type == "cpu" else {}
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16")
    return torch.bfloat16 if native else torch.float32


def resize_frame(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of uint8 ``[3, H, W]`` with antialiasing, as frames come to the model."""
    if frame.shape[-2:] == size:
        return frame
    return F.interpolate(frame[None], size=size, mode="bilinear", antialias=True)[0]


def classify_at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class ids ``[H, W]`` (uint8) of one frame from its logits ``[K, h, w]``, resized before the decision."""
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    return logits.argmax(0).to(torch.uint8)


class VideoSegmenter:
    """Masks for the frames of a video, in clips of T frames that stand end to end.

    The last clip reaches back for frames that were answered before, so that it is as long as the others; a video
    shorter than a clip is padded by repeating its last frame.

    Args:
        model: CCNet3D; it is put into evaluation mode and runs where its weights are.
        info: of the model.
        clip_length: T; the model's own when None.
        input_size: working size (height, width) in pixels to which frames are resized; the model's own when None.
        precision: of the matrix products; see :func:`default_precision` when None.

    Raises:
        ValueError: a clip length or an input size below 1.
    """

    def __init__(
        self,
        model: CCNet3D,
        info: ModelInfo,
        *,
        clip_length: int | None = None,
        input_size: tuple[int, int] | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        self.model = model.eval()
        self.info = info
        self.device = model.input_mean.device
        self.clip_length = info.clip_length if clip_length is None else clip_length
        self.input_size = info.input_size if input_size is None else input_size
        self.precision = default_precision(self.device) if precision is None else precision
        if self.clip_length < 1 or min(self.input_size) < 1:
            raise ValueError(
                f"clip_length and input_size must be at least 1, got {self.clip_length} and {self.input_size}"
            )

    def segment(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield one mask a frame, in order, while frames come in.

        Args:
            frames: uint8 ``[H, W, 3]``, RGB; each may have a size of its own.

        Yields:
            uint8 ``[H, W]``, class ids, at the size of the frame.

        Raises:
            ValueError: a frame of another shape or dtype.
        """
        clip: list[Tensor] = []  # up to T resized frames
        sizes: list[tuple[int, int]] = []  # of those at the end of the clip that wait for an answer
        for frame in frames:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {frame.shape}")
            resized = resize_frame(torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1), self.input_size)
            clip = [*clip[-(self.clip_length - 1) :], resized] if self.clip_length > 1 else [resized]
            sizes.append((frame.shape[0], frame.shape[1]))
            if len(sizes) == self.clip_length:
                yield from self._answer(clip, sizes)
                sizes = []
        if sizes:
            yield from self._answer(clip, sizes)

    def _answer(self, clip: list[Tensor], sizes: list[tuple[int, int]]) -> Iterator[np.ndarray]:
        first = len(clip) - len(sizes)
        padded = clip + clip[-1:] * (self.clip_length - len(clip))
        logits = self.clip_logits(torch.stack(padded))
        for frame_logits, size in zip(logits[first : first + len(sizes)], sizes, strict=True):
            yield classify_at_size(frame_logits, size).cpu().numpy()

    @torch.inference_mode()
    def clip_logits(self, frames: Tensor) -> Tensor:
        """Class logits of the frames of one clip.

        Args:
            frames: uint8 ``[T, 3, H, W]``, RGB, any size.

        Returns:
            float32 ``[T, K, height, width]`` at the working size, on the model's device.
        """
        resized = torch.stack([resize_frame(frame, self.input_size) for frame in frames])
        clip = resized.to(self.device).float().div(255)[None]
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.model(clip)[0].float()
