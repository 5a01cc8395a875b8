"""Find the frames and labels of an unknown folder: annotation files, label images, lists."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ccnet3d.config import parse_json, read_lines
from ccnet3d.data.annotations import annotation_suffix, read_annotations
from ccnet3d.data.items import LabelledFrame
from ccnet3d.data.label_values import guess_encoding, looks_like_label
from ccnet3d.data.listing import list_frames
from ccnet3d.data.pairing import PairGuess, guess_pairs, image_folders
from ccnet3d.data.spec import ClassSpec, DatasetSpec, LayoutSpec
from ccnet3d.errors import UserError
from ccnet3d.images import find_images
from ccnet3d.wording import count_of

__all__ = ["FoundFiles", "find_labeled_files", "frames_in_order"]

_SAMPLED_FILES = 6
_TWO = (ClassSpec("a", (0, 0, 0)), ClassSpec("b", (0, 0, 0)))  # for listing files, before the classes are known


class FoundFiles(NamedTuple):
    """How the files of a folder are arranged."""

    layout: LayoutSpec
    sequences: tuple[str, ...]
    labels: list[Path]
    notes: list[str]


def find_labeled_files(folder: Path, encoding: str = "") -> FoundFiles:
    """Return how the files of a folder are arranged.

    Args:
        folder: the data folder.
        encoding: of the labels; found out if it is empty.

    Raises:
        UserError: no images, or none with a label.
    """
    images = find_images(folder)
    if not images:
        raise UserError(f"there is no image in {folder}; give the folder that contains the frames and their labels")
    return _of_annotation_files(folder, images, encoding) or _of_label_files(folder, images, encoding)


def _of_annotation_files(folder: Path, images: Sequence[Path], encoding: str) -> FoundFiles | None:
    """Return the arrangement of a folder with files that have the labels of several frames, None without any."""
    for kind in ("coco", "cvat") if not encoding else [encoding] if encoding in ("coco", "cvat") else []:
        files = [path for path in find_images(folder, (annotation_suffix(kind),)) if _is_of_kind(path, kind)]
        if not files:
            continue
        names = {PurePosixPath(name.replace("\\", "/")).stem for path in files for name in read_annotations(path, kind)}
        frames = [path.relative_to(folder).as_posix() for path in images if path.stem in names]
        if not frames:
            raise UserError(f"{files[0]} annotates no image in {folder}; put the images there, by their names in it")
        place, sequences = image_folders(frames)
        labels = _annotation_template(folder, files, sequences)
        layout = LayoutSpec(place, labels, label_encoding=kind)
        notes = [f"labels: {kind} in {', '.join(path.relative_to(folder).as_posix() for path in files[:3])}"]
        return FoundFiles(layout, sequences, files, notes)
    if encoding in ("coco", "cvat"):
        raise UserError(f"there is no annotation file of {encoding} in {folder}")
    return None


def _annotation_template(folder: Path, files: Sequence[Path], sequences: Sequence[str]) -> str:
    """Return the value of ``labels`` for annotation files: a file, one for each sequence, or the folder of several."""
    paths = [path.relative_to(folder).as_posix() for path in files]
    if len(paths) == 1:
        return paths[0]
    for template in {path.replace(name, "{sequence}") for path in paths for name in sequences if name in path}:
        if {template.replace("{sequence}", name) for name in sequences} <= set(paths):
            return template
    parents = {path.parent for path in files}
    if len(parents) == 1:
        parent = parents.pop()
        suffix = files[0].suffix
        if len(find_images(parent, (suffix,))) == len(files) and parent != folder:
            return parent.relative_to(folder).as_posix()
    raise UserError(
        f"{folder} has {len(files)} annotation files, as {paths[0]} and {paths[1]}; put them into one folder of their "
        "own, or name them as their sequences"
    )


def _is_of_kind(path: Path, kind: str) -> bool:
    try:
        if kind == "labelme":
            return "shapes" in parse_json(path.read_bytes())
        if kind == "cityscapes":
            return "objects" in parse_json(path.read_bytes())
        if kind == "coco" and not {"images", "annotations", "categories"} <= parse_json(path.read_bytes()).keys():
            return False
        if kind == "cvat" and b"<annotations" not in path.read_bytes()[:4096]:
            return False
    except (UserError, OSError):
        return False
    return True  # a damaged file of the kind is an error, when it is read


def _of_label_files(folder: Path, images: Sequence[Path], encoding: str) -> FoundFiles:
    """Return the arrangement of a folder with one label for each frame."""
    relative = [path.relative_to(folder).as_posix() for path in images]
    if encoding in ("labelme", "cityscapes", ""):
        jsons = [path.relative_to(folder).as_posix() for path in find_images(folder, (".json",))]
        kinds = [kind for kind in ("labelme", "cityscapes") if jsons and _is_of_kind(folder / jsons[0], kind)]
        for kind in kinds if not encoding else [encoding]:
            labels_only = {path for path in relative if _is_label(folder / path)} if not encoding else set()
            guess = guess_pairs(relative, jsons)
            if guess and not (
                labels_only and guess_pairs([p for p in relative if p not in labels_only], [*labels_only])
            ):
                return _found(folder, guess, kind)
        if encoding:
            raise UserError(f"no image in {folder} has an annotation file of {encoding}; expected JSON of its name")
    labels = _label_images(folder, images)
    if (listed := _of_lists(folder, encoding)) is not None:
        return listed
    frames = [path for path in relative if path not in labels]
    if not frames:
        raise UserError(
            f"all images in {folder} look like labels, the first is {relative[0]}; give the folder that contains the "
            "frames, too"
        )
    guess = guess_pairs(frames, sorted(labels))
    if guess is None:
        places = sorted({PurePosixPath(path).parent.as_posix() for path in relative})
        raise UserError(
            f"found no labels for the images in {folder} (folders: {', '.join(places[:6])}); expected images of ids "
            "or colors (PNG, BMP or TIFF; JPEG changes them) named as the frames, or annotations of COCO, CVAT, "
            "LabelMe or Cityscapes. Write the dataset.toml by hand if they are arranged in another way"
        )
    return _found(folder, guess, encoding)


def _found(folder: Path, guess: PairGuess, encoding: str) -> FoundFiles:
    labels = [folder / label for _, label in guess.pairs]
    layout = LayoutSpec(
        guess.images,
        guess.labels,
        guess.label_suffix,
        encoding or guess_encoding(_sample(labels))[0],
        image_suffix=guess.image_suffix,
    )
    layout = _with_frame_lists(layout, folder, {PurePosixPath(frame).stem for frame, _ in guess.pairs})
    notes = [
        f"paired {count_of(len(labels), 'frame')} with labels, the first: {guess.pairs[0][0]} with {guess.pairs[0][1]}"
    ]
    return FoundFiles(layout, guess.sequences, labels, notes)


def _sample(paths: Sequence[Path]) -> list[Path]:
    return sorted(random.Random(0).sample(list(paths), min(_SAMPLED_FILES, len(paths))))


def _is_label(path: Path) -> bool:
    try:
        return looks_like_label(path)
    except UserError:  # check names damaged files
        return False


def _has_label_images(folder: Path, images: Sequence[Path]) -> bool:
    """Return whether frames have labels that are images; files of shapes may lie beside them, as in Cityscapes."""
    labels = _label_images(folder, images)
    frames = [name for path in images if (name := path.relative_to(folder).as_posix()) not in labels]
    return bool(labels) and guess_pairs(frames, sorted(labels)) is not None


def _label_images(folder: Path, images: Sequence[Path]) -> set[str]:
    """Return the images that look like labels, judged by a few of each folder where these agree."""
    by_folder: dict[Path, list[Path]] = {}
    for path in images:
        by_folder.setdefault(path.parent, []).append(path)
    labels: set[Path] = set()
    for paths in by_folder.values():
        sampled = {_is_label(path) for path in _sample(paths)}
        if sampled == {True}:
            labels |= set(paths)
        elif True in sampled:
            labels |= {path for path in paths if _is_label(path)}
    return {path.relative_to(folder).as_posix() for path in labels}


def _of_lists(folder: Path, encoding: str) -> FoundFiles | None:
    """Return the arrangement of a folder with ``train.txt`` and ``val.txt`` whose lines name an image and a label."""
    for pattern in _split_lists(folder):
        layout = LayoutSpec(pair_list=pattern)
        try:
            labels = [frame.label for frame in frames_in_order(DatasetSpec("lists", _TWO, layouts=(layout,)), folder)]
        except UserError:
            continue
        layout = replace(layout, label_encoding=encoding or guess_encoding(_sample(labels))[0])
        return FoundFiles(layout, (), labels, [f"paired {count_of(len(labels), 'frame')} with labels by {pattern}"])
    return None


def _split_lists(folder: Path) -> list[str]:
    return [
        path.with_name("{split}.txt").relative_to(folder).as_posix()
        for path in sorted(folder.rglob("train.txt"))
        if path.with_name("val.txt").is_file()
    ]


def frames_in_order(spec: DatasetSpec, folder: Path) -> list[LabelledFrame]:
    """Return the frames of train and val, numbered by their order."""
    spec = replace(spec, frame_numbers="order", frame_pattern="")
    splits = spec.splits or ("train", "val")
    return [frame for split in splits for frame in list_frames(spec, folder, folder, split).frames]


def _with_frame_lists(layout: LayoutSpec, folder: Path, stems: set[str]) -> LayoutSpec:
    """Return the layout with lists of frames if the folder has some that fit."""
    if "{sequence}" in f"{layout.images}{layout.labels}":
        return layout
    for pattern in _split_lists(folder):
        names = [line for split in ("train", "val") for line in _lines(folder / pattern.replace("{split}", split))]
        if names and stems.issuperset(names):
            return replace(layout, frame_list=pattern)
    return layout


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path, "split list")
    except UserError:
        return []
