"""The output folder of a run: what may be there, what a run that was killed left, when it is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccnet3d.errors import UserError
from ccnet3d.files import remove_unfinished, write_atomically
from ccnet3d.masks import formats

_JOURNAL_NAME = ".ccnet3d-run.json"
_WORK_NAME = ".masks"


class RunFolder:
    """One video's output folder.

    Masks are written one by one, whole, in order, so that those that are there tell how far a run came. While it goes
    on, a journal beside them holds its settings; ``summary.json`` takes its place when all is done. Formats of one file
    are made at the end from masks in a hidden folder.

    Args:
        folder: made at need.
        file_name: the one file of the format; None where masks stay files of their own.
    """

    def __init__(self, folder: Path, file_name: str | None) -> None:
        self.folder = folder
        self.file = None if file_name is None else folder / file_name
        self.masks = folder if file_name is None else folder / _WORK_NAME
        self.probabilities = folder / formats.PROBABILITIES_NAME

    def read_summary(self) -> dict[str, Any] | None:
        """``summary.json`` of a run that is complete."""
        return _read_json(self.folder / formats.SUMMARY_NAME)

    def is_begun(self) -> bool:
        """Whether a run was interrupted here."""
        return (self.folder / _JOURNAL_NAME).exists()

    def begin(self, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> list[int]:
        """Take possession of the folder.

        Args:
            settings: all that the masks depend on, and what else the run writes; plain JSON.
            resume: go on where a run with these settings was interrupted.
            overwrite: remove what an earlier run wrote.

        Returns:
            Numbers of the frames whose masks are there already.

        Raises:
            ValueError: the folder cannot be made, holds the output of another run, or that of one with other settings.
        """
        journal = _read_json(self.folder / _JOURNAL_NAME)
        go_on = journal is not None and resume
        if go_on:
            check_settings(self.folder, journal or {}, settings)
        elif not overwrite and journal is not None:
            raise UserError(
                f"{self.folder} holds the masks of a run that was interrupted; give --resume to go on with it, "
                "--overwrite to begin anew, or another folder"
            )
        elif not overwrite and self._outputs():
            raise UserError(
                f"{self.folder} holds the masks of an earlier run; give another folder, or --overwrite to replace them"
            )
        try:
            self.masks.mkdir(parents=True, exist_ok=True)
            if go_on:
                for folder in (self.folder, self.masks, self.probabilities):
                    remove_unfinished(folder)
                return formats.saved_numbers(self.masks)
            if overwrite:
                self._clear()
            write_atomically(self.folder / _JOURNAL_NAME, _to_json(settings))
        except OSError as error:
            raise UserError(f"cannot use the output folder {self.folder}: {error.strerror}") from error
        return []

    def complete(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` and remove what only a run at work needs."""
        write_atomically(self.folder / formats.SUMMARY_NAME, _to_json(summary))
        self.remove_work()

    def remove_work(self) -> None:
        """Remove the journal, and masks that became part of one file."""
        if self.masks != self.folder:
            shutil.rmtree(self.masks, ignore_errors=True)
        (self.folder / _JOURNAL_NAME).unlink(missing_ok=True)

    def _outputs(self) -> list[Path]:
        names = (formats.SUMMARY_NAME, *(name for name in formats.FILE_NAMES.values() if name))
        found = [path for path in (self.folder / name for name in names) if path.exists()]
        found += [formats.mask_path(self.folder, number) for number in formats.saved_numbers(self.folder)]
        return found + [path for path in self.probabilities.glob("*.npz") if path.stem.isdecimal()]

    def _clear(self) -> None:
        # The summary first: what is left of a run without it is known to be incomplete.
        for path in self._outputs():
            path.unlink()
        work = self.folder / _WORK_NAME
        for path in [*work.glob("*.png"), self.folder / _JOURNAL_NAME]:
            path.unlink(missing_ok=True)
        for folder in (self.folder, work, self.probabilities):
            remove_unfinished(folder)
        for folder in (work, self.probabilities):
            if folder != self.masks and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def check_settings(folder: Path, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Compare the settings of a run in a folder with those of one that is to go on with it.

    Raises:
        ValueError: they differ.
    """
    now = json.loads(_to_json(settings))
    for key in {**earlier, **now}:
        before, after = json.dumps(earlier.get(key)), json.dumps(now.get(key))
        if before != after:
            raise UserError(
                f"the run in {folder} had {key} = {before}, now it is {after}; resume with the options of that run, "
                "or give --overwrite"
            )


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
