"""The description of a dataset: classes, colors, layouts and splits, read from its ``dataset.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ccnet3d.config import from_table, read_toml
from ccnet3d.errors import UserError

__all__ = ["ClassSpec", "DatasetSpec", "LayoutSpec", "read_dataset_spec"]


@dataclass(frozen=True)
class ClassSpec:
    """A class to predict; its id is its index in the list."""

    name: str
    color: tuple[int, int, int]
    """RGB in masks and overlays, 0 to 255."""
    merges: tuple[str, ...] = ()
    """Names in ``source_colors`` that make up the class, for labels encoded as colors; its own name when empty."""

    def __post_init__(self) -> None:
        if not all(0 <= channel <= 255 for channel in self.color):
            raise UserError(f"the color of {self.name} must be RGB from 0 to 255, got {self.color}")


@dataclass(frozen=True)
class LayoutSpec:
    """One possible arrangement of the dataset's files in a folder."""

    images: str = "frames"
    """Folder of the frames."""
    labels: str = "labels"
    """Folder of the labels, PNG, BMP or TIFF images arranged and named as the frames."""
    label_suffix: str = ""
    """Appended to the frame's name in the label's name, before the extension."""
    label_encoding: str = "id"
    """``id``: pixels are class ids, in a gray or palette image; ``color``: they are colors of ``source_colors``."""
    pair_list: str = ""
    """List in the data folder, with ``{split}`` in its name; each line names an image and its label."""
    frame_list: str = ""
    """List next to dataset.toml, with ``{split}`` in its name; each line names a frame without extension."""

    def __post_init__(self) -> None:
        if self.label_encoding not in ("id", "color"):
            raise UserError(f"label_encoding must be 'id' or 'color', got {self.label_encoding!r}")
        for name in (self.pair_list, self.frame_list):
            if name and "{split}" not in name:
                raise UserError(f"pair_list and frame_list need {{split}} in their name, got {name!r}")


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
    """Sequences of each split, for layouts without lists."""
    void_ids: tuple[int, ...] = (255,)
    """Ids in label images that are neither trained nor scored."""
    source_colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """Colors of the labels as distributed, by name; colors that no class merges are void."""
    frame_pattern: str = ""
    """Regular expression with groups ``sequence`` and ``frame`` for a frame's file name without extension. By
    default the folder names the sequence and the last number in the file name is the frame number."""
    max_gap_frames: int = 0
    """Consecutive labeled frames whose frame numbers differ by more belong to different segments; 0 for no limit."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(f"{self.name} needs at least two classes, got {len(self.classes)}")
        if len(self.classes) > 255:
            raise UserError(f"{self.name} has {len(self.classes)} classes; masks of one byte can encode 255 and void")
        names = [c.name for c in self.classes]
        if len(set(names)) < len(names):
            raise UserError(f"class names must differ, got {names}")
        if bad := [i for i in self.void_ids if i < len(names)]:
            raise UserError(f"void_ids must be above the class ids 0 to {len(names) - 1}, got {bad}")
        for class_ in self.classes:
            if unknown := [name for name in class_.merges if name not in self.source_colors]:
                raise UserError(f"class {class_.name} merges {unknown[0]!r}, which is not in source_colors")
        try:
            groups = set(re.compile(self.frame_pattern).groupindex)
        except re.error as error:
            raise UserError(f"frame_pattern is not a regular expression ({error}): {self.frame_pattern!r}") from error
        if self.frame_pattern and not {"sequence", "frame"} <= groups:
            raise UserError(f"frame_pattern needs the groups 'sequence' and 'frame', got {self.frame_pattern!r}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(c.color for c in self.classes)


def read_dataset_spec(path: Path) -> DatasetSpec:
    """Read a ``dataset.toml``.

    Raises:
        UserError: it is missing, not TOML, or has an invalid value.
    """
    try:
        return from_table(DatasetSpec, read_toml(path))
    except UserError as error:
        raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
