"""Masks from files, written by ccnet3d-infer or any other tool, matched with the labeled frames of a split.

A folder of predictions is one of:

- the output folder of ``ccnet3d-infer``, for a split of one sequence or whose frames are all in one folder of images;
- a folder of such folders, one per sequence, each named as its sequence;
- images of class ids, gray or with a palette, each named as its frame or its label, all in one folder or in one folder
  per sequence. There must be exactly one for each labeled frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from ccnet3d.data import LabelledFrame, LabelledSequences, numbered
from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluate import MasksOf
from ccnet3d.images import LOSSLESS_SUFFIXES, find_images, is_system_name, read_ids
from ccnet3d.masks import OTHER, SavedMasks, is_run_folder, open_masks
from ccnet3d.video import images_in_folder
from ccnet3d.wording import count_of

__all__ = ["open_predictions"]


def open_predictions(folder: Path, dataset: LabelledSequences, *, video_starts_at: int = 0) -> MasksOf:
    """Find the mask of every labeled frame; see the module.

    Args:
        folder: the predictions.
        dataset: the split.
        video_starts_at: frame number in the dataset of the first frame of the videos that ``ccnet3d-infer`` read. For
            folders of images, the index in the sorted folder counts instead.

    Returns:
        A function that returns the masks of a segment. While they are read it raises UserError for one that is damaged
        or has an id that is not a class.

    Raises:
        UserError: no predictions, a frame without a mask, or a mask without a frame.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder of the masks")
    if is_run_folder(folder):
        return _masks_of_runs(folder, {"": open_masks(folder)}, dataset, video_starts_at)
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_system_name(path.name)]
    if runs := [path for path in folders if is_run_folder(path)]:
        return _masks_of_runs(folder, {run.name: open_masks(run) for run in runs}, dataset, video_starts_at)
    return _masks_of_images(folder, dataset)


def _names(frame: LabelledFrame) -> tuple[str, ...]:
    """Return the names that the folder of a frame's sequence may have."""
    return tuple(dict.fromkeys((frame.sequence, frame.sequence.rsplit("/", 1)[-1], frame.image.parent.name)))


def _masks_of_runs(folder: Path, runs: Mapping[str, SavedMasks], dataset: LabelledSequences, start: int) -> MasksOf:
    for run in runs.values():
        _check_classes(run, dataset)
    indices = cache(_image_indices)
    run_of: dict[int, SavedMasks] = {}
    video_index: dict[int, int] = {}  # of each labeled frame, in the video of its run
    for index, frame in enumerate(dataset.frames):
        key = next((name for name in ("", *_names(frame)) if name in runs), None)
        if key is None:
            raise UserError(
                f"{folder} has no masks of the sequence {frame.sequence}; expected in a folder of that name"
            )
        run_of[index], video_index[index] = runs[key], frame.number - start
        if _is_of_images(runs[key]):
            video_index[index] = _index_of(frame, indices(frame.image.parent), runs[key])
    for name, run in runs.items():
        frames = [index for index in run_of if run_of[index] is run]
        if not frames:
            raise UserError(f"{folder / name} has masks of a sequence that is not in the split; remove it")
        _check_frames(run, frames, video_index, dataset)
    _check_order(video_index, dataset)

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        index, run = segment.start, run_of[segment.start]
        for frame_index, mask in run:
            if frame_index == video_index[index]:
                _check(mask, dataset, f"the mask of frame {frame_index} in {run.folder}")
                yield mask
                index += 1
                if index == segment.stop:
                    return

    return masks_of


def _check_classes(run: SavedMasks, dataset: LabelledSequences) -> None:
    names = dataset.spec.class_names
    found = dict(zip(run.class_ids, run.class_names, strict=True))
    if found != dict(enumerate(names)) and not (names == numbered(len(found)) and [*found] == [*range(len(found))]):
        raise UserError(
            f"the masks in {run.folder} have the classes {', '.join(run.class_names)} and {dataset.spec.name} has "
            f"{', '.join(names)}; they must be the same, all of them and in this order"
        )


