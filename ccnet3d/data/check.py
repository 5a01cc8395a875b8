"""Validation of all frames of a dataset before training."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.datasets import LabelledSequences
from ccnet3d.data.label_reader import UnknownLabelsError
from ccnet3d.errors import UserError

__all__ = ["Inspection", "inspect_frames"]


class Inspection(NamedTuple):
    """The result of :func:`inspect_frames`."""

    problems: list[str]
    """One line per problem in the order of the frames, naming the file."""
    pixel_counts: Tensor
    """int64 ``[256]``, pixels of each class id; void at IGNORE_INDEX."""
    sizes: list[tuple[int, ...]]
    """Height and width of each frame that is valid by itself."""
    unknown: dict[str, list[int]]
    """What labels contain that has no class, such as ``id 9``, and the indices of the frames with it."""


class _Frame(NamedTuple):
    problems: list[str]
    size: tuple[int, ...] | None
    counts: Tensor
    unknown: tuple[str, ...]


def inspect_frames(dataset: LabelledSequences, *, equal_sizes: bool) -> Inspection:
    """Read every image and label, in threads, and collect what is wrong with them.

    >>> from tempfile import mkdtemp
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from ccnet3d.data import open_labels
    >>> folder = Path(mkdtemp())
    >>> Image.new("L", (8, 6)).save(folder / "0001.png")
    >>> inspection = inspect_frames(open_labels(folder, ["ground", "box"]), equal_sizes=True)
    >>> inspection.problems, inspection.sizes, int(inspection.pixel_counts[0])
    ([], [(6, 8)], 48)

    Args:
        dataset: the frames.
        equal_sizes: whether all frames of a segment must have one size, as clips require.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        frames = list(threads.map(lambda index: _inspect(dataset, index), range(len(dataset))))
    for segment in dataset.segments if equal_sizes else []:
        sizes = {index: size for index in segment if (size := frames[index].size) is not None}
        most = Counter(sizes.values()).most_common(1)
        for index in (index for index, size in sizes.items() if size != most[0][0]):
            frames[index].problems.append(
                f"{dataset.frames[index].image} is {_text(sizes[index])}, most of its sequence {_text(most[0][0])}"
            )
    counts = torch.stack([frame.counts for frame in frames]).sum(0)
    problems = [problem for frame in frames for problem in frame.problems]
    unknown: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        for name in frame.unknown:
            unknown[name].append(index)
    return Inspection(problems, counts, [frame.size for frame in frames if frame.size is not None], dict(unknown))


def _inspect(dataset: LabelledSequences, index: int) -> _Frame:
    problems, sizes = [], []
    counts = torch.zeros(IGNORE_INDEX + 1, dtype=torch.long)
    unknown: tuple[str, ...] = ()
    try:
        sizes.append(tuple(dataset.read_image(index).shape[-2:]))
    except UserError as error:
        problems.append(str(error))
    try:
        label = dataset.read_label(index)
        sizes.append(tuple(label.shape))
        counts = torch.bincount(label.flatten(), minlength=len(counts))
    except UserError as error:
        problems.append(str(error))
        unknown = error.names if isinstance(error, UnknownLabelsError) else ()
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        image, label_file = dataset.frames[index].image, dataset.frames[index].label
        problems.append(f"{label_file} is {_text(sizes[1])}, its image {image} is {_text(sizes[0])}")
    return _Frame(problems, None if problems else sizes[0], counts, unknown)


def _text(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
