"""A stream of frames to a stream of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ccnet3d.errors import UserError
from ccnet3d.inference.clip_stream import ClipStream
from ccnet3d.inference.pixels import classify_at_size, quantize_probabilities, resize_frame
from ccnet3d.inference.smoothing import GuidedLogits, smooth
from ccnet3d.models import CCNet3D, FrameFeatures, ModelInfo, fuse_batch_norms


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # Older torch does not tell what the CPU can do.
    tell: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = tell() if device.type == "cpu" else {}
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16")
    return torch.bfloat16 if native else torch.float32


class Prediction(NamedTuple):
    """What the model says of one frame."""

    number: int
    """Of the frame in the stream, from 0."""
    logits: Tensor
    """float32 ``[K, h, w]`` at the decoder's stride, blended over clips, on the model's device."""
    size: tuple[int, int]
    """Height and width of the frame in pixels."""

    def mask(self) -> np.ndarray:
        """Class ids, uint8 ``[H, W]`` at the frame's size."""
        return classify_at_size(self.logits, self.size).cpu().numpy()

    def probabilities(self) -> np.ndarray:
        """Class probabilities in 255ths, uint8 ``[K, h, w]``."""
        return quantize_probabilities(self.logits).cpu().numpy()


class VideoSegmenter:
    """Masks for the frames of a video of any length, in constant memory.

    Each frame passes the backbone once. The attention runs over clips of T frames that begin at every S-th frame, and
    the clips' logits are blended; see :class:`ccnet3d.inference.clip_stream.ClipStream`.

    Args:
        model: CCNet3D; a copy for inference is made where its weights are.
        info: of the model.
        clip_length: T; the model's own when None.
        clip_stride: S, 1 to T; T - 1 when None, so that neighbouring clips share a frame.
        causal: answer each frame from itself and the T - 1 before it, before the next one is asked for.
        smoothing: frames on each side (only before, when causal) that a frame's answer is averaged with, pixel by pixel
            where the picture stands still; see :func:`ccnet3d.inference.smoothing.smooth`. 0 for none.
        input_size: working size (height, width) in pixels to which frames are resized; the model's own when None.
        dtype: of the network's products, float32, bfloat16 or float16; see :func:`default_dtype` when None.
        batch_size: frames that pass the backbone, and then the decoder, together; 8 when None. On a CPU they pass one
            by one whatever it says, which is faster there, and convolutions of more round differently.
        compile_model: let ``torch.compile`` make the network's code, which takes minutes once; needs a C++ compiler.

    Raises:
        ValueError: an argument out of its range.
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
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        compile_model: bool = False,
    ) -> None:
        self.model = model.eval()
        self.info = info
        self.device = model.input_mean.device
        self.clip_length = info.clip_length if clip_length is None else clip_length
        self.clip_stride = max(1, self.clip_length - 1) if clip_stride is None else clip_stride
        self.causal = causal
        self.smoothing = smoothing
        self.input_size = info.input_size if input_size is None else input_size
        self.dtype = default_dtype(self.device) if dtype is None else dtype
        self.batch_size = 8 if batch_size is None else batch_size
        if min(self.clip_length, *self.input_size, self.batch_size) < 1:
            raise UserError(
                f"clip_length, input_size and batch_size must be at least 1, got {self.clip_length}, "
                f"{self.input_size} and {self.batch_size}"
            )
        if self.device.type == "cpu":
            self.batch_size = 1
        if not 1 <= self.clip_stride <= self.clip_length:
            raise UserError(
                f"clip_stride must be 1 to clip_length = {self.clip_length}, so that no frame is left out, got "
                f"{self.clip_stride}"
            )
        if smoothing < 0:
            raise UserError(f"smoothing must be a number of frames, 0 or more, got {smoothing}")
        if self.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise UserError(f"dtype must be float32, bfloat16 or float16, got {self.dtype}")
        self._network = _prepare(model, self.dtype)
        wrap: Callable[[Any], Any] = torch.compile if compile_model else lambda function: function
        self._encode_batch = wrap(lambda frames: self._network.frame_features(self._network.extract_features(frames)))
        self._attend = wrap(self._network.attend)
        self._frame_logits = wrap(self._network.frame_logits)

    @property
    def history(self) -> int:
        """Frames before a frame that its answer may depend on, so that a run can begin in mid-video."""
        return self.clip_length - 1 + self.smoothing

    def segment(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield one mask a frame, in order, while frames come in.

        Args:
            frames: uint8 ``[H, W, 3]``, RGB; each may have a size of its own.

        Yields:
            uint8 ``[H, W]``, class ids, at the size of the frame.

        Raises:
            ValueError: a frame of another shape or dtype.
        """
        for prediction in self.predict(frames):
            yield prediction.mask()

    def predict(self, frames: Iterable[np.ndarray], *, first: int = 0, answer_from: int = 0) -> Iterator[Prediction]:
        """As :meth:`segment`, with logits, and from any frame on.

        Args:
            frames: see :meth:`segment`.
            first: number of the first of them in the stream, a multiple of ``batch_size``.
            answer_from: number of the first frame that is answered; answers are those of a stream from frame 0 if
                ``first`` is 0 or at least :attr:`history` frames earlier.
        """
        if first % self.batch_size:
            raise UserError(f"first must be a multiple of batch_size = {self.batch_size}, got {first}")
        waiting: dict[int, tuple[tuple[int, int], Tensor]] = {}  # size and picture of frames without an answer

        def answers() -> Iterator[GuidedLogits]:
            stream = ClipStream(self._answer_clip, self.clip_length, self.clip_stride, causal=self.causal, first=first)
            source, number = iter(frames), first
            while batch := list(islice(source, self.batch_size)):
                pictures = [resize_frame(_to_picture(frame), self.input_size) for frame in batch]
                for frame, picture, features in zip(batch, pictures, self._encode(pictures), strict=True):
                    waiting[number] = (frame.shape[0], frame.shape[1]), picture
                    number += 1
                    yield from ready(stream.push(features))
            yield from ready(stream.finish())

        def ready(final: Iterable[tuple[int, Tensor]]) -> Iterator[GuidedLogits]:
            for number, logits in final:
                yield GuidedLogits(number, logits, waiting[number][1])

        blended: Iterable[tuple[int, Tensor]]
        if self.smoothing:
            blended = smooth(answers(), self.smoothing, causal=self.causal)
        else:
            blended = ((answer.number, answer.logits) for answer in answers())
        for number, logits in blended:
            size = waiting[number][0]
            for answered in [earlier for earlier in waiting if earlier <= number]:
                del waiting[answered]
            if number >= answer_from:
                yield Prediction(number, logits, size)

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[Tensor]) -> list[FrameFeatures]:
        """The features of each frame from pictures uint8 ``[3, height, width]`` of the working size."""
        frames = torch.stack(list(pictures)).to(self.device, non_blocking=True).float().div_(255)
        with self._autocast():
            features: FrameFeatures = self._encode_batch(frames)
        return [features.frame(n) for n in range(len(pictures))]

    @torch.inference_mode()
    def _answer_clip(self, clip: Sequence[FrameFeatures], places: Sequence[int]) -> list[Tensor]:
        """Logits float32 ``[K, h, w]`` of the named places of a clip."""
        logits: list[Tensor] = []
        with self._autocast():
            attended = self._attend(torch.cat([frame.reduced for frame in clip]), len(clip))
            for start in range(0, len(places), self.batch_size):
                some = list(places[start : start + self.batch_size])
                features = FrameFeatures.join([clip[place] for place in some])
                logits.extend(self._frame_logits(features, attended[some]).float())
        return logits

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def _prepare(model: CCNet3D, dtype: torch.dtype) -> CCNet3D:
    """A copy for inference, with the weights of convolutions cast once instead of at every call."""
    network = fuse_batch_norms(model)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    return network


def _to_picture(frame: np.ndarray) -> Tensor:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {frame.shape}")
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
