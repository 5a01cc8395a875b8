"""Augmentation of clips: one random draw for all frames and labels of a clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

if TYPE_CHECKING:
    from ccnet3d.data.folder import ClipSample

ClipTransform = Callable[["ClipSample", int], "ClipSample"]


@dataclass(frozen=True)
class Augmentation:
    """How training clips are varied; ranges are drawn from uniformly."""

    crop_size: tuple[int, int] = (320, 416)
    """Height and width in pixels of what the network sees."""
    crop_area: tuple[float, float] = (0.2, 1.0)
    """Share of the frame's area that a crop takes before it is resized to ``crop_size``: the scale."""
    crop_aspect: tuple[float, float] = (1.15, 1.47)
    """Width over height of the crop before it is resized."""
    flip: float = 0.5
    """Probability of a mirrored clip."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Strengths as in torchvision's ColorJitter."""

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise ValueError(f"crop_size must be at least 1, got {self.crop_size}")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1 or not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise ValueError(
                "crop_area must be a range in (0, 1] and crop_aspect one above 0, "
                f"got {self.crop_area} and {self.crop_aspect}"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability, got {self.flip}")

    def __call__(self, sample: ClipSample, seed: int) -> ClipSample:
        """A variation of the sample that depends on nothing but the seed."""
        pipeline = v2.Compose(
            [
                v2.RandomResizedCrop(self.crop_size, scale=self.crop_area, ratio=self.crop_aspect, antialias=True),
                v2.RandomHorizontalFlip(self.flip),
                v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue),
            ]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # tv_tensors makes torchvision treat all frames alike, and labels by nearest neighbour.
            clip, labels = pipeline(tv_tensors.Video(sample["clip"]), tv_tensors.Mask(sample["labels"]))
        return {"clip": clip.as_subclass(torch.Tensor), "labels": labels.as_subclass(torch.Tensor)}
