"""Which device a model runs on: the fastest one that runs all of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ccnet3d.inference.segmenter import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelConfig, ModelInfo

__all__ = ["best_device", "device_problem"]


def best_device(on_problem: Callable[[str], None] = lambda _: None, *, mps: bool = True) -> str:
    """Return ``cuda`` or ``mps`` if there is one that works, else ``cpu``.

    Args:
        on_problem: called with a line for the user about a device that is there and cannot be used.
        mps: consider the GPU of an Apple computer.

    >>> best_device() in ("cuda", "mps", "cpu")
    True
    """
    found = {"cuda": torch.cuda.is_available(), "mps": mps and torch.backends.mps.is_available()}
    for device in (name for name, available in found.items() if available):
        problem = device_problem(device)
        if problem is None:
            return device
        on_problem(f"the device {device} cannot be used ({problem}); trying the next one")
    return "cpu"


def device_problem(device: str) -> str | None:
    """Return in one line why a device cannot be used here, None if it can.

    >>> device_problem("cpu") is None, device_problem("meta") is None
    (True, False)
    """
    try:
        torch.zeros(1, device=device).cpu()
        if torch.device(device).type == "mps":  # it lacks operators, which ones depends on the version of PyTorch
            _run_small_model(device)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:  # a torch without CUDA asserts
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[0].partition(". ")[0]  # then PyTorch lists every device that it knows
    return None


def _run_small_model(device: str) -> None:
    """Run every operator of a model's inference once."""
    config = ModelConfig(
        num_classes=2, backbone="test_efficientnet", channels=16, skip_channels=(12, 10, 8), evidence_loops=1
    )
    info = ModelInfo(
        model=config,
        class_names=("a", "b"),
        palette=((0, 0, 0), (255, 255, 255)),
        clip_length=2,
        input_size=(64, 64),
        dataset="none",
    )
    segmenter = VideoSegmenter(CCNet3D(config).to(device), info, smoothing=1)
    for prediction in segmenter.predict(np.zeros((3, 48, 64, 3), np.uint8)):
        prediction.mask(0.5)
        prediction.probabilities()
