"""Speed of a run, and the time it waits for data."""

from __future__ import annotations

import torch

from ccnet3d.wording import count_of

__all__ = ["Throughput"]


class Throughput:
    """Frames per second and the share of time spent waiting for data, over training steps; evaluation is not counted.

    >>> speed = Throughput(torch.device("cpu"))
    >>> speed.add(frames=10, waited_seconds=0.5, step_seconds=1.5)
    {'speed/frames_per_second': 5.0, 'speed/data_wait_share': 0.25}

    Args:
        device: device of the model; on a GPU the peak memory is measured too.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.frames = 0
        self.seconds = 0.0
        self.waited_seconds = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def add(self, frames: int, waited_seconds: float, step_seconds: float) -> dict[str, float]:
        """Count one step and return its figures, by their names in TensorBoard.

        Args:
            frames: frames of the step, of all processes.
            waited_seconds: time until its data was available.
            step_seconds: time from then to its end.
        """
        seconds = waited_seconds + step_seconds
        self.frames += frames
        self.seconds += seconds
        self.waited_seconds += waited_seconds
        figures = {"speed/frames_per_second": frames / seconds, "speed/data_wait_share": waited_seconds / seconds}
        if self._device.type == "cuda":
            figures["speed/peak_memory_gib"] = self._peak_gib()
        return figures

    def summary(self) -> str:
        """Return a line about all steps, of which there must be at least one."""
        peak = f", at most {self._peak_gib():.2f} GiB of GPU memory" if self._device.type == "cuda" else ""
        return (
            f"{count_of(self.frames, 'frame')} in {self.seconds:.1f} s: {self.frames / self.seconds:.2f} frames/s, "
            f"{self.waited_seconds / self.seconds:.1%} of the time waiting for data{peak}"
        )

    def _peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated(self._device) / 2**30
