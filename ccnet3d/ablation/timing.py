"""Timing side by side: the speed of a machine drifts, so only times of one round are compared."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ccnet3d.inference import VideoSegmenter

__all__ = ["Cost", "costs_of", "describe_machine", "measure_cost", "median_seconds", "time_in_rounds"]

_ROUNDS = 5


@dataclass(frozen=True)
class Cost:
    """Inference cost of one of several models that are timed in turn."""

    relative: float
    """Median over the rounds of its time divided by the first model's in the same round."""
    low: float
    high: float
    """Smallest and largest of these ratios."""
    seconds: float
    """Median over the rounds of the time per frame, from image to mask."""


def time_in_rounds(
    works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each work in each round, after a warm-up round that is not timed.

    A round runs all works one after the other. On a GPU the times are those of CUDA events on the current stream.

    >>> seconds = time_in_rounds({"sum": lambda: sum(range(1000))}, rounds=3, device=torch.device("cpu"))
    >>> len(seconds["sum"]), min(seconds["sum"]) > 0
    (3, True)
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds + 1):
        for name, work in works.items():
            elapsed = _seconds_of(work, device)
            if index:
                seconds[name].append(elapsed)
    return seconds


def median_seconds(works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median of :func:`time_in_rounds` for each work."""
    return {name: statistics.median(values) for name, values in time_in_rounds(works, rounds, device).items()}


def _seconds_of(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_cost(
    segmenters: Mapping[str, VideoSegmenter], frames: Sequence[np.ndarray], device: torch.device
) -> dict[str, Cost]:
    """Time the segmentation of the same frames by each segmenter.

    Args:
        segmenters: by name; the first is the one that the others are compared with.
        frames: uint8 ``[H, W, 3]``, RGB.
        device: device of the models.
    """
    works = {
        name: lambda segmenter=segmenter: list(segmenter.segment(frames)) for name, segmenter in segmenters.items()
    }
    seconds = time_in_rounds(works, _ROUNDS, device)
    return costs_of({name: [value / len(frames) for value in values] for name, values in seconds.items()})


def costs_of(seconds: Mapping[str, Sequence[float]]) -> dict[str, Cost]:
    """Return the costs of models, from the seconds per frame that each took in each round.

    >>> costs_of({"a": [1.0, 2.0], "b": [1.5, 3.5]})["b"]
    Cost(relative=1.625, low=1.5, high=1.75, seconds=2.5)
    """
    first = next(iter(seconds.values()))
    ratios = {name: [a / b for a, b in zip(own, first, strict=True)] for name, own in seconds.items()}
    return {
        name: Cost(statistics.median(own), min(own), max(own), statistics.median(seconds[name]))
        for name, own in ratios.items()
    }


def describe_machine(device: torch.device) -> str:
    """Return what computes and with which version of torch.

    >>> describe_machine(torch.device("cpu")).endswith(f"torch {torch.__version__}")
    True
    """
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
        hardware = f"{names[0] if names else device.type}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{hardware}, torch {torch.__version__}"
