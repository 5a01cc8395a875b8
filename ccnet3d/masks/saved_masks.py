"""Reading back what ``ccnet3d-infer`` wrote: a folder of masks and its ``summary.json``."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.config import check_range, from_table, parse_json
from ccnet3d.errors import UserError
from ccnet3d.masks.formats import FORMATS
from ccnet3d.masks.mask_format import OTHER, RUN_AGAIN, MaskFormat
from ccnet3d.masks.palette import decode_mask
from ccnet3d.masks.png_format import mask_path
from ccnet3d.masks.run_folder import RunFolder
from ccnet3d.masks.run_names import SUMMARY_NAME, is_plain_name
from ccnet3d.video import VideoFrame, VideoReader
from ccnet3d.wording import count_of

__all__ = ["SavedMasks", "match_frames", "open_masks"]

_MOST_FRAMES = 10_000_000
"""Masks of a run; as many as 110 hours of video at 25 frames per second have."""


@dataclass(frozen=True)
class _Class:
    id: int
    name: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        check_range("color", self.color, 0, 255)


@dataclass(frozen=True)
class _Summary:
    """What is read of ``summary.json``."""

    frames: int
    classes: tuple[_Class, ...]
    frame_numbers: tuple[int, ...] | None = None
    pts_seconds: tuple[float | None, ...] | None = None
    width: int | None = None
    height: int | None = None
    frames_per_second: float | None = None
    image_names: tuple[str, ...] | None = None
    mask_files: tuple[str, ...] | None = None
    video: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("frames", self.frames, 1, _MOST_FRAMES)
        if self.frame_numbers is not None:
            if len(self.frame_numbers) != self.frames:
                raise UserError(f"{len(self.frame_numbers)} frame numbers for {self.frames} masks")
            if self.frame_numbers[0] < 0 or any(a >= b for a, b in pairwise(self.frame_numbers)):
                raise UserError("frame numbers that do not increase, starting at 0 or above")
        if self.pts_seconds and len(self.pts_seconds) != self.frames:
            raise UserError(f"{len(self.pts_seconds)} times for {self.frames} masks")
        if self.image_names is not None and len(self.image_names) != self.frames:
            raise UserError(f"{len(self.image_names)} names of images for {self.frames} masks")
        if self.mask_files is not None:
            if len(self.mask_files) != self.frames:
                raise UserError(f"{len(self.mask_files)} mask files for {self.frames} masks")
            if unsafe := [name for name in self.mask_files if not is_plain_name(name)]:
                raise UserError(f"the mask file {unsafe[0]!r}, which is not a name in this folder")
        ids = [c.id for c in self.classes]
        if not ids or not all(0 <= i < OTHER for i in ids) or len(set(ids)) < len(ids):
            raise UserError(f"class ids {ids[:300]}, which are not all different and in 0 to {OTHER - 1}")
        if self.frames_per_second is not None:
            check_range("frames_per_second", self.frames_per_second, 0, _MOST_FRAMES)


@dataclass(frozen=True)
class SavedMasks:
    """The masks of one run: iterate for (frame index, mask as uint8 ``[H, W]`` class ids), in order.

    Each iteration reads the files again and keeps one mask in memory.

    Raises:
        UserError: while iterating, a mask is damaged or contains a class that the summary does not list.
    """

    folder: Path
    summary: dict[str, Any]
    """``summary.json``, unchanged."""
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    """The name of each of ``class_ids``."""
    palette: tuple[tuple[int, int, int], ...]
    """RGB of each of ``class_ids``."""
    frame_indices: tuple[int, ...]
    """The frame index of each mask, ascending; it may have gaps."""
    pts_seconds: tuple[float | None, ...]
    """Presentation time of each mask's frame, None where the video has none."""
    frames_per_second: float | None = None
    image_names: tuple[str, ...] | None = None
    """The file of each mask's frame, relative to the folder of all; None for a video."""
    video_name: str = ""
    """The name of the video, the still image, or the folder of the images."""
    mask_files: tuple[str, ...] | None = None
    """The name of each mask's file, where it is not the frame index."""

    def __len__(self) -> int:
        return len(self.frame_indices)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        known = np.zeros(256, dtype=bool)
        known[[*self.class_ids, OTHER]] = True
        mask_format = _format_of(self.folder, self.summary)
        assert mask_format.read
        if self.mask_files is None:
            masks = mask_format.read(mask_format.path(self.folder), self.frame_indices)
        else:
            masks = (decode_mask(self.folder / name) for name in self.mask_files)
        for index, mask in zip(self.frame_indices, masks, strict=True):
            if not known[mask].all():
                unknown = int(mask[~known[mask]][0])
                raise UserError(
                    f"the mask of frame {index} in {self.folder} contains the class {unknown}, which {SUMMARY_NAME} "
                    f"does not list; {RUN_AGAIN}"
                )
            yield index, mask