def _check_frames(
    run: SavedMasks, frames: list[int], video_index: Mapping[int, int], dataset: LabelledSequences
) -> None:
    """Check that the labeled frames of a run are of one video, and that it has all their masks."""
    first, last = dataset.frames[frames[0]], dataset.frames[frames[-1]]
    if first.image.parent != last.image.parent if _is_of_images(run) else first.sequence != last.sequence:
        raise UserError(
            f"{run.folder} has the masks of one video, and {first.image} and {last.image} are of two; give a "
            "folder that contains one run for each sequence, named as the sequence"
        )
    known = set(run.frame_indices)
    if missing := [index for index in frames if video_index[index] not in known]:
        raise UserError(
            f"{len(missing)} of {len(frames)} labeled frames have no mask in {run.folder}, the first is "
            f"{dataset.frames[missing[0]].image.name}, the video's frame {video_index[missing[0]]}"
        )


def _check_order(video_index: Mapping[int, int], dataset: LabelledSequences) -> None:
    """Check that the frames of each segment have increasing frame indices in their run."""
    for segment in dataset.segments:
        for a, b in pairwise(segment):
            if video_index[a] >= video_index[b]:
                raise UserError(
                    f"{dataset.frames[a].image.name} comes before {dataset.frames[b].image.name} in the split, but not "
                    "in the order of their names, in which ccnet3d-infer reads images; name the masks as the frames"
                )


def _is_of_images(run: SavedMasks) -> bool:
    """Return whether the run's frame indices count the images of a folder."""
    return run.summary.get("settings", {}).get("decoder") == "pillow"


def _image_indices(folder: Path) -> dict[Path, int]:
    """Return the index of each image of a folder in the order in which ``ccnet3d-infer`` reads them."""
    return {path: index for index, path in enumerate(images_in_folder(folder))}


def _index_of(frame: LabelledFrame, indices: Mapping[Path, int], run: SavedMasks) -> int:
    if run.frame_indices[-1] >= len(indices):
        raise UserError(
            f"{run.folder} has a mask for frame {run.frame_indices[-1]}, but {frame.image.parent} has only "
            f"{count_of(len(indices), 'image')}; it was made from others"
        )
    return indices[frame.image]


def _masks_of_images(folder: Path, dataset: LabelledSequences) -> MasksOf:
    found: dict[str, Path] = {}
    for path in find_images(folder, LOSSLESS_SUFFIXES):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise UserError(f"{found[key]} and {path} are masks with the same name; keep one of them")
        found[key] = path
    path_of: dict[int, Path] = {}
    frame_of: dict[Path, int] = {}
    missing = []
    for index, frame in enumerate(dataset.frames):
        stems = dict.fromkeys((frame.image.stem, frame.label.stem))
        keys = [*stems, *(f"{name}/{stem}" for name in _names(frame) for stem in stems)]
        matches = [found[key] for key in keys if key in found]
        if len(matches) > 1:
            raise UserError(f"{matches[0]} and {matches[1]} are both the mask of {frame.image.name}; keep one of them")
        if not matches:
            missing.append(frame)
        elif (path := matches[0]) in frame_of:
            other = dataset.frames[frame_of[path]]
            raise UserError(
                f"{path} is the mask of {other.image} as well as of {frame.image}; put the masks into folders named as "
                f"their sequences, {other.sequence} and {frame.sequence}"
            )
        else:
            path_of[index], frame_of[path] = path, index
    if missing:
        raise UserError(
            f"{len(missing)} of {len(dataset)} labeled frames have no mask in {folder}, the first is "
            f"{missing[0].image.name}; expected {missing[0].image.stem}.png, there or in a folder {missing[0].sequence}"
        )
    if extra := [path for path in found.values() if path not in frame_of]:
        raise UserError(
            f"masks in {folder} match no labeled frame: {len(extra)}, the first is {extra[0]}; give a "
            "folder with masks of this split only"
        )

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        for index in segment:
            mask = read_ids(path_of[index], kind="mask")
            _check(mask, dataset, f"the mask {path_of[index]}")
            yield mask.astype(np.uint8)

    return masks_of


def _check(mask: np.ndarray, dataset: LabelledSequences, name: str) -> None:
    count = len(dataset.spec.classes)
    if not 0 <= int(mask.min()) <= int(mask.max()) < count:
        wrong = int(mask[(mask < 0) | (mask >= count)][0])
        reason = " (classes that ccnet3d-infer --classes left out)" if wrong == OTHER else ""
        raise UserError(
            f"{name} has the id {wrong}{reason}, which is not a class (0 to {count - 1}); a mask needs a class at "
            "every pixel"
        )
