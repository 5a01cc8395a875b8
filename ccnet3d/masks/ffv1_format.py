"""Masks as one lossless gray FFV1 video in Matroska whose pixel values are the class ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ccnet3d.errors import UserError
from ccnet3d.masks.mask_format import RUN_AGAIN, IndexedMasks, MaskFormat, MaskSequence, damaged
from ccnet3d.video import GrayVideoWriter, VideoError, read_gray_video
from ccnet3d.wording import count_of

__all__ = ["FFV1"]


def _write(path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    with GrayVideoWriter(path, sequence.frames_per_second) as writer:
        for _, mask in masks:
            writer.write(mask)


def _read(path: Path, frame_indices: Sequence[int]) -> Iterator[np.ndarray]:
    count = 0
    try:
        for plane in islice(read_gray_video(path), len(frame_indices) + 1):
            count += 1
            if count <= len(frame_indices):
                yield plane
    except VideoError as error:
        raise UserError(f"{error}; {RUN_AGAIN}") from error
    if count != len(frame_indices):
        raise damaged(path, f"it does not contain {count_of(len(frame_indices), 'mask')}, as summary.json says")


FFV1 = MaskFormat("ffv1", several_sizes=False, file_name="masks.mkv", write=_write, read=_read)
