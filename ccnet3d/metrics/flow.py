"""Optical flow by torchvision's RAFT, with weights from a file."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ccnet3d.metrics.consistency import OpticalFlow

_STRIDE = 8
"""RAFT takes sizes that are multiples of this, and at least 16 times as large."""


def raft_flow(weights: Path) -> OpticalFlow:
    """The flow of RAFT (small), Teed and Deng, ECCV 2020, as torchvision has it.

    Args:
        weights: a safetensors file of the state of ``torchvision.models.optical_flow.raft_small``.

    Raises:
        ValueError: no such file, or other weights.
    """
    from torchvision.models.optical_flow import raft_small

    model = raft_small(weights=None).eval()
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{weights} does not hold weights of torchvision's raft_small ({str(error).splitlines()[0]}); "
            "save its state with safetensors and give that file"
        ) from error

    @torch.inference_mode()
    def flow(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        padded = [max(-(-size // _STRIDE) * _STRIDE, 16 * _STRIDE) for size in (height, width)]
        frames = [frame[None].float() / 127.5 - 1 for frame in (first, second)]
        frames = [F.pad(f, (0, padded[1] - width, 0, padded[0] - height), mode="replicate") for f in frames]
        result: Tensor = model(*frames)[-1][0, :, :height, :width]
        return result

    return flow
