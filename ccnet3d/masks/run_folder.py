"""The output folder of a run: what may be in it, what a killed run left behind, when it is complete."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.errors import OutputError, UserError
from ccnet3d.files import atomic_path, remove_unfinished, write_atomically
from ccnet3d.journal import Journal, has_lock, lock_folder, relative_name, remove_named, replaceable
from ccnet3d.masks.formats import FORMATS
from ccnet3d.masks.mask_format import MaskFormat, MaskSequence, Palette
from ccnet3d.masks.npz_format import encode_probabilities
from ccnet3d.masks.palette import decode_mask, encode_mask
from ccnet3d.masks.png_format import PNG, mask_path, read_masks, saved_frame_indices
from ccnet3d.masks.run_names import (
    JOURNAL_NAME,
    PROBABILITIES_NAME,
    SUMMARY_NAME,
    load_summary,
    numbered_files,
    summarized_names,
)

__all__ = ["RunFolder", "check_settings", "is_run_folder"]

_EARLY_JOURNAL_NAME = ".ccnet3d-run.json"
"""Of versions that did not record the names of their files."""
_WORK_NAME = ".masks"


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is the output of a run, complete or interrupted."""
    return (folder / SUMMARY_NAME).is_file() or RunFolder(folder).is_interrupted()


class RunFolder:
    """The output folder of one video.

    Masks are written whole, one by one, in order, so that those in the folder show how far a run got. Until the run is
    complete, a journal next to them contains its settings and the name of every file that it wrote; ``summary.json``
    replaces it at the end. Only files that one of the two names are replaced or removed. Formats of one file are
    written at the end from masks in a hidden folder.

    Args:
        folder: created when a run begins.
        mask_format: the format of the masks.
        stem: of the one mask file of a still image; names are frame indices if None.
    """

    def __init__(self, folder: Path, mask_format: MaskFormat = PNG, stem: str | None = None) -> None:
        self.folder = folder
        self.format = mask_format
        self.stem = stem if mask_format is PNG else None
        self.masks = folder if mask_format.file_name is None else folder / _WORK_NAME
        """Where masks are PNGs until the run is complete."""
        self.probabilities = folder / PROBABILITIES_NAME
        self._journal: Journal | None = None  # of the run that has begun here

    def read_summary(self) -> dict[str, Any] | None:
        """Return ``summary.json`` of a complete run, None without one.

        Raises:
            UserError: the file is something else.
        """
        summary = load_summary(self.folder / SUMMARY_NAME)
        return None if summary and Journal(self.folder / JOURNAL_NAME).header.get("replacing") else summary

    def is_interrupted(self) -> bool:
        """Return whether a run began here and was not completed."""
        return any((self.folder / name).exists() for name in (JOURNAL_NAME, _EARLY_JOURNAL_NAME))

    def check(self, *, resume: bool, overwrite: bool, beside: Collection[Path] = ()) -> None:
        """Fail early where :meth:`begin` would, as far as that needs neither the settings nor the frames.

        Raises:
            UserError: the folder cannot be used, contains the output of another run, or files that no run wrote.
        """
        with self._errors():
            self._check_parts()
            if has_lock(self.folder):
                with lock_folder(self.folder):  # raises if the run that it is of still works
                    pass
            journal = Journal(self.folder / JOURNAL_NAME)
            if resume and (journal.exists or self.read_summary() is not None):
                return
            self._check_earlier(journal, overwrite=overwrite)
            replacing = overwrite or bool(journal.header.get("replacing"))
            names = journal.names | (summarized_names(self.folder) if replacing else set())
            self._check_free(names, beside, (), probabilities=False)

    def begin(
        self,
        settings: Mapping[str, Any],
        *,
        resume: bool,
        overwrite: bool,
        beside: Collection[Path] = (),
        frames: Container[int] = range(sys.maxsize),
        when_checked: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Take possession of the folder, which the caller has locked.

        Args:
            settings: everything that the masks depend on, and what else the run writes; plain JSON.
            resume: continue an interrupted run with these settings.
            overwrite: remove what an earlier run wrote.
            beside: files elsewhere that the run writes, too.
            frames: the frame indices that may occur.
            when_checked: called when nothing speaks against the run, before earlier outputs are touched.

        Returns:
            The frame indices of the masks that are in the folder already.

        Raises:
            UserError: the folder cannot be used, contains the output of another run or of other settings, or files
                that no run wrote where this one would write.
        """
        with self._errors():
            self._check_parts()
            journal = Journal(self.folder / JOURNAL_NAME)
            continued = journal.exists and resume
            if continued:
                check_settings(self.folder, _settings_of(journal), settings)
            else:
                self._check_earlier(journal, overwrite=overwrite)
            replacing = overwrite or bool(journal.header.get("replacing"))
            names = journal.names | (summarized_names(self.folder) if replacing else set())
            self._check_free(names, beside, frames, probabilities=settings.get("probabilities", True))
            self._remove_unfinished(names, beside)
            self.folder.mkdir(parents=True, exist_ok=True)
            when_checked()
            self._journal = journal
            if not continued or journal.header.get("replacing"):
                if names:
                    # Until the earlier run's files are gone, this journal names them.
                    journal.begin({"settings": settings, "replacing": True}, names)
                    self._remove(names)
                # Files elsewhere stay until the new ones replace them.
                journal.begin({"settings": settings}, {self._name(path) for path in beside} & names)
            self.masks.mkdir(exist_ok=True)
            return sorted(index for path, index in self._mask_files() if self._name(path) in journal.names)

    def read_mask(self, frame_index: int) -> np.ndarray:
        """Return a frame's mask, uint8 ``[H, W]``, that an interrupted run wrote.

        Raises:
            UserError: it is damaged.
        """
        return decode_mask(self._mask_path(frame_index))

    def write_mask(self, frame_index: int, mask: np.ndarray, palette: Palette) -> None:
        """Write a frame's mask, uint8 ``[H, W]``; write its probabilities first, as a run resumes after the masks."""
        path = self._mask_path(frame_index)
        self.claim(path)
        write_atomically(path, encode_mask(mask, palette))

    def write_probabilities(self, frame_index: int, probabilities: np.ndarray) -> None:
        """Write a frame's class probabilities in 255ths, uint8 ``[K, h, w]``."""
        path = self.probabilities / f"{frame_index:06d}.npz"
        self.claim(path)
        write_atomically(path, encode_probabilities(probabilities))

    def write_file(self, sequence: MaskSequence) -> None:
        """Write the one file of a format that has one, from the masks of all frames."""
        if self.format.write:
            path = self.format.path(self.folder)
            self.claim(path)
            masks = zip(sequence.frame_indices, read_masks(self.masks, sequence.frame_indices), strict=True)
            self.format.write(path, masks, sequence)

    def claim(self, path: Path) -> None:
        """Record a file that the run is about to write.

        Raises:
            UserError: there is one already that no run wrote.
        """
        if self._journal:
            self._journal.claim(path)
        else:
            replaceable(path, named=False)

    def complete(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` and remove what only an unfinished run needs."""
        path = self.folder / SUMMARY_NAME
        self.claim(path)
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            json.dump(summary, file, indent=1)  # part by part: a long run has millions of numbers
            file.write("\n")
        self._remove_work()

    def give_up(self) -> None:
        """Remove the journal of a run that ended before it wrote a file, so that nothing of it is left."""
        journal = self._journal
        if journal and not any(os.path.lexists(self.folder / name) for name in Journal(journal.path).names):
            self._remove_work()

    def finish(self) -> None:
        """Remove what a run left that was killed when its summary was written."""
        if self.is_interrupted() or has_lock(self.folder):
            with lock_folder(self.folder):
                self._check_parts()
                self._journal = Journal(self.folder / JOURNAL_NAME)
                self._remove_unfinished(self._journal.names, ())
                self._remove_work()

    def outputs(self) -> list[Path]:
        """Return the files that look as if a run of any format wrote them, its summary first."""
        names = (SUMMARY_NAME, *(one.file_name for one in FORMATS.values() if one.file_name))
        found = [path for path in (self.folder / name for name in names) if path.exists()]
        found += [mask_path(self.folder, index) for index in saved_frame_indices(self.folder)]
        return found + [path for path in self.probabilities.glob("*.npz") if path.stem.isdecimal()]

    def _parts(self) -> list[Path]:
        return [self.folder, self.folder / _WORK_NAME, self.probabilities]

    def _check_parts(self) -> None:
        """Check that the folders are what a run makes: no links, except for the output folder itself."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"the output folder {self.folder} is a file; give another name")
        for path in self._parts()[1:]:
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise UserError(f"{path} is not a folder that a run made; move it, or give another output folder")
        for path in self._parts():
            if path.exists() and not os.access(path, os.W_OK | os.X_OK):
                raise UserError(f"cannot use the output folder {path}: Permission denied")

    def _check_earlier(self, journal: Journal, *, overwrite: bool) -> None:
        if (self.folder / _EARLY_JOURNAL_NAME).exists():
            raise UserError(
                f"{self.folder} contains an interrupted run of an earlier version of ccnet3d, which did not record "
                "what it wrote, so it can be neither resumed nor replaced; give another folder"
            )
        if journal.exists and not overwrite:
            raise UserError(
                f"{self.folder} contains the masks of an interrupted run; give --resume to continue it, "
                "--overwrite to start over, or another folder"
            )
        if not overwrite and self.read_summary() is not None:
            raise UserError(
                f"{self.folder} contains the masks of an earlier run; give another folder, or --overwrite to "
                "replace them"
            )

    def _check_free(
        self, names: Container[str], beside: Collection[Path], frames: Container[int], *, probabilities: bool
    ) -> None:
        """Check that what the run will write is free or named; later each file is checked again."""
        single = [self.folder / SUMMARY_NAME, *([self.format.path(self.folder)] if self.format.file_name else [])]
        for path in [*single, *beside]:
            replaceable(path, named=self._name(path) in names)
        numbered = [*self._mask_files()]
        if probabilities:
            numbered += numbered_files(self.probabilities, "npz")
        for path, index in numbered:
            if index in frames:
                replaceable(path, named=self._name(path) in names)

    def _mask_path(self, frame_index: int) -> Path:
        return self.folder / f"{self.stem}.png" if self.stem else mask_path(self.masks, frame_index)

    def _mask_files(self) -> Iterator[tuple[Path, int]]:
        """Yield the files that have the names of this run's masks, and their frame indices."""
        if self.stem is None:
            yield from numbered_files(self.masks, "png")
        elif os.path.lexists(self._mask_path(0)):
            yield self._mask_path(0), 0

    def _name(self, path: Path) -> str:
        return relative_name(self.folder, path)

    def _remove(self, names: Container[str]) -> None:
        # The summary first: without it, what is left of a run is known to be incomplete.
        if SUMMARY_NAME in names:
            (self.folder / SUMMARY_NAME).unlink(missing_ok=True)
        for part in self._parts():
            remove_named(part, names, root=self.folder)
        for part in self._parts()[1:]:
            with suppress(OSError):  # missing, or with files of others
                part.rmdir()

    def _remove_unfinished(self, names: Collection[str], beside: Collection[Path]) -> None:
        for part in self._parts():
            prefix = f"{self._name(part)}/".removeprefix("./")
            started = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            remove_unfinished(part, started | {JOURNAL_NAME})
        for path in beside:
            if self._name(path) in names:
                remove_unfinished(path.parent, {path.name})

    def _remove_work(self) -> None:
        """Remove the journal, and masks that became part of one file."""
        if self._journal is None:
            return
        with self._errors():
            if self.masks != self.folder:
                remove_named(self.masks, Journal(self._journal.path).names, root=self.folder)
                with suppress(OSError):  # files of others
                    self.masks.rmdir()
            self._journal.path.unlink(missing_ok=True)
            self._journal = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OutputError:  # it names its file
            raise
        except OSError as error:
            raise UserError(f"cannot use the output folder {self.folder}: {error.strerror}") from error


def _settings_of(journal: Journal) -> dict[str, Any]:
    settings = journal.header.get("settings")
    if not isinstance(settings, dict):
        raise UserError(f"cannot read {journal.path}: it lacks the settings of its run; give --overwrite")
    return settings


def check_settings(folder: Path, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Compare the settings of the run in a folder with those of a run that is to resume it.

    Raises:
        UserError: they differ.
    """
    now = json.loads(json.dumps(settings))
    for key in {**earlier, **now}:
        if key == "source" and key not in earlier:  # of an earlier version
            continue
        before, after = json.dumps(earlier.get(key)), json.dumps(now.get(key))
        if before != after and key in ("source", "video_bytes"):
            raise UserError(
                f"{now.get('video')} has changed since the run in {folder} began; give the files of that run, or "
                "--overwrite"
            )
        if before != after:
            raise UserError(
                f"the run in {folder} had {key} = {before}, now it is {after}; resume with the options of that run, "
                "or give --overwrite"
            )
