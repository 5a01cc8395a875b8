"""One clip of frames to class logits: resizing, precision and device around the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.models import CCNet3D


@torch.inference_mode()
def segment_frames(
    model: CCNet3D, frames: Tensor, input_size: tuple[int, int], precision: torch.dtype = torch.bfloat16
) -> Tensor:
    """Class logits of the frames of one clip at the working size.

    Args:
        model: in evaluation mode; it runs where its weights are.
        frames: uint8 ``[T, 3, H, W]``, RGB.
        input_size: working size (height, width) to which frames are resized.
        precision: of the model's matrix products; float32 switches autocast off.

    Returns:
        float32 ``[T, K, height, width]``.
    """
    device = model.input_mean.device
    if frames.shape[-2:] != input_size:
        frames = F.interpolate(frames.to(device), size=input_size, mode="bilinear", antialias=True)
    clip = frames.to(device).float().div(255)[None]
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        return model(clip)[0].float()
