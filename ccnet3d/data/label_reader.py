"""Labels of every encoding as class ids: the one place where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.annotations import read_annotations
from ccnet3d.data.items import LabelledFrame
from ccnet3d.data.shapes import draw_shapes
from ccnet3d.data.spec import DatasetSpec, LayoutSpec
from ccnet3d.errors import UserError
from ccnet3d.images import read_ids, read_rgb

__all__ = ["LabelReader", "UnknownLabelsError", "read_label_ids"]

_MOST_NAMED = 8


class UnknownLabelsError(UserError):
    """A label contains what the description of the dataset gives no class.

    Args:
        message: for the user.
        names: what is unknown, such as ``id 9``, ``color (1, 1, 1)`` or ``shape 'dog'``.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


def read_label_ids(path: Path, encoding: str, divisor: int = 0) -> np.ndarray:
    """Return the ids that a label image stores, int64 ``[H, W]``, before they become class ids.

    Args:
        path: the file.
        encoding: ``id``, ``red`` or ``rgb_id``, see :class:`LayoutSpec`.
        divisor: ids of at least this are class * divisor + instance, and the class is returned; 0 for none.

    Raises:
        UserError: the file cannot be read.
    """
    if encoding == "id":
        hint = "; set label_encoding = 'color' in dataset.toml if the labels are colors"
        ids = read_ids(path, hint=hint).astype(np.int64)
    else:
        rgb = read_rgb(path).astype(np.int64)
        ids = rgb[..., 0]
        if encoding == "rgb_id":
            ids = ids + (rgb[..., 1] << 8) + (rgb[..., 2] << 16)
    return np.where(ids >= divisor, ids // divisor, ids) if divisor else ids


class LabelReader:
    """Reads the labels of a dataset.

    >>> from tempfile import mkdtemp
    >>> from PIL import Image
    >>> from ccnet3d.data import ClassSpec
    >>> path = Path(mkdtemp()) / "1.png"
    >>> Image.fromarray(np.array([[7, 8, 0]], np.uint8)).save(path)
    >>> classes = (ClassSpec("road", (128, 64, 128)), ClassSpec("sidewalk", (244, 35, 232)))
    >>> spec = DatasetSpec("streets", classes, void_ids=(0,), label_mapping={"7": 0, "8": 1})
    >>> LabelReader(spec, LayoutSpec()).read(LabelledFrame("a", 1, path, path)).tolist()
    [[0, 1, 255]]

    Args:
        spec: the classes, and what ids, colors and names are theirs.
        layout: how the labels are encoded.
    """

    def __init__(self, spec: DatasetSpec, layout: LayoutSpec) -> None:
        self.spec = spec
        self.layout = layout

    def read(self, frame: LabelledFrame) -> Tensor:
        """Return the label of a frame, int64 ``[H, W]``: class ids and IGNORE_INDEX.

        Raises:
            UnknownLabelsError: it contains an id, a color or a name without a class.
            UserError: the file cannot be read.
        """
        if self.layout.has_shapes:
            return self._drawn(frame)
        if self.layout.label_encoding == "color":
            return self._of_colors(frame.label)
        ids = read_label_ids(frame.label, self.layout.label_encoding, self.spec.instance_divisor)
        return self._of_ids(frame.label, torch.from_numpy(ids))

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "layout": self.layout}  # without tables, which are quickly made again

    def _of_ids(self, path: Path, label: Tensor) -> Tensor:
        void = torch.isin(label, torch.tensor(self.spec.void_ids, dtype=torch.long))
        count = len(self.spec.classes)
        if self.spec.label_mapping:
            keys, values = self._mapping
            place = torch.searchsorted(keys, label).clamp(max=len(keys) - 1)
            known, classes = keys[place] == label, values[place]
        elif self.spec.reduce_zero:
            known, classes = (label >= 0) & (label <= count), (label - 1).masked_fill(label == 0, IGNORE_INDEX)
        else:
            known, classes = (label >= 0) & (label < count), label
        if bad := label[~known & ~void].unique().tolist():
            raise UnknownLabelsError(self._unknown_ids(path, label, bad), [f"id {id_}" for id_ in bad])
        return classes.masked_fill(void, IGNORE_INDEX)

    @cached_property
    def _mapping(self) -> tuple[Tensor, Tensor]:
        """The ids of label_mapping in ascending order, and the class of each: int64."""
        pairs = sorted((int(key), value) for key, value in self.spec.label_mapping.items())
        keys, values = torch.tensor(pairs, dtype=torch.long).unbind(1)
        return keys.contiguous(), values.contiguous()

    def _unknown_ids(self, path: Path, label: Tensor, bad: Sequence[int]) -> str:
        count = len(self.spec.classes)
        more = f" (and {', '.join(map(str, bad[1:_MOST_NAMED]))}{', ...' if len(bad) > _MOST_NAMED else ''})"
        what = f"{path} has the label {bad[0]}{more if len(bad) > 1 else ''}, which is "
        if self.spec.label_mapping:
            return f"{what}neither in label_mapping nor in void_ids; add it to one of them"
        if self.spec.reduce_zero:
            return f"{what}neither a class id (1 to {count}, with reduce_zero) nor in void_ids"
        return f"{what}neither a class id (0 to {count - 1}) nor in void_ids{_likely_cause(label, count)}"

    @cached_property
    def _class_of_color(self) -> np.ndarray:
        """The class of each 24-bit color: int16 ``[2**24]``, IGNORE_INDEX for void, -1 for unknown colors."""
        colors = self.spec.source_colors or {c.name: c.color for c in self.spec.classes}
        table = np.full(1 << 24, -1, np.int16)
        for name, (r, g, b) in colors.items():
            table[(r << 16) + (g << 8) + b] = self._class_of_name.get(name, IGNORE_INDEX)
        return table

    @cached_property
    def _class_of_name(self) -> dict[str, int]:
        return {name: i for i, one in enumerate(self.spec.classes) for name in one.merges or (one.name,)}

    def _of_colors(self, path: Path) -> Tensor:
        rgb = read_rgb(path).astype(np.int32)
        classes = self._class_of_color[(rgb[..., 0] << 16) + (rgb[..., 1] << 8) + rgb[..., 2]]
        if (unknown := rgb[classes < 0]).size:
            colors = [tuple(color) for color in np.unique(unknown, axis=0).tolist()]
            first = tuple(unknown[0].tolist())
            more = f" and {len(colors) - 1} more that are" if len(colors) > 1 else ", which is"
            raise UnknownLabelsError(
                f"{path} has the color {first}{more} not in source_colors; add it there",
                [f"color {color}" for color in colors],
            )
        return torch.from_numpy(classes.astype(np.int64))

    def _drawn(self, frame: LabelledFrame) -> Tensor:
        images = read_annotations(frame.label, self.layout.label_encoding)
        annotated = images[frame.annotated_as] if frame.annotated_as else next(iter(images.values()))
        size = annotated.size or read_rgb(frame.image).shape[:2]
        unknown = sorted({shape.name for shape in annotated.shapes} - self._class_of_name.keys())
        if unknown and self.spec.other_shapes == "error":
            raise UnknownLabelsError(
                f"{frame.label} has shapes named {', '.join(map(repr, unknown[:_MOST_NAMED]))}, which no class merges; "
                "add a class, or set other_shapes to 'void' or 'skip'",
                [f"shape {name!r}" for name in unknown],
            )
        other = IGNORE_INDEX if self.spec.other_shapes == "void" else None
        background = self.spec.class_names.index(self.spec.background) if self.spec.background else IGNORE_INDEX
        try:
            ids = draw_shapes(
                annotated, (size[0], size[1]), lambda name: self._class_of_name.get(name, other), background
            )
        except UserError as error:
            raise UserError(f"{frame.label}, image {frame.image.name}: {error}") from error
        return torch.from_numpy(ids.astype(np.int64))


def _likely_cause(label: Tensor, classes_count: int) -> str:
    """Return what the ids of a label with an unknown id suggest, as the end of a message."""
    ids = label.unique().tolist()
    if ids in ([255], [0, 255]):
        return (
            "; the ids are 0 and 255, as in a black and white mask: write 1 instead of 255, or set "
            "label_mapping = { 0 = 0, 255 = 1 } and void_ids = []"
        )
    if ids[0] >= 1 and ids[-1] in (classes_count, 255) and classes_count in ids:
        return "; the ids seem to count from 1, and the first class has the id 0: subtract 1, or set reduce_zero = true"
    return ""
