"""What a data folder contains, in words: splits, pairs, sizes, class shares, and what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.arrangement import Arrangement
from ccnet3d.data.check import Inspection, inspect_frames
from ccnet3d.data.datasets import LabelledSequences
from ccnet3d.data.listing import NoFramesError, Split, find_layout, list_frames, list_splits
from ccnet3d.data.source import DataSource
from ccnet3d.data.spec import DatasetSpec, read_dataset_spec
from ccnet3d.data.split_draw import draw_splits
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.wording import count_of

__all__ = ["Overview", "survey_data"]

_MOST_NAMES = 10


class Overview(NamedTuple):
    """The result of :func:`survey_data`."""

    lines: list[str]
    """For people."""
    problems: list[str]
    """Why the data cannot be used; empty for data that can."""
    splits: dict[str, LabelledSequences]
    """Those that can be opened."""


def survey_data(source: DataSource, names: Sequence[str] = ()) -> Overview:
    """Read all of a dataset and return what it contains.

    Args:
        source: the data.
        names: of the splits to read; empty for all.

    Raises:
        UserError: a description that is invalid or has no splits, or no data.
    """
    path = source.description
    spec = read_dataset_spec(path)
    known = list_splits(spec, path.parent, source.root)
    if not known:
        if spec.splits:
            find_layout(spec, source.root, next(iter(spec.splits)))  # names the files that are missing
        raise UserError(_without_splits(spec, source))
    if wrong := [name for name in names if name not in known]:
        raise UserError(f"there is no split {wrong[0]!r} in {source.root}; it has {', '.join(known)}")
    splits: dict[str, LabelledSequences] = {}
    found: dict[str, Split] = {}
    inspections: dict[str, Inspection] = {}
    problems: list[str] = []
    empty: list[str] = []
    for name in names or known:
        try:
            found[name] = list_frames(spec, path.parent, source.root, name)
            splits[name] = source.open(name)
        except NoFramesError as error:
            empty.append(str(error))
            continue
        except UserError as error:
            problems += error.problems if isinstance(error, FileProblemsError) else [f"split {name}: {error}"]
            continue
        inspections[name] = inspect_frames(splits[name], equal_sizes=False)
        problems += inspections[name].problems
    lines = [f"{spec.name}: {count_of(len(spec.classes), 'class', 'classes')}, described by {path}"]
    for name, split in splits.items():
        lines += _split_lines(name, split, inspections[name]) + _clip_lines(split)
    lines += _unpaired_lines(source, spec, found, every=not names)
    lines += _unknown_lines(splits, inspections)
    lines += _share_lines(spec, {name: one.pixel_counts for name, one in inspections.items()})
    for name, one in inspections.items():
        if not torch.any(one.pixel_counts[:IGNORE_INDEX]) and not one.problems:
            problems.append(f"split {name}: all pixels are void")
    lines += _warnings(splits, inspections)
    if splits:  # a part of a dataset is usable
        lines += [f"warning: {line}" for line in empty]
    else:
        problems += empty
    return Overview(lines, list(dict.fromkeys(problems)), splits)


def _without_splits(spec: DatasetSpec, source: DataSource) -> str:
    """Return the error of a description without splits, with a draft of them, unless lists in the data name them."""
    if any(layout.pair_list or layout.frame_list or layout.sequence_list for layout in spec.layouts):
        try:
            find_layout(spec, source.root, "train")
        except UserError as error:
            return str(error)
    all_frames = DatasetSpec(**{**vars(spec), "splits": {"all": ("*",)}})
    message = f"{source.description} has no [splits]"
    try:
        frames = list_frames(all_frames, source.description.parent, source.root, "all").frames
    except UserError as error:
        return f"{message}, and no data was found to draw them from: {error}"
    numbers: dict[str, list[int]] = {}
    for frame in frames:
        numbers.setdefault(frame.sequence, []).append(frame.number)
    drawn = draw_splits(numbers)
    draft = ", ".join(f"{name} = [{', '.join(f'{entry!r}' for entry in entries)}]" for name, entries in drawn.items())
    return f"{message}; a draw by sequence with a val share of 20% and seed 0 is: splits = {{ {draft} }}"


def _split_lines(name: str, split: LabelledSequences, inspection: Inspection) -> list[str]:
    numbers: dict[str, list[int]] = {}
    for frame in split.frames:
        numbers.setdefault(frame.sequence, []).append(frame.number)
    sizes = Counter(f"{width}x{height}" for height, width in inspection.sizes)
    shown = ", ".join(f"{size} ({count})" if len(sizes) > 1 else size for size, count in sizes.most_common(4))
    lines = [
        f"split {name}: {count_of(len(split), 'labeled frame')} in {count_of(len(numbers), 'sequence')}, "
        f"{count_of(len(split.segments), 'segment')} without a gap, {shown or 'no valid frame'}"
    ]
    for sequence, own in [*numbers.items()][:_MOST_NAMES]:
        lines.append(f"  {sequence}: {count_of(len(own), 'frame')}, {own[0]} to {own[-1]}")
    return lines + _more(len(numbers))


def _clip_lines(split: LabelledSequences) -> list[str]:
    """Return which frames make clips, if those of the videos could."""
    place = split.layout.clip_images
    if not place:
        return []
    if split.surroundings:
        return [f"  clips: {count_of(len(split.surroundings), 'unlabeled frame')} of {place} around the labeled ones"]
    return [f"  clips: labeled frames alone; {place}, with the frames around them, is not there"]


def _unpaired_lines(source: DataSource, spec: DatasetSpec, found: Mapping[str, Split], *, every: bool) -> list[str]:
    """Return what has no counterpart, by name, and what is in no split."""
    lines = []
    root = source.root
    used = {_label_name(frame.label, frame.annotated_as, root) for one in found.values() for frame in one.frames}
    frames = {frame.image for one in found.values() for frame in one.frames}
    unlabeled = dict.fromkeys(name for one in found.values() for name in one.unlabeled)
    lines += _listed("images without a label", list(unlabeled))
    if every:
        unused = dict.fromkeys(name for one in found.values() for name in one.unused_labels)
        outside = _outside(source, spec, found, {*frames, *(root / name for name in (*unlabeled, *used, *unused))})
        lines += _listed("labels without an image", [name for name in unused if name not in used])
        lines += _listed("images in no split", outside)
    for name, one in found.items():
        lines += [f"split {name}: {line}" for line in one.left_out if line.startswith("missing")]
    return lines


def _outside(source: DataSource, spec: DatasetSpec, found: Mapping[str, Split], known: set[Path]) -> list[str]:
    """Return the images of the layout that no split contains."""
    images: dict[Path, None] = {}
    for name in found:
        layout = find_layout(spec, source.root, name)
        if not layout.pair_list:
            files = Arrangement(spec, layout, source.root, name)
            listed = files.listed_images() if layout.frame_list else files.all_images()
            images |= {image.path: None for image in listed}
    return [path.relative_to(source.root).as_posix() for path in images if path not in known]


def _label_name(path: Path, annotated_as: str, root: Path) -> str:
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return f"{annotated_as} in {name}" if annotated_as else name


def _unknown_lines(splits: Mapping[str, LabelledSequences], inspections: Mapping[str, Inspection]) -> list[str]:
    """Return the ids, colors and names without a class, and where they are."""
    places: dict[str, list[Path]] = {}
    for name, inspection in inspections.items():
        for unknown, indices in inspection.unknown.items():
            places.setdefault(unknown, []).extend(splits[name].frames[index].label for index in indices)
    lines = [
        f"  {unknown} in {count_of(len(paths), 'label')}, the first is {paths[0]}"
        for unknown, paths in [*places.items()][:_MOST_NAMES]
    ]
    return ["without a class:", *lines, *_more(len(places))] if places else []


def _share_lines(spec: DatasetSpec, counts: Mapping[str, Tensor]) -> list[str]:
    """Return a table of the share of each class among the pixels of valid labels."""
    width = max(len(name) for name in ("class", *spec.class_names))
    lines = ["share of pixels".ljust(width + 5) + "".join(f"{name[:10]:>11}" for name in counts)]
    rows = [*enumerate(spec.class_names), (IGNORE_INDEX, "void")]
    for id_, name in rows:
        shares = (float(count[id_]) / max(1.0, float(count.sum())) for count in counts.values())
        lines.append(f"  {id_:3} {name.ljust(width)}" + "".join(f"{share:>11.3%}" for share in shares))
    return lines if counts else []


def _warnings(splits: Mapping[str, LabelledSequences], inspections: Mapping[str, Inspection]) -> list[str]:
    lines = []
    for name, inspection in inspections.items():
        spec = splits[name].spec
        absent = [one for id_, one in enumerate(spec.class_names) if not inspection.pixel_counts[id_]]
        if absent:
            more = f" and {len(absent) - _MOST_NAMES} more" if len(absent) > _MOST_NAMES else ""
            lines.append(f"warning: no pixel of {', '.join(absent[:_MOST_NAMES])}{more} in split {name}")
        if len(set(inspection.sizes)) > 1:
            lines.append(f"warning: frames of split {name} differ in size; a clip needs frames of one size")
    images = {name: {frame.image for frame in split.frames} for name, split in splits.items()}
    pairs = [(one, other) for one in images for other in images if one < other]
    lines += [
        f"warning: {count_of(len(common), 'frame')} in {one} and in {other}: scores on them are not those of new frames"
        for one, other in pairs
        if (common := images[one] & images[other])
    ]
    return lines


def _listed(what: str, names: Sequence[str]) -> list[str]:
    lines = [f"  {name}" for name in names[:_MOST_NAMES]]
    return [f"{what}: {len(names)}", *lines, *_more(len(names))] if names else []


def _more(count: int) -> list[str]:
    return [f"  and {count - _MOST_NAMES} more"] if count > _MOST_NAMES else []
