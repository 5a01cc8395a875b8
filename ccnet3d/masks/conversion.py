"""Saved masks to another format, or to a table of class shares, without segmenting the video again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.errors import UserError
from ccnet3d.masks.beside_files import open_beside
from ccnet3d.masks.formats import FORMATS
from ccnet3d.masks.mask_format import OTHER, MaskClasses, MaskFormat, MaskSequence
from ccnet3d.masks.run_names import summarized_names
from ccnet3d.masks.saved_masks import SavedMasks, match_frames
from ccnet3d.masks.shares import ShareWriter
from ccnet3d.video import VideoReader

__all__ = ["check_export", "convert_masks", "render_masks", "select_classes", "write_shares"]


def convert_masks(masks: SavedMasks, path: Path, mask_format: str, class_names: Sequence[str] = ()) -> None:
    """Write the masks of a run as the one file of a format, as the run itself would have written it.

    Args:
        masks: of the run.
        path: the file; an existing one is replaced.
        mask_format: one of ``ccnet3d.masks.FORMATS`` that has one file.
        class_names: classes that the file shows; all of the masks if empty.

    Raises:
        UserError: a format without one file, one that the classes or sizes do not allow, or a name that is not a class
            of the masks.
        OutputError: the file cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> from ccnet3d.masks import RunFolder, open_masks
    >>> with TemporaryDirectory() as folder:
    ...     run = RunFolder(Path(folder) / "masks")  # as ccnet3d-infer writes it
    ...     run.write_mask(0, np.array([[0, 1, 1]], np.uint8), [(128, 64, 128), (64, 0, 128)])
    ...     run.complete({"frames": 1, "classes": [{"id": 1, "name": "car", "color": [64, 0, 128]}] + [
    ...         {"id": 0, "name": "road", "color": [128, 64, 128]}]})
    ...     convert_masks(open_masks(Path(folder) / "masks"), Path(folder) / "masks.npz", "npz", ["car"])
    ...     np.load(Path(folder) / "masks.npz")["masks"].tolist()
    [[[255, 1, 1]]]
    """
    one = _single_file_format(mask_format)
    source = _settings(masks).get("source")
    if masks.image_names is None and isinstance(source, dict) and "images" in source:
        raise UserError(
            f"the run in {masks.folder} is of an earlier version, which did not record the names of its images; run "
            "ccnet3d-infer again with --overwrite"
        )
    classes = select_classes(masks, class_names)
    one.check(classes)
    one.check_images(masks.image_names or ())
    _, first = next(iter(masks))
    size = (first.shape[0], first.shape[1])
    sequence = MaskSequence(
        classes, masks.frame_indices, size, masks.frames_per_second, masks.image_names, masks.video_name
    )
    assert one.write
    one.write(path, _shown(masks, classes, None if one.several_sizes else size), sequence)


def write_shares(masks: SavedMasks, path: Path, class_names: Sequence[str] = ()) -> None:
    """Write the share of each class in each frame to a .csv or .parquet file.

    Args:
        masks: of a run.
        path: the file; an existing one is replaced.
        class_names: classes with a column; all of the masks if empty.

    Raises:
        UserError: a file of another kind, or a name that is not a class of the masks.
        OutputError: the file cannot be written.
    """
    classes = select_classes(masks, class_names)
    seconds = dict(zip(masks.frame_indices, masks.pts_seconds, strict=True))
    with ShareWriter(path, classes.shown, [classes.names[i] for i in classes.shown]) as writer:
        for index, mask in masks:
            writer.add(index, seconds[index], np.bincount(mask.ravel(), minlength=256))


def render_masks(
    masks: SavedMasks,
    reader: VideoReader,
    *,
    overlay: Path | None = None,
    opacity: float = 0.5,
    alpha: Path | None = None,
    class_names: Sequence[str] = (),
) -> None:
    """Write a video with its saved masks painted over it, or with only some classes visible.

    Args:
        masks: of a run.
        reader: the open video that they were made from.
        overlay: an .mp4 file; an existing one is replaced.
        opacity: share of the class color in it.
        alpha: a .webm or .mov file; an existing one is replaced.
        class_names: classes that the files show; all of the masks if empty.

    Raises:
        UserError: a file of another kind, a video that does not match the masks, or a name that is not a class of them.
        OutputError: a file cannot be written.
    """
    classes = select_classes(masks, class_names)
    shown = _shown_ids(classes)
    pairs = match_frames(reader, masks)
    first = next(pairs)  # the reader knows the pixel aspect now
    with ExitStack() as context:
        files = open_beside(classes, reader.info, overlay=overlay, opacity=opacity, alpha=alpha)
        for file in files:
            context.enter_context(file.writer)
        for frame, saved in chain([first], pairs):
            mask = shown[saved]
            for file in files:
                file.add(frame, mask, np.bincount(mask.ravel(), minlength=256))


def select_classes(masks: SavedMasks, requested: Sequence[str] = ()) -> MaskClasses:
    """Return the classes of saved masks, of which the requested ones are shown; all without a request.

    Ids that no class of the masks has get an empty name.

    Raises:
        UserError: a name that is not a class of the masks.
    """
    by_name = {name.lower(): i for i, name in zip(masks.class_ids, masks.class_names, strict=True)}
    if unknown := [name for name in requested if name.lower() not in by_name]:
        raise UserError(f"the masks have no class {unknown[0]!r}; they have {', '.join(masks.class_names)}")
    shown = {by_name[name.lower()] for name in requested} or set(masks.class_ids)
    # Formats tell from the number of names whether classes are missing.
    count = max(masks.class_ids) + 1 + bool(_settings(masks).get("classes"))
    names, palette = [""] * count, [(0, 0, 0)] * count
    for i, name, color in zip(masks.class_ids, masks.class_names, masks.palette, strict=True):
        names[i], palette[i] = name, color
    return MaskClasses(tuple(names), tuple(palette), tuple(sorted(shown)))


def check_export(masks: SavedMasks, path: Path, *, overwrite: bool, suffix: str | None = None) -> None:
    """Check that a file can be written without replacing one of the run or, without ``overwrite``, any other.

    Raises:
        UserError: it cannot, or does not end in ``suffix``.
    """
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"the file must end in {suffix}, got {path}")
    if path.is_symlink() or path.is_dir():
        kind = "link" if path.is_symlink() else "folder"
        raise UserError(f"{path} is a {kind}, which is not replaced; give another name")
    for name in summarized_names(masks.folder):
        file = masks.folder / name
        if path.exists() and file.exists() and file.samefile(path):
            raise UserError(f"{path} is a file of the run in {masks.folder}; give another name")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; give another name, or --overwrite to replace it")


def _settings(masks: SavedMasks) -> dict[str, Any]:
    """Return the settings of the run; empty for one of an early version."""
    return dict(masks.summary.get("settings", {}))


def _single_file_format(name: str) -> MaskFormat:
    if name not in FORMATS or not FORMATS[name].write:
        known = ", ".join(one.name for one in FORMATS.values() if one.write)
        raise UserError(f"cannot convert masks to {name!r}; known are {known}")
    return FORMATS[name]


def _shown(masks: SavedMasks, classes: MaskClasses, size: tuple[int, int] | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield frame indices and masks; pixels of classes that are not shown become OTHER."""
    shown = _shown_ids(classes)
    for index, mask in masks:
        if size and mask.shape != size:
            raise UserError(
                f"the mask of frame {index} is {mask.shape[1]}x{mask.shape[0]}, the first is {size[1]}x{size[0]}, and "
                "the format stores one size"
            )
        yield index, shown[mask]


def _shown_ids(classes: MaskClasses) -> np.ndarray:
    """Return what each id becomes, uint8 ``[256]``: itself if it is shown, else OTHER."""
    shown = np.full(256, OTHER, np.uint8)
    shown[list(classes.shown)] = classes.shown
    return shown
