"""A first ``dataset.toml`` for a folder of frames and labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ccnet3d.data.found_files import find_labeled_files, frames_in_order
from ccnet3d.data.label_classes import classes_of_shapes, classes_of_values
from ccnet3d.data.listing import list_frames
from ccnet3d.data.spec import DatasetSpec
from ccnet3d.data.split_draw import draw_splits
from ccnet3d.errors import UserError

__all__ = ["Draft", "describe_folder"]

_FEWEST_STEPS = 20
"""Steps from one labeled frame to the next by which a gap can be told."""

_NUMBERED = r"(?P<sequence>.+)[_-]f?(?P<frame>\d+)"
_SPLIT = re.compile(r"(?:(train)(?:ing)?|(val)(?:id|idation)?|(test)(?:ing)?)(?:\d{4})?", re.IGNORECASE)

Progress = Callable[[Iterable[Path]], Iterable[Path]]


class Draft(NamedTuple):
    """The result of :func:`describe_folder`."""

    spec: DatasetSpec
    notes: tuple[str, ...]
    """What was found and assumed, one line each."""
    class_shares: tuple[float, ...]
    """Share of each class among the pixels of all labels; empty for shapes."""


def describe_folder(
    folder: Path,
    *,
    encoding: str = "",
    names: Sequence[str] = (),
    val_share: float = 0.2,
    seed: int = 0,
    progress: Progress = iter,
) -> Draft:
    """Return a description of a folder of frames and labels.

    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> from PIL import Image
    >>> folder = Path(mkdtemp())
    >>> noise = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    >>> for number, picture in enumerate(noise):
    ...     for part in ("images", "labels"):
    ...         (folder / "walk" / part).mkdir(parents=True, exist_ok=True)
    ...     Image.fromarray(picture).save(folder / f"walk/images/{number}.png")
    ...     Image.new("L", (40, 40), number).save(folder / f"walk/labels/{number}.png")
    >>> spec = describe_folder(folder).spec
    >>> spec.layouts[0].images, spec.class_names, spec.splits
    ('{sequence}/images', ('class_0', 'class_1'), {'train': ('walk:0-0',), 'val': ('walk:1-1',)})

    Args:
        folder: the data folder.
        encoding: of the labels; found out if it is empty.
        names: of the classes, in the order of their ids; made up, or those of annotation files, if there are none.
        val_share: share of val among the labeled frames, where the folder has no splits.
        seed: of the draw.
        progress: wraps the labels while they are read.

    Raises:
        UserError: no pairs of frames and labels, or labels that are no classes.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder that contains the frames and their labels")
    found = find_labeled_files(folder, encoding)
    layout, notes = found.layout, found.notes
    if layout.has_shapes:
        labeling = classes_of_shapes(found.labels, layout.label_encoding)
    else:
        labeling = classes_of_values(folder, found.labels, layout.label_encoding, names, progress)
    if len(labeling.keys["classes"]) < 2:
        raise UserError(f"the labels in {folder} have one class only, and a dataset needs two")
    if names and layout.has_shapes:
        raise UserError(f"the classes of {layout.label_encoding} have names in the files; rename them in dataset.toml")
    name = re.sub(r"\W+", "_", folder.resolve().name) or "dataset"
    splits = {} if layout.pair_list or layout.frame_list else {"all": found.sequences}
    spec = DatasetSpec(name, layouts=(layout,), splits=splits, **labeling.keys)
    spec = _with_frame_numbers(spec, folder)
    spec = _with_largest_gap(spec, folder, labeling.notes)
    spec, more = _with_splits(spec, folder, found.sequences, val_share, seed)
    return Draft(spec, (*notes, *labeling.notes, *more), labeling.shares)


def _with_frame_numbers(spec: DatasetSpec, folder: Path) -> DatasetSpec:
    """Return the description with the way in which frames are numbered that distinguishes all of them."""
    frames = frames_in_order(spec, folder)
    suffix = spec.layouts[0].image_suffix
    stems = [frame.image.stem.removesuffix(suffix) for frame in frames]
    numbers = [re.findall(r"\d+", stem) for stem in stems]
    plain = {(frame.sequence, int(found[-1])) for frame, found in zip(frames, numbers, strict=True) if found}
    matches = [match for stem in stems if (match := re.fullmatch(_NUMBERED, stem))]
    sequences = {match["sequence"] for match in matches}
    identities = {(match["sequence"], int(match["frame"])) for match in matches}
    more = len(identities) == len(frames) and len(sequences) > len({frame.sequence for frame in frames})
    if more and (len(plain) < len(frames) or len(frames) >= 2 * len(sequences)):
        return replace(spec, frame_pattern=_NUMBERED)
    return spec if len(plain) == len(frames) else replace(spec, frame_numbers="order")


def _with_largest_gap(spec: DatasetSpec, folder: Path, notes: list[str]) -> DatasetSpec:
    """Return the description with max_gap_frames, and note it, if a few gaps are far longer than all others."""
    if spec.frame_numbers == "order":
        return spec
    splits = spec.splits or ("train", "val")
    steps = sorted(
        later.number - earlier.number
        for split in splits
        for earlier, later in pairwise(list_frames(spec, folder, folder, split).frames)
        if later.sequence == earlier.sequence
    )
    if len(steps) < _FEWEST_STEPS or steps[-1] <= 4 * (usual := steps[len(steps) * 9 // 10]):
        return spec
    notes.append(f"frames whose numbers differ by more than {2 * usual} are never in one clip (max_gap_frames)")
    return replace(spec, max_gap_frames=2 * usual)


def _with_splits(
    spec: DatasetSpec, folder: Path, sequences: Sequence[str], val_share: float, seed: int
) -> tuple[DatasetSpec, list[str]]:
    """Return the description with train and val: those of lists or folders, or a draw."""
    layout = spec.layouts[0]
    if layout.pair_list or layout.frame_list:
        return replace(spec, splits={}), [f"splits: by {layout.pair_list or layout.frame_list}"]
    split_of = {name: match.lastindex for name in sequences if (match := _SPLIT.fullmatch(name.split("/")[0]))}
    splits: dict[str, tuple[str, ...]] = {}
    for index, split in enumerate(("train", "val", "test"), 1):
        entries = [name for name in sequences if split_of.get(name) == index]
        if "{sequence}" not in layout.images:
            entries = [name.split("/")[0] for name in entries]
        if entries:
            splits[split] = tuple(dict.fromkeys(entries))
    if {"train", "val"} <= splits.keys():
        return replace(spec, splits=splits), ["splits: by the names of the folders"]
    frames = list_frames(spec, folder, folder, "all").frames
    numbers: dict[str, list[int]] = {}
    for frame in frames:
        numbers.setdefault(frame.sequence, []).append(frame.number)
    splits = draw_splits(numbers, val_share, seed)
    if len(numbers) == 1:
        note = (
            f"splits: there is one sequence only, so the last {val_share:.0%} of its frames are val; neighboring "
            "frames are nearly equal, so scores on them are higher than on other videos"
        )
    else:
        note = f"splits: drawn by sequence, val {val_share:.0%} of the labeled frames, seed {seed}"
    return replace(spec, splits=splits), [note]
