"""A folder of labels by itself, without frames and without a ``dataset.toml``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ccnet3d.data.datasets import LabelledSequences
from ccnet3d.data.spec import ClassSpec, DatasetSpec, LabelledFrame, LayoutSpec
from ccnet3d.errors import UserError


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes of which only the count is known."""
    return tuple(f"class {id_}" for id_ in range(count))


def open_labels(folder: Path, class_names: Sequence[str], void_ids: Sequence[int] = (255,)) -> LabelledSequences:
    """Labels to compare masks with; there are no frames, so that each label's file stands for its frame.

    Args:
        folder: PNGs of class ids, grey or with a palette. Each folder below it that holds some is a sequence; the last
            number in a name is the frame's, or where not all names have one, their order is.
        class_names: of the ids from 0 on.
        void_ids: ids that are not counted.

    Raises:
        ValueError: no labels, or classes that make no sense.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder of labels {folder}")
    classes = tuple(ClassSpec(name, _color(id_)) for id_, name in enumerate(class_names))
    spec = DatasetSpec(folder.resolve().name, classes, void_ids=tuple(void_ids))
    sequences: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        if not path.name.startswith("."):
            sequences.setdefault(path.parent, []).append(path)
    if not sequences:
        raise UserError(f"there is no label in {folder}; expected PNGs of class ids")
    frames = []
    for parent, paths in sequences.items():
        found = [re.findall(r"\d+", path.stem) for path in paths]
        numbers = [int(digits[-1]) for digits in found if digits]
        if len(set(numbers)) < len(paths):
            numbers = list(range(len(paths)))
        name = parent.relative_to(folder).as_posix()
        frames += [LabelledFrame(name, n, path, path) for n, path in zip(numbers, paths, strict=True)]
    return LabelledSequences(spec, sorted(frames), LayoutSpec())


def _color(id_: int) -> tuple[int, int, int]:
    """The colour of an id in PASCAL VOC's colour map: its bits dealt out to red, green and blue, the lowest first."""
    channels = [sum((id_ >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3)]
    return channels[0], channels[1], channels[2]
