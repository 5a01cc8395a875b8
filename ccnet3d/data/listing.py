"""The labeled frames of a split: which images and labels belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ccnet3d.config import read_lines
from ccnet3d.data.arrangement import (
    Arrangement,
    FoundImage,
    FoundLabel,
    is_present,
)
from ccnet3d.data.items import LabelledFrame
from ccnet3d.data.spec import DatasetSpec, LayoutSpec
from ccnet3d.data.surroundings import Surroundings, VideoFrame
from ccnet3d.errors import FileProblemsError, UserError

__all__ = ["NoFramesError", "Split", "find_layout", "list_frames", "list_splits"]


_UNLABELED = "images without a label"


class NoFramesError(UserError):
    """None of the frames that a list names is there."""


class Split(NamedTuple):
    """The result of :func:`list_frames`."""

    layout: LayoutSpec
    """How the files are arranged and the labels encoded."""
    frames: list[LabelledFrame]
    """Sorted by sequence and frame number."""
    left_out: tuple[str, ...]
    """What is not used: one line per kind, with the number of files and the first names."""
    unlabeled: tuple[str, ...] = ()
    """Images without a label, relative to the data folder."""
    unused_labels: tuple[str, ...] = ()
    """Labels without an image in this split; their place may also have labels of other splits."""
    surroundings: Surroundings | None = None
    """The frames of ``clip_images``."""


class _Pairs(NamedTuple):
    """Images and their labels, and what is left out."""

    pairs: list[tuple[FoundImage, FoundLabel]]
    left_out: list[str]
    unlabeled: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def without(self, used: set[str]) -> _Pairs:
        """Return the same but the images without a label that are used."""
        unlabeled = tuple(name for name in self.unlabeled if name not in used)
        others = [line for line in self.left_out if not line.startswith(_UNLABELED)]
        return self._replace(left_out=_counted(unlabeled, _UNLABELED) + others, unlabeled=unlabeled)


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
    layout = find_layout(spec, root, split)
    entries: Sequence[str] = ()
    files = Arrangement(spec, layout, root, split)
    if layout.pair_list:
        found = _Pairs(_read_pairs(root, root / layout.pair_list.replace("{split}", split)), [])
        files.number([image for image, _ in found.pairs])
    elif layout.frame_list:
        name = layout.frame_list.replace("{split}", split)
        own = spec_folder / name
        found = _listed_pairs(files, read_lines(own if own.exists() else root / name, "split list"))
    elif layout.sequence_list:
        path = root / layout.sequence_list.replace("{split}", split)
        entries = [line.strip() for line in read_lines(path, "split list")]
        found = _sequence_pairs(files, entries)
    else:
        entries = _entries(spec, layout, split)
        found = _sequence_pairs(files, entries)
    if not found.pairs:
        raise NoFramesError(f"the split {split!r} of {spec.name} has no labeled frame in {root}")
    if absent := [path for image, label in found.pairs for path in (image.path, label.path) if not path.is_file()]:
        raise FileProblemsError([f"{path} is listed in the split {split!r} but does not exist" for path in absent])
    frames = _frames(files, found.pairs)
    surroundings = _surroundings(files, entries, frames)
    if surroundings:
        used = {path.relative_to(root).as_posix() for path in surroundings.unlabeled_images}
        found = found.without(used)
    return Split(layout, frames, tuple(found.left_out), found.unlabeled, found.unused, surroundings)


def list_splits(spec: DatasetSpec, spec_folder: Path, root: Path) -> list[str]:
    """Return the names of the splits whose files are in ``root``: those of ``[splits]``, and those of lists."""
    names = dict.fromkeys(spec.splits)
    for layout in spec.layouts:
        lists = [(root, layout.pair_list), (root, layout.sequence_list)]
        for folder, pattern in (*lists, (spec_folder, layout.frame_list), (root, layout.frame_list)):
            before, _, after = pattern.partition("{split}")
            paths = sorted(folder.glob(f"{before}*{after}")) if pattern else []
            names |= dict.fromkeys(
                path.relative_to(folder).as_posix().removeprefix(before).removesuffix(after) for path in paths
            )
    order = {name: place for place, name in enumerate(("train", "val", "test"))}
    present = [name for name in names if any(is_present(layout, root, name) for layout in spec.layouts)]
    return sorted(present, key=lambda name: (order.get(name, len(order)), name))


def _entries(spec: DatasetSpec, layout: LayoutSpec, split: str) -> Sequence[str]:
    """Return the entries of a split; those without any have all sequences if the split names their folder."""
    if split in spec.splits:
        return spec.splits[split]
    if not spec.splits and "{split}" in layout.images:
        return ["*"]
    advice = "" if spec.splits else "; ccnet3d-data check drafts [splits]"
    raise UserError(f"{spec.name} has no split {split!r}, only {sorted(spec.splits)}{advice}")


def find_layout(spec: DatasetSpec, root: Path, split: str) -> LayoutSpec:
    """Return the first layout of the dataset whose files are in ``root``.

    Raises:
        UserError: there are none of any layout.
    """
    expected = []
    for layout in spec.layouts:
        if is_present(layout, root, split):
            return layout
        marks = [layout.pair_list] if layout.pair_list else [layout.images, layout.labels]
        marks += [layout.sequence_list] if layout.sequence_list else []
        expected.append(" and ".join(mark.replace("{split}", split) for mark in marks))
    raise UserError(f"no {spec.name} data for the split {split!r} in {root}; expected {', or '.join(expected)} there")


def _listed_pairs(files: Arrangement, names: Sequence[str]) -> _Pairs:
    """Return the pairs of a frame list; a label may be absent."""
    images = defaultdict(list)
    for image in files.listed_images():
        images[image.path.stem].append(image)
    pairs, missing = [], []
    for name in names:
        if len(images[name]) > 1:
            one, other = images[name][:2]
            raise UserError(f"{one.path} and {other.path} are both the listed frame {name}; keep one of them")
        if images[name]:
            image = images[name][0]
            pairs.append((image, files.label_of(image) or FoundLabel(files.expected_label(image))))
        else:
            missing.append(name)
    return _Pairs(pairs, _counted(missing, f"missing of the {len(names)} listed frames"))


def _sequence_pairs(files: Arrangement, entries: Sequence[str]) -> _Pairs:
    """Return the pairs of some sequences, each of which may be labeled in part."""
    pairs: dict[Path, tuple[FoundImage, FoundLabel]] = {}
    alone: list[Path] = []
    images_seen: set[Path] = set()
    for entry in entries:
        found = {image: files.label_of(image) for image in files.images_of(entry)}
        # In a folder of both, a label is not a frame as well.
        used = {label.path for label in found.values() if label}
        labeled = {image.path: (image, label) for image, label in found.items() if label and image.path not in used}
        if not labeled:
            first = next(iter(found))
            raise UserError(f"no frame in {first.path.parent} has a label in {files.labels_place(first.folder)}")
        pairs |= labeled
        images_seen |= {image.path for image in found}
        alone += [image.path for image, label in found.items() if label is None and image.path not in used]
    unused = files.unused_labels({label for _, label in pairs.values()})
    root = files.root
    images = {path.relative_to(root).as_posix() for path in images_seen}
    unused = [name for name in unused if name not in images]
    unlabeled = tuple(path.relative_to(root).as_posix() for path in alone)
    left_out = _counted(unlabeled, _UNLABELED)
    if not files.labels_are_shared:
        left_out += _counted(unused, "labels without an image")
    return _Pairs([*pairs.values()], left_out, unlabeled, tuple(unused))


def _surroundings(files: Arrangement, entries: Sequence[str], labeled: Sequence[LabelledFrame]) -> Surroundings | None:
    """Return the frames of the videos of labeled frames; None if they are not there."""
    layout = files.layout
    place = layout.clip_images.replace("{split}", files.split).partition("{")[0]
    if not layout.clip_images or not (files.root / place).is_dir():
        return None
    videos = Arrangement(files.spec, replace(layout, images=layout.clip_images), files.root, files.split)
    try:
        images = [image for entry in entries for image in videos.images_of(entry)] if entries else videos.all_images()
    except UserError:  # the videos of another split alone
        return None
    frames = [VideoFrame(*videos.identity(image), image.path) for image in images]
    found = Surroundings(labeled, frames, files.spec.max_gap_frames)
    return found if len(found) else None


def _counted(names: Sequence[str], what: str) -> list[str]:
    """Return a line with the number of files and the first names, none for no files."""
    more = ", ..." if len(names) > 3 else ""
    return [f"{what}: {len(names)} ({', '.join(names[:3])}{more})"] if names else []


def _frames(files: Arrangement, pairs: Sequence[tuple[FoundImage, FoundLabel]]) -> list[LabelledFrame]:
    """Return the frames of some pairs, sorted.

    Raises:
        UserError: two of them are the same frame, or have one label.
    """
    frames = []
    for image, label in pairs:
        sequence, number = files.identity(image)
        frames.append(LabelledFrame(sequence, number, image.path, label.path, label.annotated_as))
    frames.sort()
    for one, other in pairwise(frames):
        if (one.sequence, one.number) == (other.sequence, other.number):
            raise UserError(f"{one.image} and {other.image} are both frame {one.number} of sequence {one.sequence}")
    image_of: dict[tuple[Path, str], Path] = {}
    for frame in frames if not files.layout.pair_list else []:
        other_image = image_of.setdefault((frame.label, frame.annotated_as), frame.image)
        if other_image != frame.image:
            what = f"{frame.annotated_as} in {frame.label}" if frame.annotated_as else str(frame.label)
            raise UserError(
                f"{what} is the label of {other_image} as well as of {frame.image}; their names must differ"
            )
    return frames


def _read_pairs(root: Path, path: Path) -> list[tuple[FoundImage, FoundLabel]]:
    pairs = []
    for number, line in enumerate(read_lines(path, "split list"), 1):
        parts = line.split()
        if len(parts) != 2:
            raise UserError(f"line {number} of {path} must name an image and its label, got {line!r}")
        image = _resolve(root, parts[0])
        name = image.relative_to(root).with_suffix("").as_posix()
        pairs.append((FoundImage(".", image, name), FoundLabel(_resolve(root, parts[1]))))
    return pairs


def _resolve(root: Path, name: str) -> Path:
    """Return a listed file; the common CamVid download lists ``train/x.png`` as ``/SegNet/CamVid/train/x.png``."""
    path = root / name.lstrip("/")
    parts = Path(name).parts
    return path if path.is_file() or len(parts) < 3 else root / Path(*parts[-2:])