def open_masks(folder: Path | str) -> SavedMasks:
    """Open the output folder of a run.

    Args:
        folder: the output folder of ``ccnet3d-infer``, with masks in any format that can be read back.

    Raises:
        UserError: another folder, an interrupted run, missing masks, or a format that cannot be read back.

    >>> from tempfile import TemporaryDirectory
    >>> classes = [{"id": 0, "name": "road", "color": [128, 64, 128]}, {"id": 1, "name": "car", "color": [64, 0, 128]}]
    >>> with TemporaryDirectory() as folder:
    ...     run = RunFolder(Path(folder))  # as ccnet3d-infer writes it
    ...     run.write_mask(0, np.array([[0, 1, 1]], np.uint8), [(128, 64, 128), (64, 0, 128)])
    ...     run.complete({"frames": 1, "classes": classes})
    ...     for frame_index, mask in open_masks(folder):
    ...         print(frame_index, mask.tolist())
    0 [[0, 1, 1]]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the output folder of ccnet3d-infer")
    summary = _read_summary(folder)
    mask_format = _format_of(folder, summary)
    try:
        checked = from_table(_Summary, summary, ignore_unknown=True)
    except UserError as error:
        raise UserError(
            f"{folder / SUMMARY_NAME} is not a summary that ccnet3d-infer writes ({error}); {RUN_AGAIN}"
        ) from error
    classes = checked.classes
    ids, names, colors = tuple(c.id for c in classes), tuple(c.name for c in classes), tuple(c.color for c in classes)
    indices = tuple(range(checked.frames)) if checked.frame_numbers is None else checked.frame_numbers
    seconds = checked.pts_seconds or (None,) * len(indices)
    masks = SavedMasks(
        folder,
        summary,
        ids,
        names,
        colors,
        indices,
        seconds,
        checked.frames_per_second,
        checked.image_names,
        checked.video,
        checked.mask_files,
    )
    _check_files(masks, mask_format)
    return masks


def match_frames(reader: VideoReader, masks: SavedMasks) -> Iterator[tuple[VideoFrame, np.ndarray]]:
    """Yield each mask with its frame.

    Raises:
        UserError: the video has no frame for a mask, or a frame of another size.
    """
    pairs = iter(masks)
    index, mask = next(pairs)
    count = 0
    for frame in reader:
        count += 1
        if frame.index < index:
            continue
        if frame.index > index:
            break
        if mask.shape != frame.image.shape[:2]:
            (height, width), (mask_height, mask_width) = frame.image.shape[:2], mask.shape
            raise UserError(
                f"frame {index} of {reader.info.name} has {width}x{height} pixels, its mask in {masks.folder} "
                f"{mask_width}x{mask_height}; give the video that the masks were made from"
            )
        yield frame, mask
        upcoming = next(pairs, None)
        if upcoming is None:
            return
        index, mask = upcoming
    raise UserError(
        f"{reader.info.name} gave {count_of(count, 'frame')} and no frame {index}, for which {masks.folder} "
        "has a mask; give the video that the masks were made from"
    )


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY_NAME
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError as error:
        run = RunFolder(folder)
        if run.is_interrupted() or run.outputs():
            raise UserError(
                f"{folder} contains a run without {SUMMARY_NAME}: another process is still writing it, or it was "
                "interrupted; wait for its end, or run ccnet3d-infer again with --resume"
            ) from error
        raise UserError(f"{folder} contains no {SUMMARY_NAME}; give the output folder of ccnet3d-infer") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a summary that ccnet3d-infer writes ({error}); {RUN_AGAIN}") from error


def _format_of(folder: Path, summary: Mapping[str, Any]) -> MaskFormat:
    name = str(summary.get("format", "png"))
    readable = ", ".join(one.name for one in FORMATS.values() if one.read)
    if name not in FORMATS:
        raise UserError(f"{folder} contains masks in the unknown format {reprlib.repr(name)}; known are {readable}")
    if not FORMATS[name].read:
        raise UserError(
            f"{folder} contains masks in the format {name}, which cannot be read back; "
            f"run ccnet3d-infer with another --format: {readable}"
        )
    return FORMATS[name]


def _check_files(masks: SavedMasks, mask_format: MaskFormat) -> None:
    """Fail early if a mask is missing, without decoding any."""
    path = mask_format.path(masks.folder)
    if mask_format.file_name:
        if not path.is_file():
            raise UserError(f"{path} is missing, though {SUMMARY_NAME} says that it contains the masks; {RUN_AGAIN}")
        return
    names = {file.name for file in path.iterdir()}
    expected = masks.mask_files or [mask_path(path, index).name for index in masks.frame_indices]
    missing = [name for name in expected if name not in names]
    if missing:
        raise UserError(
            f"masks are missing in {path}: {len(missing)} of {len(masks)}, the first is {missing[0]}; {RUN_AGAIN}"
        )
