"""Flicker: pixels whose prediction changes and changes back. Needs no labels; streaming, in constant memory."""

from __future__ import annotations

from torch import Tensor


class Flicker:
    """The share of pixels that are A in one frame, B in the next and A again in the one after it, with A other than B.

    Counted over every pixel of every frame that has a frame before and one behind it, of all videos together: what
    moves through a pixel changes it once, what hesitates changes it and changes it back. Lower is better.
    """

    def __init__(self) -> None:
        self._flickers = 0
        self._pixels = 0
        self.start_video()

    def start_video(self) -> None:
        """Begin a new video, or go on behind a gap: no three frames cross it."""
        self._before: Tensor | None = None
        self._last: Tensor | None = None

    def update(self, prediction: Tensor) -> tuple[int, int]:
        """Add the next frame.

        Args:
            prediction: class ids, integers ``[H, W]``.

        Returns:
            What the frame adds: pixels that changed in the frame before and change back here, of how many; 0 of 0 where
            it has no two frames before it.

        Raises:
            ValueError: a size other than that of the frame before.
        """
        if self._last is not None and prediction.shape != self._last.shape:
            raise ValueError(
                f"the frames of a video must have one size, got {tuple(self._last.shape)} and "
                f"{tuple(prediction.shape)}; call start_video() between videos"
            )
        flickers = pixels = 0
        if self._before is not None:
            flickers = int(((self._last != self._before) & (prediction == self._before)).sum())
            pixels = prediction.numel()
        self._flickers += flickers
        self._pixels += pixels
        self._before, self._last = self._last, prediction
        return flickers, pixels

    @property
    def score(self) -> float:
        """Share of pixels in [0, 1], NaN where no video has three frames."""
        return self._flickers / self._pixels if self._pixels else float("nan")
