"""The description of a dataset: classes, colors, layouts and splits, read from its ``dataset.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ccnet3d.config import from_table, read_toml
from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import UserError

__all__ = ["ClassSpec", "DatasetSpec", "LayoutSpec", "added_settings", "read_dataset_spec"]

LABEL_ENCODINGS = ("id", "red", "rgb_id", "color", "coco", "cvat", "labelme", "cityscapes")
OTHER_SHAPES = ("error", "void", "skip")


@dataclass(frozen=True)
class ClassSpec:
    """A class to predict; its id is its index in the list."""

    name: str
    color: tuple[int, int, int]
    """RGB in masks and overlays, 0 to 255."""
    merges: tuple[str, ...] = ()
    """Names that make up the class, in ``source_colors`` or in annotation files; its own name when empty."""

    def __post_init__(self) -> None:
        if not all(0 <= channel <= 255 for channel in self.color):
            raise UserError(f"the color of {self.name} must be RGB from 0 to 255, got {self.color}")


@dataclass(frozen=True)
class LayoutSpec:
    """One possible arrangement of the dataset's files in a folder."""

    images: str = "frames"
    """Folder of the frames, with ``{sequence}`` and ``{split}`` in it where the path contains their names; without
    ``{sequence}``, the folders in it are the sequences."""
    labels: str = "labels"
    """Folder of the labels, arranged and named as the frames, with the same placeholders; with ``{name}``, the path of
    a label without extension, where ``{name}`` is that of its frame. For COCO and CVAT the annotation file, or the
    folder of several."""
    label_suffix: str = ""
    """Appended to the frame's name in the label's name, before the extension."""
    label_encoding: str = "id"
    """``id``: pixels are ids, in a gray or palette image; ``red``: ids in the red channel; ``rgb_id``: an id is
    R + 256 G + 65536 B; ``color``: pixels are colors of ``source_colors``, in a color or palette image; ``coco``,
    ``cvat``, ``labelme``, ``cityscapes``: shapes in annotation files."""
    pair_list: str = ""
    """List in the data folder, with ``{split}`` in its name; each line names an image and its label."""
    frame_list: str = ""
    """List next to dataset.toml or in the data folder, with ``{split}`` in its name; each line names a frame without
    extension."""
    # The next fields came later. Names of frame caches contain the repr, which stays as it was; see added_settings.
    image_suffix: str = field(default="", repr=False)
    """How the names of all frames end before the extension; not a part of ``{name}``, and other images are left out."""
    sequence_list: str = field(default="", repr=False)
    """List in the data folder, with ``{split}`` in its name; each line names a sequence."""
    clip_images: str = field(default="", repr=False)
    """Folder of all frames of the videos, arranged and named as ``images`` or the same folder: the frames around a
    labeled one complete its clips. If it is absent, or by default, clips consist of labeled frames."""

    def __post_init__(self) -> None:
        if self.label_encoding not in LABEL_ENCODINGS:
            raise UserError(f"label_encoding must be one of {', '.join(LABEL_ENCODINGS)}, got {self.label_encoding!r}")
        if self.has_annotation_files and (self.pair_list or self.frame_list):
            raise UserError(f"label_encoding = {self.label_encoding!r} cannot be combined with pair_list or frame_list")
        lists = [name for name in (self.pair_list, self.frame_list, self.sequence_list) if name]
        if len(lists) > 1:
            raise UserError(f"a layout has one of pair_list, frame_list and sequence_list, got {', '.join(lists)}")
        if lists and "{split}" not in lists[0]:
            raise UserError(f"pair_list, frame_list and sequence_list need {{split}} in their name, got {lists[0]!r}")

    @property
    def has_annotation_files(self) -> bool:
        """Whether one file has the labels of several frames."""
        return self.label_encoding in ("coco", "cvat")

    @property
    def has_shapes(self) -> bool:
        """Whether labels are shapes with names, not images."""
        return self.label_encoding in ("coco", "cvat", "labelme", "cityscapes")


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset of labeled sequences; the fields are the keys of ``dataset.toml``.

    >>> DatasetSpec("yard", (ClassSpec("ground", (90, 140, 60)), ClassSpec("box", (200, 40, 40)))).class_names
    ('ground', 'box')
    """

    name: str
    classes: tuple[ClassSpec, ...]
    description: str = ""
    homepage: str = ""
    terms: str = ""
    """What it is, where it comes from and how it may be used, for readers of the file."""
    layouts: tuple[LayoutSpec, ...] = (LayoutSpec(),)
    """Tried in this order; the first whose files exist is used."""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Sequences of each split, for layouts without lists: names, patterns as ``night_*``, or a part of a sequence by
    its frame numbers, as ``walk:1-80``."""
    void_ids: tuple[int, ...] = (255,)
    """Ids in label images, as stored, that are neither trained nor scored."""
    source_colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """Colors of the labels as distributed, by name; colors that no class merges are void."""
    frame_pattern: str = ""
    """Regular expression with groups ``sequence`` and ``frame`` for a frame's file name without extension. By
    default the folder names the sequence and the last number in the file name is the frame number."""
    max_gap_frames: int = 0
    """Consecutive labeled frames whose frame numbers differ by more belong to different segments; 0 for no limit."""
    # The next fields came later. Names of frame caches contain the repr, which stays as it was; see added_settings.
    label_mapping: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Ids in label images to class ids, or 255 for void. An id that is neither here nor in ``void_ids`` is an error."""
    reduce_zero: bool = field(default=False, repr=False)
    """Whether 0 in label images is void and the ids from 1 are the classes."""
    instance_divisor: int = field(default=0, repr=False)
    """Ids of at least this are class * divisor + instance, such as 1000 in Cityscapes; 0 for ids without instances."""
    background: str = field(default="", repr=False)
    """Class of the pixels in no shape of an annotation file; void when empty."""
    other_shapes: str = field(default="error", repr=False)
    """Shapes whose name no class merges: ``error``, ``void``, or ``skip`` to not draw them."""
    frame_numbers: str = field(default="name", repr=False)
    """``name``: the last number in the file name; ``order``: the place in the sequence, for names without numbers."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("the name of a dataset must not be empty")
        if len(self.classes) < 2:
            raise UserError(f"{self.name} needs at least two classes, got {len(self.classes)}")
        if len(self.classes) > 255:
            raise UserError(f"{self.name} has {len(self.classes)} classes; masks of one byte can encode 255 and void")
        names = [c.name for c in self.classes]
        if not all(name.strip() for name in names):
            raise UserError(f"class names must not be empty, got {names}")
        if len(set(names)) < len(names):
            raise UserError(f"class names must differ, got {names}")
        if self.max_gap_frames < 0:
            raise UserError(f"max_gap_frames must be at least 1, or 0 for no limit, got {self.max_gap_frames}")
        self._check_ids()
        shapes = any(layout.has_shapes for layout in self.layouts)
        for class_ in () if shapes else self.classes:
            if unknown := [name for name in class_.merges if name not in self.source_colors]:
                raise UserError(f"class {class_.name} merges {unknown[0]!r}, which is not in source_colors")
        if self.background and self.background not in names:
            raise UserError(f"background must be the name of a class, got {self.background!r}")
        for key, known in (("other_shapes", OTHER_SHAPES), ("frame_numbers", ("name", "order"))):
            if getattr(self, key) not in known:
                raise UserError(f"{key} must be one of {', '.join(known)}, got {getattr(self, key)!r}")
        if self.frame_numbers == "order" and any(one.clip_images not in ("", one.images) for one in self.layouts):
            raise UserError("frame_numbers = 'order' needs clip_images to be the folder of images, or empty")
        try:
            groups = set(re.compile(self.frame_pattern).groupindex)
        except re.error as error:
            raise UserError(f"frame_pattern is not a regular expression ({error}): {self.frame_pattern!r}") from error
        if self.frame_pattern and not {"sequence", "frame"} <= groups:
            raise UserError(f"frame_pattern needs the groups 'sequence' and 'frame', got {self.frame_pattern!r}")

    def _check_ids(self) -> None:
        count = len(self.classes)
        if self.label_mapping and self.reduce_zero:
            raise UserError("label_mapping and reduce_zero cannot be combined; write the shift into label_mapping")
        for key, value in self.label_mapping.items():
            if not re.fullmatch(r"-?\d{1,9}", key):
                raise UserError(f"the keys of label_mapping must be ids, got {key!r}")
            if value != IGNORE_INDEX and not 0 <= value < count:
                raise UserError(
                    f"label_mapping maps {key} to {value}, which is neither a class id (0 to {count - 1}) nor "
                    f"{IGNORE_INDEX} for void"
                )
        if self.instance_divisor < 0 or self.instance_divisor == 1:
            raise UserError(f"instance_divisor must be at least 2, or 0 for none, got {self.instance_divisor}")
        if self.label_mapping:
            if bad := [i for i in self.void_ids if self.label_mapping.get(str(i), IGNORE_INDEX) != IGNORE_INDEX]:
                raise UserError(f"void_ids must not contain ids that label_mapping maps to classes, got {bad}")
        elif self.reduce_zero:
            if bad := [i for i in self.void_ids if 1 <= i <= count]:
                raise UserError(f"with reduce_zero, the classes have the ids 1 to {count}; void_ids contains {bad}")
        elif bad := [i for i in self.void_ids if i < count]:
            raise UserError(f"void_ids must be above the class ids 0 to {count - 1}, got {bad}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(c.color for c in self.classes)


def added_settings(spec: DatasetSpec, layout: LayoutSpec) -> dict[str, Any]:
    """Return the values that differ from the defaults among the keys that ``repr`` leaves out.

    >>> classes = (ClassSpec("ground", (90, 140, 60)), ClassSpec("box", (200, 40, 40)))
    >>> added_settings(DatasetSpec("yard", classes, reduce_zero=True), LayoutSpec())
    {'reduce_zero': True}
    """
    return {
        one.name: value
        for table in (spec, layout)
        for one in fields(table)
        if not one.repr and (value := getattr(table, one.name)) not in (one.default, {})
    }


def read_dataset_spec(path: Path) -> DatasetSpec:
    """Read a ``dataset.toml``.

    Raises:
        UserError: it is missing, not TOML, or has an invalid value.
    """
    try:
        return from_table(DatasetSpec, read_toml(path))
    except UserError as error:
        raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
