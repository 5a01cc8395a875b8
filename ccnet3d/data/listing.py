"""The labeled frames of a split: which images and labels belong together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ccnet3d.config import read_lines
from ccnet3d.data.items import LabelledFrame
from ccnet3d.data.spec import DatasetSpec, LayoutSpec
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.images import LOSSLESS_SUFFIXES, find_images

__all__ = ["Split", "list_frames"]

_Pairs = list[tuple[Path, Path]]
"""Images and their labels."""


class Split(NamedTuple):
    """The result of :func:`list_frames`."""

    layout: LayoutSpec
    """How the files are arranged and the labels encoded."""
    frames: list[LabelledFrame]
    """Sorted by sequence and frame number."""
    left_out: tuple[str, ...]
    """What is not used: one line per kind, with the number of files and the first names."""


def list_frames(spec: DatasetSpec, spec_folder: Path, root: Path, split: str) -> Split:
    """Return the labeled frames of a split.

    Args:
        spec: the dataset.
        spec_folder: folder of its ``dataset.toml``, to which frame lists are relative.
        root: the data folder.
        split: name of the split.

    Raises:
        UserError: no data, an unknown split, a file name without a frame number, or two labels of one frame.
        FileProblemsError: listed files that do not exist.
    """
    layout = _find_layout(spec, root, split)
    left_out: list[str] = []
    if layout.pair_list:
        pairs = _read_pairs(root, root / layout.pair_list.replace("{split}", split))
    elif layout.frame_list:
        names = read_lines(spec_folder / layout.frame_list.replace("{split}", split), "split list")
        pairs, left_out = _listed_pairs(layout, root, names)
    else:
        if split not in spec.splits:
            raise UserError(f"{spec.name} has no split {split!r}, only {sorted(spec.splits)}")
        pairs, left_out = _sequence_pairs(layout, root, spec.splits[split])
    if not pairs:
        raise UserError(f"the split {split!r} of {spec.name} has no labeled frame in {root}")
    if absent := [path for pair in pairs for path in pair if not path.is_file()]:
        raise FileProblemsError([f"{path} is listed in the split {split!r} but does not exist" for path in absent])
    folder = root / layout.images if not layout.pair_list else root
    frames = sorted(LabelledFrame(*_frame_identity(spec, folder, image), image, label) for image, label in pairs)
    for one, other in pairwise(frames):
        if (one.sequence, one.number) == (other.sequence, other.number):
            raise UserError(f"{one.image} and {other.image} are both frame {one.number} of sequence {one.sequence}")
    return Split(layout, frames, tuple(left_out))


def _find_layout(spec: DatasetSpec, root: Path, split: str) -> LayoutSpec:
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


def _listed_pairs(layout: LayoutSpec, root: Path, names: Sequence[str]) -> tuple[_Pairs, list[str]]:
    """Return the pairs of a frame list, and what is left out; a label may be absent."""
    images = defaultdict(list)
    for path in find_images(root / layout.images):
        images[path.stem].append(path)
    labels = _Labels(layout, root)
    pairs, missing = [], []
    for name in names:
        if len(images[name]) > 1:
            one, other = images[name][:2]
            raise UserError(f"{one} and {other} are both the listed frame {name}; keep one of them")
        if images[name]:
            image = images[name][0]
            pairs.append((image, labels.of(image) or labels.expected(image)))
        else:
            missing.append(name)
    return pairs, _counted(missing, f"missing of the {len(names)} listed frames")


def _sequence_pairs(layout: LayoutSpec, root: Path, sequences: Iterable[str]) -> tuple[_Pairs, list[str]]:
    """Return the pairs of some sequences, each of which may be labeled in part, and what is left out."""
    pairs: _Pairs = []
    alone: list[Path] = []
    unused: list[Path] = []
    for sequence in sequences:
        folder = root / layout.images / sequence
        if not folder.is_dir():
            raise UserError(f"the folder {folder} does not exist")
        images, labels = find_images(folder), _Labels(layout, root, sequence)
        found = {image: labels.of(image) for image in images}
        # In a folder of both, a label is not a frame as well.
        used = set(found.values())
        labeled = [(image, label) for image, label in found.items() if label and image not in used]
        if not labeled:
            raise UserError(f"no frame in {folder} has a label in {root / layout.labels / sequence}")
        pairs += labeled
        alone += [image for image, label in found.items() if label is None and image not in used]
        unused += [label for label in labels.paths if label not in used and label not in found]
    left_out = _counted([path.relative_to(root).as_posix() for path in alone], "images without a label")
    left_out += _counted([path.relative_to(root).as_posix() for path in unused], "labels without an image")
    return pairs, left_out


class _Labels:
    """The labels of a layout, by the name of their frame."""

    def __init__(self, layout: LayoutSpec, root: Path, sequence: str = "") -> None:
        self.images, self.labels, self.suffix = root / layout.images, root / layout.labels, layout.label_suffix
        folder = self.labels / sequence
        self.paths = find_images(folder, LOSSLESS_SUFFIXES) if folder.is_dir() else []
        self._by_name: dict[Path, list[Path]] = defaultdict(list)
        for path in self.paths:
            self._by_name[path.with_name(path.stem)].append(path)

    def of(self, image: Path) -> Path | None:
        """Return the label of an image, None if there is none."""
        found = self._by_name.get(self.expected(image).with_suffix(""), [])
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} are both the label of {image}; keep one of them")
        return found[0] if found else None

    def expected(self, image: Path) -> Path:
        """Return where the label of an image belongs."""
        return self.labels / image.relative_to(self.images).with_name(f"{image.stem}{self.suffix}.png")


def _counted(names: Sequence[str], what: str) -> list[str]:
    """Return a line with the number of files and the first names, none for no files."""
    more = ", ..." if len(names) > 3 else ""
    return [f"{what}: {len(names)} ({', '.join(names[:3])}{more})"] if names else []


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


def _read_pairs(root: Path, path: Path) -> list[tuple[Path, Path]]:
    pairs = []
    for number, line in enumerate(read_lines(path, "split list"), 1):
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
