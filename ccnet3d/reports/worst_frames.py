"""The frames that a model does worst on, as pictures."""

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

ERROR_COLORS = {"right": (54, 96, 84), "wrong": (255, 112, 67), "void": (128, 134, 142)}
"""Of the picture of errors."""
VOID_COLOR = (0, 0, 0)
"""In the picture of labels."""


@dataclass(frozen=True)
class Strip:
    """Pictures of one frame, as data URIs."""

    frame: EvaluatedFrame
    miou: float
    iou: tuple[float, ...]
    """Of each class, NaN where it is in neither."""
    pictures: dict[str, str]
    """By name: ``image`` (unless left out), ``label``, ``prediction``, ``error``."""


class WorstFrames:
    """Keeps the masks of the frames with the lowest mIoU while an evaluation goes on; see its ``on_frame``.

    Args:
        count: frames to keep; memory holds so many masks.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[float, int, np.ndarray, Tensor]] = []  # the best of them first

    def __call__(self, index: int, mask: np.ndarray, confusion: Tensor) -> None:
        """Take a frame: its position in the dataset, its mask ``[H, W]`` and its confusion matrix ``[K, K]``."""
        score = float(mean_iou(confusion))
        if np.isnan(score):  # nothing is labelled
            return
        entry = (-score, -index, mask.copy(), confusion)
        if len(self._kept) < self._count:
            heapq.heappush(self._kept, entry)
        elif self._kept and entry[:2] > self._kept[0][:2]:
            heapq.heapreplace(self._kept, entry)

    def gather(self) -> None:
        """Keep the worst of all processes of a distributed evaluation, in each of them."""
        if not dist.is_initialized():
            return
        parts: list[list[tuple[float, int, np.ndarray, Tensor]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, self._kept)
        self._kept = heapq.nlargest(self._count, itertools.chain(*parts), key=lambda entry: entry[:2])[::-1]

    def strips(self, dataset: LabelledSequences, *, images: bool = True, max_width: int = 480) -> list[Strip]:
        """Pictures of the frames that were kept, the worst first.

        Args:
            dataset: what was evaluated.
            images: with the camera's pictures.
            max_width: pixels; wider pictures are scaled down to it.
        """
        strips = []
        segment_of = {index: number for number, segment in enumerate(dataset.segments) for index in segment}
        for score, position, mask, confusion in sorted(self._kept, key=lambda entry: entry[:2], reverse=True):
            index = -position
            frame, labels = dataset.frames[index], dataset.read_label(index).numpy()
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
            evaluated = EvaluatedFrame(frame.sequence, frame.number, frame.image.stem, segment_of[index])
            strips.append(Strip(evaluated, -score, tuple(class_iou(confusion).tolist()), pictures))
        return strips


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
