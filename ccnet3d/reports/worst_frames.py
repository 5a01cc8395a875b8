"""The frames with the lowest scores of an evaluation, as pictures."""

from __future__ import annotations

import base64
import heapq
import io
import itertools
from dataclasses import dataclass

import numpy as np
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import LabelledSequences
from ccnet3d.evaluation import EvaluatedFrame
from ccnet3d.metrics import class_iou, mean_iou

__all__ = ["ERROR_COLORS", "VOID_COLOR", "Strip", "WorstFrames"]

ERROR_COLORS = {"correct": (54, 96, 84), "wrong": (255, 112, 67), "void": (128, 134, 142)}
"""Colors of the picture ``error``."""
VOID_COLOR = (0, 0, 0)
"""Color of void pixels in the picture ``label``."""

_Entry = tuple[float, int, np.ndarray, Tensor]
"""Negative mIoU, negative index, mask and confusion matrix of a frame; the greatest is the worst."""


@dataclass(frozen=True)
class Strip:
    """One frame's scores and pictures."""

    frame: EvaluatedFrame
    miou: float
    iou: tuple[float, ...]
    """Of each class, NaN if neither the label nor the mask contains it."""
    pictures: dict[str, str]
    """Data URIs by name: ``image`` (optional), ``label``, ``prediction``, ``error``."""


class WorstFrames:
    """The frames with the lowest mIoU of an evaluation; pass it as ``on_frame``.

    Args:
        count: frames to keep, with their masks in memory.

    Example:
        >>> from ccnet3d.evaluation import evaluate_masks
        >>> worst = WorstFrames(5)
        >>> evaluate_masks(masks_of, dataset, on_frame=worst)  # doctest: +SKIP
        >>> strips = worst.strips(dataset)  # doctest: +SKIP
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[_Entry] = []  # best first

    def __call__(self, index: int, mask: np.ndarray, confusion: Tensor) -> None:
        """Add a frame.

        Args:
            index: of the frame in the dataset.
            mask: class ids, uint8 ``[H, W]``.
            confusion: int64 ``[K, K]``, pixels by true class (row) and predicted class (column).
        """
        score = float(mean_iou(confusion))
        if np.isnan(score):  # nothing is labeled
            return
        entry = (-score, -index, mask.copy(), confusion)
        if len(self._kept) < self._count:
            heapq.heappush(self._kept, entry)
        elif self._kept and _badness(entry) > _badness(self._kept[0]):
            heapq.heapreplace(self._kept, entry)

    def gather(self) -> None:
        """Merge the frames of all processes of a distributed evaluation; every process gets the result."""
        if not dist.is_initialized():
            return
        parts: list[list[_Entry]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, self._kept)
        self._kept = heapq.nlargest(self._count, itertools.chain(*parts), key=_badness)[::-1]

    def strips(self, dataset: LabelledSequences, *, images: bool = True, max_width: int = 480) -> list[Strip]:
        """Return the kept frames, worst first.

        Args:
            dataset: the evaluated dataset.
            images: whether to include the camera's pictures.
            max_width: in pixels; wider pictures are scaled down to it.
        """
        segment_of = {index: number for number, segment in enumerate(dataset.segments) for index in segment}
        strips = []
        for negative_miou, negative_index, mask, confusion in sorted(self._kept, key=_badness, reverse=True):
            index = -negative_index
            frame = dataset.frames[index]
            evaluated = EvaluatedFrame(frame.sequence, frame.number, frame.image.stem, segment_of[index])
            pictures = _draw(dataset, index, mask, images, max_width)
            strips.append(Strip(evaluated, -negative_miou, tuple(class_iou(confusion).tolist()), pictures))
        return strips


def _badness(entry: _Entry) -> tuple[float, int]:
    return entry[:2]


def _draw(dataset: LabelledSequences, index: int, mask: np.ndarray, images: bool, max_width: int) -> dict[str, str]:
    labels = dataset.read_label(index).numpy()
    pictures = {}
    if images:
        photo = Image.fromarray(dataset.read_image(index).permute(1, 2, 0).contiguous().numpy())
        pictures["image"] = _data_uri(_fit(photo, max_width, Image.Resampling.LANCZOS), "JPEG")
    error = np.where(labels == IGNORE_INDEX, 2, mask != labels).astype(np.uint8)
    for name, ids, colors in (
        ("label", labels.astype(np.uint8), dataset.spec.palette),
        ("prediction", mask, dataset.spec.palette),
        ("error", error, tuple(ERROR_COLORS.values())),
    ):
        picture = _fit(Image.fromarray(ids), max_width, Image.Resampling.NEAREST)
        picture.putpalette(_flat_palette(colors))
        pictures[name] = _data_uri(picture, "PNG")
    return pictures


def _flat_palette(colors: tuple[tuple[int, int, int], ...]) -> list[int]:
    padded = [*colors, *[VOID_COLOR] * (256 - len(colors))]
    return [channel for color in padded for channel in color]


def _fit(picture: Image.Image, max_width: int, resampling: Image.Resampling) -> Image.Image:
    if picture.width <= max_width:
        return picture
    return picture.resize((max_width, max(1, round(picture.height * max_width / picture.width))), resampling)


def _data_uri(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=80, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
