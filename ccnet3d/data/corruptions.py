"""Corruptions of single frames by cameras, transmission and codecs, for robustness tests and for training.

Named corruptions at five severities follow ImageNet-C (Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019). Differences:

- Every frame of a video has draws of its own, so that its neighbors may show what it has lost. ImageNet-C has single
  images.
- Levels are milder where ImageNet-C destroys the detail that segmentation needs: noise has a standard deviation of 5 to
  30 of 255 (there 20 to 97), and JPEG has quality 40 to 7 (there 25 to 7).
- Blur is relative to the frame's height and spares about every second frame. There it is in pixels of a 224x224 image.
- ``occlusion`` and ``drop`` are not in ImageNet-C; its other corruptions are not here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from ccnet3d.errors import UserError

__all__ = ["CORRUPTIONS", "SEVERITIES", "check_corruption", "compress_jpeg", "corrupt_frame"]

SEVERITIES = (1, 2, 3, 4, 5)
"""From mild to severe."""

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""From a frame, uint8 ``[H, W, 3]``, a severity and a random generator to the corrupted frame of the same shape."""


def _noise(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise with a standard deviation of 5, 10, 15, 20 or 30 of 255."""
    level = (5, 10, 15, 20, 30)[severity - 1]
    noisy = frame + random.normal(0, level, frame.shape).astype(np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _blur(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Blur with probability 0.5, with a Gaussian of uniformly drawn standard deviation.

    It is between 0 and 0.5, 1, 1.5, 2 or 3% of the frame's height.
    """
    deviation = (0.005, 0.01, 0.015, 0.02, 0.03)[severity - 1] * frame.shape[0] * random.random()
    if random.random() < 0.5:
        return frame
    return np.array(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(deviation)))


def _jpeg(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Compress as JPEG at quality 40, 25, 15, 10 or 7 of 100. Nothing is drawn."""
    del random
    return compress_jpeg(frame, (40, 25, 15, 10, 7)[severity - 1])


def _occlusion(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Draw 1, 2, 3, 4 or 5 gray blocks, a quarter of the frame high and wide, which may overlap."""
    height, width = frame.shape[:2]
    rows, columns = math.ceil(height / 4), math.ceil(width / 4)
    frame = frame.copy()
    for _ in range(severity):
        top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
        frame[top : top + rows, left : left + columns] = 127
    return frame


def _drop(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Return a black frame with probability 0.1, 0.2, 0.3, 0.4 or 0.5."""
    return np.zeros_like(frame) if random.random() < 0.1 * severity else frame


CORRUPTIONS: dict[str, Corruption] = {
    "noise": _noise, "blur": _blur, "jpeg": _jpeg, "occlusion": _occlusion, "drop": _drop,
}  # fmt: skip
"""By name, as ``ccnet3d-evaluate --corrupt`` accepts them."""


def compress_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    """Return a frame, uint8 ``[H, W, 3]``, after JPEG compression at a quality of 1 to 95."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))


def check_corruption(name: str, severity: int) -> None:
    """Check that a corruption exists at a severity.

    Raises:
        UserError: an unknown corruption or severity.

    Example:
        >>> check_corruption("blur", 3)
    """
    if name not in CORRUPTIONS:
        raise UserError(f"there is no corruption {name!r}; choose from {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"the severity must be {SEVERITIES[0]} to {SEVERITIES[-1]}, got {severity}")


def corrupt_frame(frame: np.ndarray, name: str, severity: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return a corrupted frame, the same for the same seed.

    The severity is not part of the seed: at another severity, the same draws are applied more or less strongly.

    Args:
        frame: uint8 ``[H, W, 3]``, RGB; not changed.
        name: a key of CORRUPTIONS.
        severity: 1 to 5.
        seed: of the draws, such as (seed of the evaluation, frame index).

    Returns:
        uint8 ``[H, W, 3]``; ``frame`` itself where the draw leaves it unchanged.

    Raises:
        UserError: an unknown corruption or severity.

    Example:
        >>> frame = np.full((8, 8, 3), 100, np.uint8)
        >>> int((corrupt_frame(frame, "occlusion", 1, (0, 0))[..., 0] == 127).sum())  # one block of 2x2 pixels
        4
    """
    check_corruption(name, severity)
    return CORRUPTIONS[name](frame, severity, np.random.default_rng([*seed, *name.encode()]))
