"""The description of a dataset: classes, colors, layouts and splits, read from its ``dataset.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ccnet3d.config import from_table, read_toml
from ccnet3d.constants import IMAGE_SUFFIXES
from ccnet3d.data.items import LabelledFrame
from ccnet3d.errors import FileProblemsError, UserError

__all__ = ["ClassSpec", "DatasetSpec", "LayoutSpec", "Split", "find_layout", "list_frames", "read_dataset_spec"]


class Split(NamedTuple):
    """The result of :func:`list_frames`."""

    layout: LayoutSpec
    """How the files are arranged and the labels encoded."""
    frames: list[LabelledFrame]
    """Sorted by sequence and frame number."""
    missing: int
    """Frames of the layout's frame list that are not in the folder, as in a partial download."""


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
    """Folder of the labels, PNGs arranged and named as the frames."""
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


def find_layout(spec: DatasetSpec, root: Path, split: str) -> LayoutSpec:
    """Return the first layout of the dataset whose files are in ``root``.

    Raises:
        UserError: there are none of any layout.
    """
    expected = []
    for layout in spec.layouts:
        marks = [layout.pair_list.replace("{split}", split)] if layout.pair_list else [layout.images, layout.labels]
        if all((root / mark).exists() for mark in marks):
            return layout
        expected.append(" and ".join(marks))
    raise UserError(f"no {spec.name} data for the split {split!r} in {root}; expected {', or '.join(expected)} there")


def list_frames(spec: DatasetSpec, spec_folder: Path, root: Path, split: str) -> Split:
    """Return the labeled frames of a split.

    Args:
        spec: the dataset.
        spec_folder: folder of its ``dataset.toml``, to which frame lists are relative.
        root: the data folder.
        split: name of the split.

    Raises:
        UserError: no data, an unknown split, or a file name without a frame number.
        FileProblemsError: listed files that do not exist.
    """
    layout = find_layout(spec, root, split)
    pairs: list[tuple[Path, Path]] = []
    missing = 0
    if layout.pair_list:
        pairs = _read_pairs(root, root / layout.pair_list.replace("{split}", split))
    elif layout.frame_list:
        names = _read_lines(spec_folder / layout.frame_list.replace("{split}", split))
        images = {path.stem: path for path in _images_below(root / layout.images)}
        pairs = [(images[name], _label_of(layout, root, images[name])) for name in names if name in images]
        missing = len(names) - len(pairs)
    else:
        if split not in spec.splits:
            raise UserError(f"{spec.name} has no split {split!r}, only {sorted(spec.splits)}")
        folder = root / layout.images
        for sequence in spec.splits[split]:
            labeled = [(path, _label_of(layout, root, path)) for path in _images_below(folder / sequence)]
            labeled = [pair for pair in labeled if pair[1].is_file()]  # a sequence may be labeled in part
            if not labeled:
                raise UserError(f"no frame in {folder / sequence} has a label in {root / layout.labels / sequence}")
            pairs += labeled
    if not pairs:
        raise UserError(f"the split {split!r} of {spec.name} has no labeled frame in {root}")
    if absent := [path for pair in pairs for path in pair if not path.is_file()]:
        raise FileProblemsError([f"{path} is listed in the split {split!r} but does not exist" for path in absent])
    folder = root / layout.images if not layout.pair_list else root
    frames = sorted(LabelledFrame(*_frame_identity(spec, folder, image), image, label) for image, label in pairs)
    for one, other in pairwise(frames):
        if (one.sequence, one.number) == (other.sequence, other.number):
            raise UserError(f"{one.image} and {other.image} are both frame {one.number} of sequence {one.sequence}")
    return Split(layout, frames, missing)


def _frame_identity(spec: DatasetSpec, folder: Path, image: Path) -> tuple[str, int]:
    if spec.frame_pattern:
        match = re.fullmatch(spec.frame_pattern, image.stem)
        if match is None:
            raise UserError(f"the name of {image} does not match frame_pattern {spec.frame_pattern!r}")
        try:
            return match["sequence"], int(match["frame"])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the group 'frame' of frame_pattern must match a number, got {match['frame']!r} in {image}"
            ) from error
    numbers = re.findall(r"\d+", image.stem)
    if not numbers:
        raise UserError(f"the name of {image} contains no frame number; number the frames or set frame_pattern")
    return image.parent.relative_to(folder).as_posix(), int(numbers[-1])


def _read_lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read the split list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the split list {path} is not a text file in UTF-8: {error}") from error


def _read_pairs(root: Path, path: Path) -> list[tuple[Path, Path]]:
    pairs = []
    for number, line in enumerate(_read_lines(path), 1):
        parts = line.split()
        if len(parts) != 2:
            raise UserError(f"line {number} of {path} must name an image and its label, got {line!r}")
        pairs.append((_resolve(root, parts[0]), _resolve(root, parts[1])))
    return pairs


def _resolve(root: Path, name: str) -> Path:
    """Return a listed file; the common CamVid download lists ``train/x.png`` as ``/SegNet/CamVid/train/x.png``."""
    path = root / name.lstrip("/")
    parts = Path(name).parts
    return path if path.is_file() or len(parts) < 3 else root / Path(*parts[-2:])


def _images_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _label_of(layout: LayoutSpec, root: Path, image: Path) -> Path:
    relative = image.relative_to(root / layout.images)
    return root / layout.labels / relative.with_name(f"{image.stem}{layout.label_suffix}.png")
