"""Masks from files, ours or another tool's, matched with the labelled frames of a split.

What a folder of predictions may be:

- the output folder of ``ccnet3d-infer`` (it has a ``summary.json``), for a split of one sequence or whose frames all
  lie in one folder of images;
- a folder of such folders, one a sequence, each named as its sequence;
- images of class ids, grey or with a palette, each named as its frame or its label, all in one folder or in one folder
  a sequence. There must be exactly one for each labelled frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ccnet3d.data import LabelledFrame, LabelledSequences, numbered
from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluate import MasksOf
from ccnet3d.masks import OTHER, SavedMasks, is_run_folder, open_masks
from ccnet3d.video import images_in_folder

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Of images that keep ids as they are."""


def open_predictions(folder: Path, dataset: LabelledSequences, *, video_starts_at: int = 0) -> MasksOf:
    """Find the mask of every labelled frame; see the module.

    Args:
        folder: the predictions.
        dataset: the split.
        video_starts_at: the number in the dataset of the first frame of the videos that ``ccnet3d-infer`` was given.
            Of folders of images the place in the folder counts, whatever the number.

    Returns:
        A function that gives the masks of a segment. While they are read it raises ValueError for one that is damaged,
        has another size than its label, or holds what is no class.

    Raises:
        ValueError: no predictions, a frame without a mask, or a mask without a frame.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder of the masks")
    if is_run_folder(folder):
        return _masks_of_runs(folder, {"": open_masks(folder)}, dataset, video_starts_at)
    if runs := [path for path in sorted(folder.iterdir()) if path.is_dir() and is_run_folder(path)]:
        return _masks_of_runs(folder, {run.name: open_masks(run) for run in runs}, dataset, video_starts_at)
    return _masks_of_images(folder, dataset)


def _names(frame: LabelledFrame) -> tuple[str, ...]:
    """What the folder of a sequence may be called."""
    return tuple(dict.fromkeys((frame.sequence, frame.sequence.rsplit("/", 1)[-1], frame.image.parent.name)))


def _masks_of_runs(folder: Path, runs: Mapping[str, SavedMasks], dataset: LabelledSequences, start: int) -> MasksOf:
    names = dataset.spec.class_names
    for run in runs.values():
        shown = dict(zip(run.class_ids, run.class_names, strict=True))
        if shown != dict(enumerate(names)) and not (names == numbered(len(shown)) and [*shown] == [*range(len(shown))]):
            raise UserError(
                f"the masks in {run.folder} have the classes {', '.join(run.class_names)} and {dataset.spec.name} has "
                f"{', '.join(names)}; they must be the same, all of them and in this order"
            )
    places = cache(_places)
    run_of: dict[int, SavedMasks] = {}
    number_of: dict[int, int] = {}
    for index, frame in enumerate(dataset.frames):
        key = next((name for name in ("", *_names(frame)) if name in runs), None)
        if key is None:
            raise UserError(
                f"{folder} holds no masks of the sequence {frame.sequence}; expected in a folder of that name"
            )
        run_of[index], number_of[index] = runs[key], frame.number - start
        if _counts_images(runs[key]):
            number_of[index] = _place_in(places(frame.image.parent), frame, runs[key])
    for name, run in runs.items():
        frames = [index for index in run_of if run_of[index] is run]
        if not frames:
            raise UserError(f"{folder / name} holds masks of no sequence of the split; take it away")
        one, other = dataset.frames[frames[0]], dataset.frames[frames[-1]]
        if one.image.parent != other.image.parent if _counts_images(run) else one.sequence != other.sequence:
            raise UserError(
                f"{run.folder} holds the masks of one video, and {one.image} and {other.image} are of two; give a "
                "folder that holds one run for each sequence, named as the sequence"
            )
        known = set(run.frame_numbers)
        if missing := [index for index in frames if number_of[index] not in known]:
            raise UserError(
                f"{len(missing)} of {len(frames)} labelled frames have no mask in {run.folder}, the first is "
                f"{dataset.frames[missing[0]].image.name}, the video's frame {number_of[missing[0]]}"
            )
    for segment in dataset.segments:
        for a, b in pairwise(segment):
            if number_of[a] >= number_of[b]:
                raise UserError(
                    f"{dataset.frames[a].image.name} comes before {dataset.frames[b].image.name} in the split, but not "
                    "in the order of their names, in which ccnet3d-infer takes images; name the masks as the frames"
                )

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        index, run = segment.start, run_of[segment.start]
        for number, mask in run:
            if number == number_of[index]:
                _check(mask, dataset, index, f"the mask of frame {number} in {run.folder}")
                yield mask
                index += 1
                if index == segment.stop:
                    return

    return masks_of


def _counts_images(run: SavedMasks) -> bool:
    """The run's numbers are places in a folder of images."""
    return run.summary.get("settings", {}).get("decoder") == "pillow"


def _places(folder: Path) -> dict[Path, int]:
    """The place of each image of a folder in the order in which ``ccnet3d-infer`` takes them."""
    return {path: place for place, path in enumerate(images_in_folder(folder))}


def _place_in(places: Mapping[Path, int], frame: LabelledFrame, run: SavedMasks) -> int:
    if run.frame_numbers[-1] >= len(places):
        raise UserError(
            f"{run.folder} has a mask for frame {run.frame_numbers[-1]}, but {frame.image.parent} holds only "
            f"{len(places)} images; it was made from others"
        )
    return places[frame.image]


def _masks_of_images(folder: Path, dataset: LabelledSequences) -> MasksOf:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith("."):
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise UserError(f"{found[key]} and {path} are masks of one name; keep one of them")
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
            f"{len(missing)} of {len(dataset)} labelled frames have no mask in {folder}, the first is "
            f"{missing[0].image.name}; expected {missing[0].image.stem}.png, there or in a folder {missing[0].sequence}"
        )
    if extra := [path for path in found.values() if path not in frame_of]:
        raise UserError(
            f"{len(extra)} masks in {folder} match no labelled frame, the first is {extra[0]}; take them away"
        )

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        for index in segment:
            mask = read_ids(path_of[index])
            _check(mask, dataset, index, f"the mask {path_of[index]}")
            yield mask.astype(np.uint8)

    return masks_of


def read_ids(path: Path) -> np.ndarray:
    """Ids of an image of one channel, integers ``[H, W]``.

    Raises:
        ValueError: it cannot be read, or is a colour image.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # the checksums, which reading alone does not look at
        with Image.open(path) as image:
            ids = np.array(image)
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG
        raise UserError(f"cannot read the mask {path}: {error}") from error
    if ids.ndim != 2 or ids.dtype.kind == "f":
        raise UserError(f"the mask {path} is a colour image, expected class ids in a grey or palette image")
    return ids


def _check(mask: np.ndarray, dataset: LabelledSequences, index: int, name: str) -> None:
    label = dataset.frames[index].label
    with Image.open(label) as image:
        width, height = image.size
    if mask.shape != (height, width):
        raise UserError(
            f"{name} is {mask.shape[1]}x{mask.shape[0]}, its label {label} is {width}x{height}; masks must have the "
            "size of the labels"
        )
    count = len(dataset.spec.classes)
    if not 0 <= int(mask.min()) <= int(mask.max()) < count:
        stranger = int(mask[(mask < 0) | (mask >= count)][0])
        reason = " (classes that ccnet3d-infer --classes left out)" if stranger == OTHER else ""
        raise UserError(
            f"{name} holds the id {stranger}{reason}, which is no class (0 to {count - 1}); a mask needs a class at "
            "every pixel"
        )
