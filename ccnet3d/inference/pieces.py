"""A long video in pieces, which several processes segment at once; joined, they equal one run.

A piece is a range of positions among the selected frames. It is a run with an output folder of its own, within that of
the video, and is resumed like any other. It begins ``history`` frames early and reads on until its last mask is final,
with clips counted from the first selected frame, so its masks are those of one run over all frames. Joining is a run
for which every mask exists already: it reads the video once more, for the overlay and the warnings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ccnet3d.errors import UserError
from ccnet3d.inference.selection import Selection
from ccnet3d.journal import is_regular, remove_named
from ccnet3d.masks import (
    PNG,
    PROBABILITIES_NAME,
    SUMMARY_NAME,
    RunFolder,
    load_summary,
    numbered_files,
    summarized_names,
)

__all__ = ["Piece", "adopt_pieces", "piece_folder", "remove_pieces", "split_into_pieces"]

Piece = tuple[int, int | None]
"""Positions among the selected frames: the first, and the one after the last; None for the end of the video."""

_PIECES_NAME = ".pieces"


def split_into_pieces(selection: Selection, expected_frames: int, piece_frames: int) -> list[Piece]:
    """Return pieces of ``piece_frames`` selected frames; the last one ends with the video, however long that is.

    Pieces that a shorter video does not reach are empty.

    Raises:
        UserError: ``piece_frames`` is not positive.

    >>> split_into_pieces(Selection(start=10, stride=2), expected_frames=60, piece_frames=10)
    [(0, 10), (10, 20), (20, None)]
    """
    if piece_frames < 1:
        raise UserError(f"a piece must have at least 1 frame, got {piece_frames}")
    indices = selection.indices(expected_frames)
    count = math.ceil(len(indices) * indices.step / selection.stride)  # a start in seconds gives every frame
    starts = range(0, max(1, count), piece_frames)
    return [(start, start + piece_frames if start < starts[-1] else None) for start in starts]


def piece_folder(folder: Path, piece: Piece) -> Path:
    """Return the output folder of a piece of the run in ``folder``.

    Raises:
        UserError: the place of the pieces is not a folder that a run made.

    >>> piece_folder(Path("masks"), (1000, 2000)).as_posix()
    'masks/.pieces/000001000'
    """
    parent = folder / _PIECES_NAME
    if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
        raise UserError(f"{parent} is not a folder that a run made; move it, or give another output folder")
    return parent / f"{piece[0]:09d}"


def adopt_pieces(run: RunFolder, folders: Sequence[Path]) -> list[int]:
    """Move the masks and probabilities of complete pieces to the run that they are part of, which has begun.

    Returns:
        The frame indices of all masks of the pieces. Those that were moved before, by a run that was interrupted, are
        in the run's folder.

    Raises:
        UserError: a piece is incomplete.
    """
    indices: list[int] = []
    for folder in folders:
        summary = load_summary(folder / SUMMARY_NAME)
        if summary is None:
            raise UserError(f"the piece in {folder} is incomplete; run the command again with --resume")
        names = summarized_names(folder)
        probabilities = {index: path for path, index in numbered_files(folder / PROBABILITIES_NAME, "npz")}
        masks = {index: path for path, index in numbered_files(folder, "png")}
        for index in summary["frame_numbers"]:
            # The mask comes last: where it is, everything of its frame is.
            _move(run, probabilities.get(index), run.probabilities, folder, names)
            _move(run, masks.get(index), run.masks, folder, names)
            indices.append(index)
    return indices


def _move(run: RunFolder, path: Path | None, target: Path, root: Path, names: set[str]) -> None:
    if path is None or not is_regular(path) or path.relative_to(root).as_posix() not in names:
        return
    target.mkdir(exist_ok=True)
    run.claim(target / path.name)
    os.replace(path, target / path.name)


def remove_pieces(folder: Path) -> None:
    """Remove the folders of the pieces of a complete run; files that no run wrote stay."""
    parent = folder / _PIECES_NAME
    if parent.is_symlink() or not parent.is_dir():
        return
    for piece in [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]:
        names = summarized_names(piece)
        run = RunFolder(piece, PNG)
        for part in (run.probabilities, run.folder):
            remove_named(part, names, root=piece)
            with suppress(OSError):
                part.rmdir()
    with suppress(OSError):
        parent.rmdir()
