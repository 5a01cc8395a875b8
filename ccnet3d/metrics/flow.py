"""Optical flow: DIS of OpenCV, which needs no weights, and torchvision's RAFT, with weights from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.metrics.consistency import OpticalFlow

__all__ = ["dis_flow", "raft_flow"]

_STRIDE = 8
"""RAFT accepts sizes that are multiples of this, and at least 16 times as large."""

_DIS_SMALLEST = 16
"""DIS needs at least 12 pixels on one side and its patch of 8 on the other."""


def dis_flow() -> OpticalFlow:
    """Return the flow of dense inverse search, Kroeger et al., ECCV 2016, in OpenCV's medium setting.

    Raises:
        UserError: OpenCV is not installed.

    Example:
        >>> import pytest; cv2 = pytest.importorskip("cv2")
        >>> dis_flow()(*torch.zeros(2, 3, 16, 24, dtype=torch.uint8)).shape
        torch.Size([2, 16, 24])
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            'optical flow by DIS needs OpenCV, which is not installed: pip install "ccnet3d[evaluate]"'
        ) from error
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def gray(frame: Tensor) -> np.ndarray:
        height, width = frame.shape[-2:]
        image = cv2.cvtColor(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
        missing = [(0, max(0, _DIS_SMALLEST - size)) for size in (height, width)]
        return np.pad(image, missing, mode="edge")

    def flow(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        found = search.calc(gray(first), gray(second), None)
        return torch.from_numpy(found[:height, :width]).permute(2, 0, 1).contiguous()

    return flow


def raft_flow(weights: Path) -> OpticalFlow:
    """Return the flow of RAFT (small), Teed and Deng, ECCV 2020, as implemented by torchvision.

    Args:
        weights: a safetensors file with the state of ``torchvision.models.optical_flow.raft_small``.

    Raises:
        UserError: no such file, or other weights.
    """
    from torchvision.models.optical_flow import raft_small

    model = raft_small(weights=None).eval()
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{weights} does not contain weights of torchvision's raft_small ({str(error).splitlines()[0]}); "
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
