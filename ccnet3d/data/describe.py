"""A first ``dataset.toml`` for a folder of frames and labels."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ccnet3d.config import parse_json, read_lines
from ccnet3d.data.annotations import annotation_suffix, read_annotations
from ccnet3d.data.items import LabelledFrame
from ccnet3d.data.label_classes import classes_of_shapes, classes_of_values
from ccnet3d.data.label_values import guess_encoding, looks_like_label
from ccnet3d.data.listing import list_frames
from ccnet3d.data.pairing import PairGuess, guess_pairs, image_folders
from ccnet3d.data.spec import ClassSpec, DatasetSpec, LayoutSpec
from ccnet3d.data.split_draw import draw_splits
from ccnet3d.errors import UserError
from ccnet3d.images import find_images

__all__ = ["Draft", "describe_folder"]

_SAMPLED_FILES = 6
_FEWEST_STEPS = 20
"""Steps from one labeled frame to the next by which a gap can be told."""

_NUMBERED = r"(?P<sequence>.+)[_-]f?(?P<frame>\d+)"
_TWO = (ClassSpec("a", (0, 0, 0)), ClassSpec("b", (0, 0, 0)))  # for listing files, before the classes are known
_SPLIT = re.compile(r"(?:(train)(?:ing)?|(val)(?:id|idation)?|(test)(?:ing)?)(?:\d{4})?", re.IGNORECASE)

Progress = Callable[[Iterable[Path]], Iterable[Path]]


class Draft(NamedTuple):
    """The result of :func:`describe_folder`."""

    spec: DatasetSpec
    notes: tuple[str, ...]
    """What was found and assumed, one line each."""
    class_shares: tuple[float, ...]
    """Share of each class among the pixels of all labels; empty for shapes."""


class _Found(NamedTuple):
    """How the files of a folder are arranged."""

    layout: LayoutSpec
    sequences: tuple[str, ...]
    labels: list[Path]
    notes: list[str]


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
        raise UserError(f"there is no folder {folder}")
    images = find_images(folder)
    if not images:
        raise UserError(f"there is no image in {folder}; give the folder that contains the frames and their labels")
    found = _of_annotation_files(folder, images, encoding) or _of_label_files(folder, images, encoding)
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


def _of_annotation_files(folder: Path, images: Sequence[Path], encoding: str) -> _Found | None:
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
        return _Found(layout, sequences, files, notes)
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


def _of_label_files(folder: Path, images: Sequence[Path], encoding: str) -> _Found:
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
    guess = guess_pairs([path for path in relative if path not in labels], sorted(labels))
    if guess is None:
        places = sorted({PurePosixPath(path).parent.as_posix() for path in relative})
        raise UserError(
            f"found no labels for the images in {folder} (folders: {', '.join(places[:6])}); expected images of ids "
            "or colors named as the frames, or annotations of COCO, CVAT, LabelMe or Cityscapes. Write the "
            "dataset.toml by hand if they are arranged in another way"
        )
    return _found(folder, guess, encoding)


def _found(folder: Path, guess: PairGuess, encoding: str) -> _Found:
    labels = [folder / label for _, label in guess.pairs]
    layout = LayoutSpec(
        guess.images,
        guess.labels,
        guess.label_suffix,
        encoding or guess_encoding(_sample(labels))[0],
        image_suffix=guess.image_suffix,
    )
    layout = _with_frame_lists(layout, folder, {PurePosixPath(frame).stem for frame, _ in guess.pairs})
    notes = [f"paired {len(labels)} frames with labels: {guess.pairs[0][0]} with {guess.pairs[0][1]}"]
    return _Found(layout, guess.sequences, labels, notes)


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


def _of_lists(folder: Path, encoding: str) -> _Found | None:
    """Return the arrangement of a folder with ``train.txt`` and ``val.txt`` whose lines name an image and a label."""
    for pattern in _split_lists(folder):
        layout = LayoutSpec(pair_list=pattern)
        try:
            labels = [frame.label for frame in _listed(DatasetSpec("", _TWO, layouts=(layout,)), folder)]
        except UserError:
            continue
        layout = replace(layout, label_encoding=encoding or guess_encoding(_sample(labels))[0])
        return _Found(layout, (), labels, [f"paired {len(labels)} frames with labels by {pattern}"])
    return None


def _split_lists(folder: Path) -> list[str]:
    return [
        path.with_name("{split}.txt").relative_to(folder).as_posix()
        for path in sorted(folder.rglob("train.txt"))
        if path.with_name("val.txt").is_file()
    ]


def _listed(spec: DatasetSpec, folder: Path) -> list[LabelledFrame]:
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


def _with_frame_numbers(spec: DatasetSpec, folder: Path) -> DatasetSpec:
    """Return the description with the way in which frames are numbered that distinguishes all of them."""
    frames = _listed(spec, folder)
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
            "frames look alike, so scores on them are higher than on other videos"
        )
    else:
        note = f"splits: drawn by sequence, val {val_share:.0%} of the labeled frames, seed {seed}"
    return replace(spec, splits=splits), [note]
