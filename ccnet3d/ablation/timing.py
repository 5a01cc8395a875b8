"""What a frame costs, measured side by side: a machine's speed drifts, so only times of one round are compared."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ccnet3d.inference import VideoSegmenter

_ROUNDS = 5


@dataclass(frozen=True)
class Cost:
    """Inference of one of several models that are timed in turn."""

    relative: float
    """Median over the rounds of its time over the first model's in the same round."""
    low: float
    high: float
    """Least and largest of these."""
    seconds: float
    """Median over the rounds of the time of a frame, image to mask."""


def measure_cost(segmenters: Mapping[str, VideoSegmenter], frames: Sequence[np.ndarray]) -> dict[str, Cost]:
    """Time the segmentation of the same frames by each, in rounds of all, after one that does not count.

    Args:
        segmenters: by name; the others are compared with the first.
        frames: uint8 ``[H, W, 3]``, RGB.
    """
    seconds: dict[str, list[float]] = {name: [] for name in segmenters}
    for number in range(_ROUNDS + 1):
        for name, segmenter in segmenters.items():
            begin = time.perf_counter()
            for _ in segmenter.segment(frames):  # masks lie in host memory, so a GPU has done them
                pass
            if number:
                seconds[name].append((time.perf_counter() - begin) / len(frames))
    return costs_of(seconds)


def costs_of(seconds: Mapping[str, Sequence[float]]) -> dict[str, Cost]:
    """Costs from the seconds a frame that each model took in each round."""
    first = next(iter(seconds.values()))
    ratios = {name: [a / b for a, b in zip(own, first, strict=True)] for name, own in seconds.items()}
    return {
        name: Cost(statistics.median(own), min(own), max(own), statistics.median(seconds[name]))
        for name, own in ratios.items()
    }


def describe_machine(device: torch.device) -> str:
    """What computes, and with which torch."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
        hardware = f"{names[0] if names else device.type}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{hardware}, torch {torch.__version__}"
