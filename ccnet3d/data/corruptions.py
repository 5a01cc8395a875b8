"""Corruptions of single frames by cameras, transmission and codecs, for robustness tests and for training.

The five severities follow the idea of ImageNet-C (Hendrycks and Dietterich, ICLR 2019); here a frame is the unit, since
a video's other frames may hold what one has lost.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from ccnet3d.errors import UserError

__all__ = ["CORRUPTIONS", "SEVERITIES", "compress_jpeg", "corrupt_frame"]

SEVERITIES = (1, 2, 3, 4, 5)

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""A frame uint8 ``[H, W, 3]``, the severity, and the source of chance; returns a frame of the same shape."""


def _noise(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of 5, 10, 15, 20 or 30 in 255, in every frame."""
    level = (5, 10, 15, 20, 30)[severity - 1]
    noisy = frame + random.normal(0, level, frame.shape).astype(np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _blur(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Blur about every second frame: a Gaussian of up to 0.25, 0.5, 0.75, 1 or 1.5 % of the frame's height."""
    radius = (0.0025, 0.005, 0.0075, 0.01, 0.015)[severity - 1] * frame.shape[0] * 2 * random.random()
    if random.random() < 0.5:
        return frame
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)))


def _jpeg(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Compress as JPEG at quality 40, 25, 15, 10 or 7, in every frame."""
    del random
    return compress_jpeg(frame, (40, 25, 15, 10, 7)[severity - 1])


def _occlusion(frame: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Draw one to five gray blocks, each a quarter of its height and width, at places of their own."""
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
"""By name, as ``ccnet3d-evaluate --corrupt`` takes them."""


def compress_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    """Return a frame, uint8 ``[H, W, 3]``, after JPEG compression at a quality of 1 to 95."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))


def corrupt_frame(frame: np.ndarray, name: str, severity: int, seed: tuple[int, ...]) -> np.ndarray:
    """Damage a frame; the same seed gives the same damage.

    Args:
        frame: uint8 ``[H, W, 3]``, RGB.
        name: a key of CORRUPTIONS.
        severity: 1 to 5.
        seed: of the draw, such as (seed of the evaluation, index of the frame).

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        UserError: an unknown corruption or severity.

    >>> frame = np.full((8, 8, 3), 100, np.uint8)
    >>> int(corrupt_frame(frame, "occlusion", 1, (0, 0)).max())
    127
    """
    if name not in CORRUPTIONS:
        raise UserError(f"there is no corruption {name!r}; choose from {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"the severity must be 1 to 5, got {severity}")
    return CORRUPTIONS[name](frame, severity, np.random.default_rng([*seed, *name.encode()]))
