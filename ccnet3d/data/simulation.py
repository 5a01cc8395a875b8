"""Clips simulated from stills: a moving camera, and corruptions drawn for each frame.

Frames labeled one second apart do not show what happens in between. A simulated clip does: its frames show one scene a
moment apart, with exact labels, and what one frame has lost its neighbors still contain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt_frame
from ccnet3d.data.items import ClipRequest, ClipSample
from ccnet3d.errors import UserError

__all__ = ["Simulation", "simulate_clip"]

_ZOOM, _SHIFT, _TURN = 0.08, 0.05, math.radians(1.5)
"""Largest change over a clip: of scale, of place as a share of the frame's size, of the camera's roll."""
_SHAKE = 0.004
"""Standard deviation of each frame's own shift, as a share of the frame's size."""


@dataclass(frozen=True)
class Simulation:
    """Clips made from single labeled frames, in place of clips of real neighbors.

    >>> Simulation(share=1.0).is_drawn(ClipRequest(anchor=0, offset=0, length=1, seed=0))  # a still is enough
    False
    """

    share: float = 0.0
    """Probability that a clip of several frames is simulated from its anchor."""
    damage: float = 0.5
    """Probability that a frame of such a clip is corrupted, at a random severity."""

    def __post_init__(self) -> None:
        for name in ("share", "damage"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"simulation.{name} must be a probability, got {getattr(self, name)}")

    def is_drawn(self, request: ClipRequest) -> bool:
        """Return whether a requested clip is simulated; determined by its seed."""
        return request.length > 1 and bool(np.random.default_rng((request.seed, 2)).random() < self.share)

    def clip_of(self, sample: ClipSample, request: ClipRequest) -> ClipSample:
        """Return a clip of the requested length from a sample of one frame; determined by the request's seed."""
        random = np.random.default_rng((request.seed, 3))
        frames, labels = simulate_clip(
            sample["clip"][0], sample["labels"][0], request.length, random, damage=self.damage
        )
        return {"clip": frames, "labels": labels}


def simulate_clip(
    frame: Tensor, label: Tensor, length: int, random: np.random.Generator, *, damage: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Make a clip of a moving camera from one labeled frame.

    Scale, position and roll change evenly from the first frame to the last, with a little shake on top. Then each
    frame is corrupted with probability ``damage``, at a random severity; if ``drop`` is drawn, it is black half of the
    time.

    Args:
        frame: uint8 ``[3, H, W]``, RGB.
        label: int64 ``[H, W]``, class ids and IGNORE_INDEX.
        length: T, frames of the clip.
        random: the source of all draws.
        damage: probability in [0, 1].

    Returns:
        Frames uint8 ``[T, 3, H, W]`` and labels int64 ``[T, H, W]``, IGNORE_INDEX where the camera looks past the
        still's edge.
    """
    ends = random.uniform(-1, 1, (2, 4)) / 2  # of zoom, two shifts and roll
    steps = np.linspace(0, 1, length)[:, None]
    path = ends[0] * (1 - steps) + ends[1] * steps  # [T, 4]
    zoom, turn = np.exp(path[:, 0] * _ZOOM), path[:, 3] * _TURN
    shift = 2 * (path[:, 1:3] * _SHIFT + random.normal(0, _SHAKE, (length, 2)))  # in units of half the frame
    height, width = label.shape
    cosine, sine = zoom * np.cos(turn), zoom * np.sin(turn)
    theta = np.stack(
        [cosine, -sine * height / width, shift[:, 0], sine * width / height, cosine, shift[:, 1]], axis=1
    ).reshape(length, 2, 3)
    grid = F.affine_grid(torch.from_numpy(theta).float(), [length, 1, height, width], align_corners=False)
    stills = frame[None].float().expand(length, -1, -1, -1)
    frames = F.grid_sample(stills, grid, "bilinear", "border", align_corners=False).round_().to(torch.uint8)
    ids = (label[None, None] + 1).float().expand(length, -1, -1, -1)  # 0 is what lies outside
    labels = F.grid_sample(ids, grid, "nearest", "zeros", align_corners=False)[:, 0].long() - 1
    labels[labels < 0] = IGNORE_INDEX
    return torch.stack([_damaged(frame, damage, random) for frame in frames]), labels


def _damaged(frame: Tensor, probability: float, random: np.random.Generator) -> Tensor:
    drawn, name = random.random(), str(random.choice([*CORRUPTIONS]))
    severity, seed = int(random.choice(SEVERITIES)), int(random.integers(2**31))
    if drawn >= probability:
        return frame
    # That a frame is damaged is decided already; a milder "drop" would mostly leave it as it is.
    image = corrupt_frame(frame.permute(1, 2, 0).numpy(), name, 5 if name == "drop" else severity, (seed,))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # a copy: Pillow's arrays are read-only
