"""The output folder of a run: what may be in it, what a killed run left behind, when it is complete."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.errors import OutputError, UserError
from ccnet3d.files import remove_unfinished, timeless_entry, write_atomically
from ccnet3d.masks.formats import FORMATS
from ccnet3d.masks.mask_format import MaskFormat, MaskSequence, Palette
from ccnet3d.masks.palette import decode_mask, encode_mask
from ccnet3d.masks.png_format import PNG, mask_path, read_masks, saved_frame_indices

__all__ = ["SUMMARY_NAME", "RunFolder", "check_settings", "encode_probabilities", "is_run_folder"]

SUMMARY_NAME = "summary.json"
_PROBABILITIES_NAME = "probabilities"
_JOURNAL_NAME = ".ccnet3d-run.json"
_WORK_NAME = ".masks"


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is the output of a run, complete or interrupted."""
    return (folder / SUMMARY_NAME).is_file() or RunFolder(folder).is_interrupted()


class RunFolder:
    """The output folder of one video.

    Masks are written whole, one by one, in order, so that those in the folder show how far a run got. Until the run is
    complete, a journal next to them contains its settings; ``summary.json`` replaces it at the end. Formats of one file
    are written at the end from masks in a hidden folder.

    Args:
        folder: created when a run begins.
        mask_format: the format of the masks.
    """

    def __init__(self, folder: Path, mask_format: MaskFormat = PNG) -> None:
        self.folder = folder
        self.format = mask_format
        self.masks = folder if mask_format.file_name is None else folder / _WORK_NAME
        """Where masks are PNGs until the run is complete."""
        self.probabilities = folder / _PROBABILITIES_NAME

    def read_summary(self) -> dict[str, Any] | None:
        """Return ``summary.json`` of a complete run, None without one."""
        return _read_json(self.folder / SUMMARY_NAME)

    def is_interrupted(self) -> bool:
        """Return whether a run began here and was not completed."""
        return (self.folder / _JOURNAL_NAME).exists()

    def begin(self, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> list[int]:
        """Take possession of the folder.

        Args:
            settings: everything that the masks depend on, and what else the run writes; plain JSON.
            resume: continue an interrupted run with these settings.
            overwrite: remove what an earlier run wrote.

        Returns:
            The frame indices of the masks that are in the folder already.

        Raises:
            UserError: the folder cannot be created, or contains the output of another run or of other settings.
        """
        with self._errors():
            journal = _read_json(self.folder / _JOURNAL_NAME)
            if journal is not None and resume:
                check_settings(self.folder, journal, settings)
                self.masks.mkdir(parents=True, exist_ok=True)
                for folder in (self.folder, self.masks, self.probabilities):
                    remove_unfinished(folder)
                return saved_frame_indices(self.masks)
            if not overwrite and journal is not None:
                raise UserError(
                    f"{self.folder} contains the masks of an interrupted run; give --resume to continue it, "
                    "--overwrite to start over, or another folder"
                )
            if not overwrite and self.outputs():
                raise UserError(
                    f"{self.folder} contains the masks of an earlier run; give another folder, or --overwrite to "
                    "replace them"
                )
            self.masks.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self._clear()
            write_atomically(self.folder / _JOURNAL_NAME, _to_json(settings))
            return []

    def read_mask(self, frame_index: int) -> np.ndarray:
        """Return a frame's mask, uint8 ``[H, W]``, that an interrupted run wrote.

        Raises:
            UserError: it is damaged.
        """
        return decode_mask(mask_path(self.masks, frame_index))

    def write_mask(self, frame_index: int, mask: np.ndarray, palette: Palette) -> None:
        """Write a frame's mask, uint8 ``[H, W]``; write its probabilities first, as a run resumes after the masks."""
        write_atomically(mask_path(self.masks, frame_index), encode_mask(mask, palette))

    def write_probabilities(self, frame_index: int, probabilities: np.ndarray) -> None:
        """Write a frame's class probabilities in 255ths, uint8 ``[K, h, w]``."""
        write_atomically(self.probabilities / f"{frame_index:06d}.npz", encode_probabilities(probabilities))

    def write_file(self, sequence: MaskSequence) -> None:
        """Write the one file of a format that has one, from the masks of all frames."""
        if self.format.write:
            masks = zip(sequence.frame_indices, read_masks(self.masks, sequence.frame_indices), strict=True)
            self.format.write(self.format.path(self.folder), masks, sequence)

    def complete(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` and remove what only an unfinished run needs."""
        write_atomically(self.folder / SUMMARY_NAME, _to_json(summary))
        self.remove_work()

    def remove_work(self) -> None:
        """Remove the journal, and masks that became part of one file."""
        with self._errors():
            if self.masks != self.folder:
                shutil.rmtree(self.masks, ignore_errors=True)
            (self.folder / _JOURNAL_NAME).unlink(missing_ok=True)

    def outputs(self) -> list[Path]:
        """Return the files that a run of any format left in the folder, its summary first."""
        names = (SUMMARY_NAME, *(one.file_name for one in FORMATS.values() if one.file_name))
        found = [path for path in (self.folder / name for name in names) if path.exists()]
        found += [mask_path(self.folder, index) for index in saved_frame_indices(self.folder)]
        return found + [path for path in self.probabilities.glob("*.npz") if path.stem.isdecimal()]

    def _clear(self) -> None:
        # The summary first: without it, what is left of a run is known to be incomplete.
        for path in self.outputs():
            path.unlink()
        work = self.folder / _WORK_NAME
        for path in [*work.glob("*.png"), self.folder / _JOURNAL_NAME]:
            path.unlink(missing_ok=True)
        for folder in (self.folder, work, self.probabilities):
            remove_unfinished(folder)
        for folder in (work, self.probabilities):
            if folder != self.masks and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OutputError:  # it names its file
            raise
        except FileExistsError as error:  # from mkdir
            raise UserError(f"the output folder {self.folder} is a file; give another name") from error
        except OSError as error:
            raise UserError(f"cannot use the output folder {self.folder}: {error.strerror}") from error


def check_settings(folder: Path, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Compare the settings of the run in a folder with those of a run that is to resume it.

    Raises:
        UserError: they differ.
    """
    now = json.loads(_to_json(settings))
    for key in {**earlier, **now}:
        before, after = json.dumps(earlier.get(key)), json.dumps(now.get(key))
        if before != after:
            raise UserError(
                f"the run in {folder} had {key} = {before}, now it is {after}; resume with the options of that run, "
                "or give --overwrite"
            )


def encode_probabilities(probabilities: np.ndarray) -> bytes:
    """Return a compressed npz file with ``probabilities``, uint8 ``[K, h, w]`` in 255ths."""
    buffer, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(array, probabilities, version=(1, 0))
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(timeless_entry("probabilities.npy"), array.getvalue(), compresslevel=1)
    return buffer.getvalue()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; give --overwrite or another folder") from error
    return table if isinstance(table, dict) else {}


def _to_json(table: Mapping[str, Any]) -> bytes:
    return (json.dumps(table, indent=1) + "\n").encode()
