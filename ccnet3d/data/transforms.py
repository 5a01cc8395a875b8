"""Augmentation of clips: one random draw for all frames and labels of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ccnet3d.config import check_range
from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.corruptions import compress_jpeg
from ccnet3d.data.items import ClipSample
from ccnet3d.errors import UserError

__all__ = ["Augmentation"]

_LARGEST_CROP = 1 << 14


@dataclass(frozen=True)
class Augmentation:
    """Random variation of training clips; values are drawn uniformly from the given ranges.

    >>> sample: ClipSample = {
    ...     "clip": torch.zeros(2, 3, 48, 64, dtype=torch.uint8), "labels": torch.zeros(2, 48, 64, dtype=torch.long)
    ... }
    >>> Augmentation(crop_size=(32, 40), brightness=0.4)(sample, seed=0)["clip"].shape
    torch.Size([2, 3, 32, 40])
    """

    crop_size: tuple[int, int] = (320, 416)
    """Height and width of the network's input in pixels."""
    crop_area: tuple[float, float] = (0.2, 1.0)
    """Area of a crop as a share of the frame, before it is resized to ``crop_size``: the scale."""
    crop_aspect: tuple[float, float] = (1.15, 1.47)
    """Width over height of the crop before it is resized."""
    class_crops: float = 0.0
    """Probability of a crop around a random pixel of a random class of the clip, each class being equally likely, so
    that rare classes are seen more often."""
    flip: float = 0.5
    """Probability of a mirrored clip."""
    blur: float = 0.0
    """Probability of a Gaussian blur with a standard deviation of 0.1 to 1.5 pixels."""
    noise: float = 0.0
    """Probability of Gaussian noise with a standard deviation of up to ``noise_level``."""
    noise_level: float = 40.0
    """In 255ths."""
    jpeg: float = 0.0
    """Probability of JPEG compression with a quality of 20 to 90."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Strengths as in torchvision's ColorJitter."""

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise UserError(f"crop_size must be at least 1, got {self.crop_size}")
        check_range("crop_size", self.crop_size, 1, _LARGEST_CROP)
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1 or not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise UserError(
                "crop_area must be a range in (0, 1] and crop_aspect one above 0, "
                f"got {self.crop_area} and {self.crop_aspect}"
            )
        for name in ("class_crops", "flip", "blur", "noise", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be a probability, got {getattr(self, name)}")
        if self.noise_level < 0:
            raise UserError(f"noise_level must be at least 0, got {self.noise_level}")
        if min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise UserError(
                "brightness, contrast and saturation must be at least 0 and hue in [0, 0.5], "
                f"got {self.brightness}, {self.contrast}, {self.saturation} and {self.hue}"
            )

    def __call__(self, sample: ClipSample, seed: int) -> ClipSample:
        """Return a variation of the sample, determined by the seed alone."""
        pipeline = v2.Compose(
            [
                _Crop(self.class_crops, self.crop_size, self.crop_area, self.crop_aspect),
                v2.RandomHorizontalFlip(self.flip),
                v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue),
                v2.RandomApply([v2.GaussianBlur(7, (0.1, 1.5))], self.blur),
            ]
        )
        # At probability 0 even RandomApply draws a number; recipes without these must not depend on them.
        if self.noise:
            pipeline.transforms.append(v2.RandomApply([_Noise(self.noise_level)], self.noise))
        if self.jpeg:
            pipeline.transforms.append(v2.RandomApply([_Jpeg()], self.jpeg))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # With tv_tensors, torchvision transforms all frames the same way, and labels by nearest neighbor.
            clip, labels = pipeline(tv_tensors.Video(sample["clip"]), tv_tensors.Mask(sample["labels"]))
        return {"clip": clip.as_subclass(torch.Tensor), "labels": labels.as_subclass(torch.Tensor)}


class _Noise(v2.Transform):  # type: ignore[misc]
    """Gaussian noise on the frames, with a random standard deviation of up to ``most`` 255ths."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: ARG002
        return {"level": self.most * float(torch.rand(()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Video):
            return inpt
        noisy = inpt.as_subclass(torch.Tensor).float() + params["level"] * torch.randn(inpt.shape)
        return tv_tensors.wrap(noisy.round_().clamp_(0, 255).to(torch.uint8), like=inpt)


class _Jpeg(v2.Transform):  # type: ignore[misc]
    """JPEG compression of the frames at a random quality of 20 to 90, by Pillow: torchvision's is deprecated."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: ARG002
        return {"quality": int(torch.randint(20, 91, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Video):
            return inpt
        images = inpt.as_subclass(torch.Tensor).permute(0, 2, 3, 1).numpy()
        frames = [torch.from_numpy(compress_jpeg(image, params["quality"])).permute(2, 0, 1) for image in images]
        return tv_tensors.wrap(torch.stack(frames), like=inpt)


class _Crop(v2.RandomResizedCrop):  # type: ignore[misc]
    """A crop of random position, area and aspect; some are moved to contain a pixel of a random class."""

    def __init__(
        self, class_crops: float, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
    ) -> None:
        super().__init__(size, scale=area, ratio=aspect, antialias=True)
        self.class_crops = class_crops

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        box: dict[str, Any] = super().make_params(flat_inputs)
        # Nothing is drawn at probability 0, so that such recipes do not depend on this option.
        if self.class_crops and torch.rand(()) < self.class_crops:
            labels = next(item for item in flat_inputs if isinstance(item, tv_tensors.Mask)).as_subclass(torch.Tensor)
            classes = torch.nonzero(torch.bincount(labels[labels != IGNORE_INDEX])).flatten().tolist()
            if classes:
                drawn = classes[int(torch.randint(len(classes), ()))]
                pixels = torch.nonzero(labels == drawn)
                y, x = pixels[int(torch.randint(len(pixels), ()))][-2:].tolist()
                height, width = labels.shape[-2:]
                box["top"] = _random_start(y, box["height"], height)
                box["left"] = _random_start(x, box["width"], width)
        return box


def _random_start(pixel: int, length: int, whole: int) -> int:
    """Draw the start of an interval of ``length`` within ``whole`` that contains ``pixel``."""
    return int(torch.randint(max(0, pixel - length + 1), min(pixel, whole - length) + 1, ()))
