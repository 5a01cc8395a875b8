"""How fast a run goes, and what it waits for."""

from __future__ import annotations

import torch


class Throughput:
    """Frames a second and the share of time spent waiting for data, of steps alone: evaluation is not counted.

    Args:
        device: where the model trains; of a GPU the peak memory is watched too.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.frames = 0
        self.seconds = 0.0
        self.waited_seconds = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def add(self, frames: int, waited_seconds: float, step_seconds: float) -> dict[str, float]:
        """Count one step; gives its own figures by the names that they have in TensorBoard.

        Args:
            frames: of the step, in all processes together.
            waited_seconds: for its data.
            step_seconds: from there to its end.
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
        """All steps in one line; at least one has been counted."""
        peak = f", at most {self._peak_gib():.2f} GiB of GPU memory" if self._device.type == "cuda" else ""
        return (
            f"{self.frames} frames in {self.seconds:.1f} s: {self.frames / self.seconds:.2f} frames/s, "
            f"{self.waited_seconds / self.seconds:.1%} of the time waiting for data{peak}"
        )

    def _peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated(self._device) / 2**30
