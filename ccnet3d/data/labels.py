"""Label-only datasets: a folder of labels without frames and without a ``dataset.toml``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ccnet3d.data.datasets import LabelledSequences
from ccnet3d.data.items import LabelledFrame
from ccnet3d.data.spec import ClassSpec, DatasetSpec, LayoutSpec
from ccnet3d.errors import UserError
from ccnet3d.images import LOSSLESS_SUFFIXES, find_images

__all__ = ["numbered", "open_labels", "voc_color"]


def numbered(count: int) -> tuple[str, ...]:
    """Return names for classes of which only the count is known.

    >>> numbered(2)
    ('class 0', 'class 1')
    """
    return tuple(f"class {id_}" for id_ in range(count))


def open_labels(folder: Path, class_names: Sequence[str], void_ids: Sequence[int] = (255,)) -> LabelledSequences:
    """Open labels to score masks against. There are no frames, so each label's file stands in for its frame.

    >>> from tempfile import mkdtemp
    >>> from PIL import Image
    >>> folder = Path(mkdtemp())
    >>> Image.new("L", (4, 3), 1).save(folder / "frame_12.png")
    >>> labels = open_labels(folder, ["ground", "box"])
    >>> labels.frames[0].number, labels.read_label(0).shape
    (12, torch.Size([3, 4]))

    Args:
        folder: images of class ids, gray or with a palette: PNG, BMP or TIFF. Each folder below it that contains some
            is a sequence. The last number in a file name is the frame number; if that does not distinguish the files of
            a sequence, their order numbers them.
        class_names: names of the ids from 0.
        void_ids: ids that are not counted.

    Raises:
        UserError: no labels, or fewer than two classes.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder of labels {folder}")
    classes = tuple(ClassSpec(name, voc_color(id_)) for id_, name in enumerate(class_names))
    spec = DatasetSpec(folder.resolve().name or "labels", classes, void_ids=tuple(void_ids))
    sequences: dict[Path, list[Path]] = {}
    for path in find_images(folder, LOSSLESS_SUFFIXES):
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


def voc_color(id_: int) -> tuple[int, int, int]:
    """Return the color of an id in PASCAL VOC's color map.

    >>> [voc_color(id_) for id_ in (0, 1, 2)]
    [(0, 0, 0), (128, 0, 0), (0, 128, 0)]

    The bits of the id are dealt out to red, green and blue in turn, from the lowest bit; each channel is filled from
    its highest bit down.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            if id_ & (1 << (3 * bit + channel)):
                channels[channel] |= 1 << (7 - bit)
    return channels[0], channels[1], channels[2]
