"""A remote output folder: what is there, what a run may replace, and the upload of a complete run."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from ccnet3d.errors import UserError
from ccnet3d.inference.remote_store import Store
from ccnet3d.journal import Journal, relative_name
from ccnet3d.masks import JOURNAL_NAME, SUMMARY_NAME

__all__ = ["RemoteFolder"]

_MOST_BYTES = 1 << 28
"""Of a summary or journal: a hundred hours of video have less."""


class RemoteFolder:
    """The output folder of a run, and its local stand-in.

    Args:
        prefix: start of its URL.
        root: the local folder that stands for the store.
        folder: the local folder, in ``root``, that stands for the output folder.
        overlay: the local file, in ``root``, that stands for the overlay.
    """

    def __init__(self, prefix: str, root: Path, folder: Path, overlay: Path | None) -> None:
        self._prefix, self._root, self._folder, self._overlay = prefix, root, folder, overlay
        self._url = self._url_of(folder)
        self._store = Store(self._url)
        self._before: dict[Path, tuple[int, int]] = {}
        self._known: set[str] = set()

    def _url_of(self, path: Path) -> str:
        return f"{self._prefix}{path.relative_to(self._root).as_posix()}"

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Create a local file for each remote one that a run could meet.

        Raises:
            UserError: the place cannot be used, or contains a run whose upload was interrupted, without ``resume`` or
                ``overwrite``.
        """
        self._store.check_bucket(self._url)
        self._folder.mkdir(parents=True)
        for path in self._remote_files():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        summary = self._folder / SUMMARY_NAME
        if summary.exists():
            summary.write_bytes(self._store.read(self._url_of(summary), _MOST_BYTES) or b"")
        left = self._interrupted()
        if left and not (resume or overwrite):
            raise UserError(
                f"{self._url} contains masks of a run whose upload was interrupted; give --resume to complete it, "
                "--overwrite to start over, or another folder"
            )
        self._before = {path: _state(path) for path in self._local_files()}
        self._known = {self._url_of(path) for path in self._before}
        for path in left:
            path.unlink(missing_ok=True)

    def _remote_files(self) -> list[Path]:
        found = []
        for name in self._store.find(self._url, depth=2):
            parts = PurePosixPath(name).parts
            if parts and not any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
                found.append(self._folder.joinpath(*parts))
        if self._overlay and self._store.is_file(self._url_of(self._overlay)):
            found.append(self._overlay)
        return found

    def _interrupted(self) -> list[Path]:
        """Return what stands for the files of a run that was uploaded in part."""
        data = self._store.read(f"{self._url}/{JOURNAL_NAME}", _MOST_BYTES)
        if data is None:
            return []
        copy = self._root / JOURNAL_NAME
        copy.write_bytes(data)
        journal = Journal(copy)
        copy.unlink()
        if (self._folder / SUMMARY_NAME).exists() and not journal.header.get("replacing"):
            return []  # all but the journal's own removal was done
        there = set(self._local_files())  # a name cannot lead to anything else
        return [path for name in journal.names if (path := Path(os.path.normpath(self._folder / name))) in there]

    def _local_files(self) -> list[Path]:
        files = [path for path in self._folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        if self._overlay and self._overlay.is_file() and self._overlay not in files:
            files.append(self._overlay)
        return sorted(files)

    def publish(self) -> None:
        """Upload what the run wrote, and remove what it replaced; nothing if it found a complete run.

        Raises:
            UserError: the place cannot be used, or has a new file with the name of an output.
        """
        files = self._local_files()
        written = [path for path in files if self._before.get(path) != _state(path)]
        if not written:
            return
        gone = [path for path in self._before if path not in files]
        new = {self._url_of(path) for path in self._remote_files()} - self._known
        if taken := sorted(new & {self._url_of(path) for path in written}):
            raise UserError(f"{taken[0]} exists, and is a file that this run did not write; give another folder")
        summary, journal = self._folder / SUMMARY_NAME, Journal(self._root / JOURNAL_NAME)
        names = {relative_name(self._folder, path) for path in (*written, *gone)}
        journal.begin({"settings": {}, "replacing": summary in self._before}, names)
        journal_url = f"{self._url}/{JOURNAL_NAME}"
        self._store.upload([(journal.path, journal_url)])
        if summary in self._before:
            self._store.remove([self._url_of(summary)])
        self._store.upload([(path, self._url_of(path)) for path in written if path != summary])
        self._store.remove([self._url_of(path) for path in gone if path != summary])
        self._store.upload([(summary, self._url_of(summary))])
        self._store.remove([journal_url])


def _state(path: Path) -> tuple[int, int]:
    """Return what tells a file from one that replaces it."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size
