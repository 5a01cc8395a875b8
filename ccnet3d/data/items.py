"""What a dataset contains, is asked for and returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypedDict

from torch import Tensor

__all__ = ["ClipRequest", "ClipSample", "ClipTransform", "LabelledFrame", "RequestedSample"]


class LabelledFrame(NamedTuple):
    """A frame that has a label.

    >>> LabelledFrame("night", 7, Path("frames/night/0007.png"), Path("labels/night/0007.png")).number
    7
    """

    sequence: str
    number: int
    """Frame number, as the file name says."""
    image: Path
    label: Path
    """Its label, or the annotation file with the labels of several frames."""
    annotated_as: str = ""
    """The name of the frame in such a file."""


class ClipRequest(NamedTuple):
    """The clip whose frame at ``offset`` is ``anchor``.

    >>> ClipRequest(anchor=7, offset=2, length=5, seed=0).stride
    1
    """

    anchor: int
    """Frame index in the dataset."""
    offset: int
    length: int
    """T, frames of the clip."""
    seed: int
    """Of the clip's random augmentation."""
    stride: int = 1
    """Labeled frames from one frame of the clip to the next."""


class ClipSample(TypedDict):
    """The frames and labels of a clip."""

    clip: Tensor
    """uint8 ``[T, 3, H, W]``, RGB."""
    labels: Tensor
    """int64 ``[T, H, W]``, class ids and IGNORE_INDEX."""


class RequestedSample(ClipSample):
    """The sample that a :class:`ClipRequest` returns."""

    anchor: int
    """Offset of the anchor frame; less than T."""


ClipTransform = Callable[[ClipSample, int], ClipSample]
"""Return a variation of a clip, given a seed."""
