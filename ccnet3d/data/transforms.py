"""Augmentation of clips: one random draw for all frames and labels of a clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.data.datasets import ClipSample

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
    class_crops: float = 0.0
    """Probability of a crop around a labelled pixel of a class drawn from those in the clip, all alike, so that rare
    classes are seen more often."""
    flip: float = 0.5
    """Probability of a mirrored clip."""
    blur: float = 0.0
    """Probability of a Gaussian blur with a standard deviation of up to 1.5 pixels."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Strengths as in torchvision's ColorJitter."""

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise UserError(f"crop_size must be at least 1, got {self.crop_size}")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1 or not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise UserError(
                "crop_area must be a range in (0, 1] and crop_aspect one above 0, "
                f"got {self.crop_area} and {self.crop_aspect}"
            )
        for name in ("class_crops", "flip", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be a probability, got {getattr(self, name)}")

    def __call__(self, sample: ClipSample, seed: int) -> ClipSample:
        """A variation of the sample that depends on nothing but the seed."""
        pipeline = v2.Compose(
            [
                _Crop(self.class_crops, self.crop_size, self.crop_area, self.crop_aspect),
                v2.RandomHorizontalFlip(self.flip),
                v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue),
                v2.RandomApply([v2.GaussianBlur(7, (0.1, 1.5))], self.blur),
            ]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # tv_tensors makes torchvision treat all frames alike, and labels by nearest neighbour.
            clip, labels = pipeline(tv_tensors.Video(sample["clip"]), tv_tensors.Mask(sample["labels"]))
        return {"clip": clip.as_subclass(torch.Tensor), "labels": labels.as_subclass(torch.Tensor)}


class _Crop(v2.RandomResizedCrop):  # type: ignore[misc]
    """A crop of random place, area and aspect, of which a share is moved to hold a pixel of a drawn class."""

    def __init__(
        self, class_crops: float, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
    ) -> None:
        super().__init__(size, scale=area, ratio=aspect, antialias=True)
        self.class_crops = class_crops

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        box: dict[str, Any] = super().make_params(flat_inputs)
        # Drawn only where it is wanted, so that recipes without it keep their draws.
        if self.class_crops and torch.rand(()) < self.class_crops:
            labels = next(item for item in flat_inputs if isinstance(item, tv_tensors.Mask)).as_subclass(torch.Tensor)
            classes = torch.nonzero(torch.bincount(labels[labels != IGNORE_INDEX])).flatten().tolist()
            if classes:
                drawn = classes[int(torch.randint(len(classes), ()))]
                pixels = torch.nonzero(labels == drawn)
                place = pixels[int(torch.randint(len(pixels), ()))][-2:].tolist()
                sizes = zip(("top", "left"), ("height", "width"), place, labels.shape[-2:], strict=True)
                for start, length, position, whole in sizes:
                    first = max(0, position - box[length] + 1)
                    last = min(position, whole - box[length])
                    box[start] = int(torch.randint(first, last + 1, ()))
        return box
