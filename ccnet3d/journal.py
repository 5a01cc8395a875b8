"""Who writes to a folder, and what: a lock for one writer at a time, and a journal of the files that were written."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ccnet3d.config import parse_json
from ccnet3d.errors import OutputError, UserError
from ccnet3d.files import remove_unfinished, write_atomically

__all__ = [
    "Journal",
    "check_files",
    "claimed_folder",
    "has_lock",
    "is_regular",
    "lock_folder",
    "relative_name",
    "remove_named",
    "replaceable",
]

_LOCK_NAME = ".ccnet3d-lock"
_FILES_NAME = ".ccnet3d-files.jsonl"
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a named pipe would wait for its writer

_held: set[int] = set()
"""Descriptors of the locks of this process, for its forks, which must not keep them when it dies."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create a folder if it is missing, and keep all others from writing to it until the block ends.

    The lock is one of the operating system, which ends with the process. On file systems without locks there is none.
    Folders that were created and are still empty at the end are removed.

    Raises:
        UserError: another process or thread has the folder, or it cannot be used.

    >>> with lock_folder(Path("out")), lock_folder(Path("out")):
    ...     pass
    Traceback (most recent call last):
        ...
    ccnet3d.errors.UserError: another run is writing to out; wait until it ends, or give another folder
    """
    missing: list[Path] = []
    try:
        missing += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder)
    except FileExistsError as error:  # from mkdir
        raise UserError(f"the output folder {folder} is a file; give another name") from error
    except OSError as error:
        _remove_empty(missing)
        raise UserError(f"cannot use the output folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        _unlock(folder / _LOCK_NAME, descriptor)
        _remove_empty(missing)


def has_lock(folder: Path) -> bool:
    """Return whether a run writes to a folder, or was killed while it did."""
    return os.path.lexists(folder / _LOCK_NAME)


def _lock(folder: Path) -> int:
    path = folder / _LOCK_NAME
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | _NO_FOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UserError(f"{path} is a link, and not the lock of a run; remove it") from error
        found = os.fstat(descriptor)
        if found.st_size or not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise UserError(f"{path} is not the lock of a run, which is an empty file; move it, or give another folder")
        try:
            _acquire(descriptor)
        except OSError as error:
            if error.errno in _BUSY:
                os.close(descriptor)
                raise UserError(
                    f"another run is writing to {folder}; wait until it ends, or give another folder"
                ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                _held.add(descriptor)
                return descriptor
        os.close(descriptor)  # its last holder removed the file in between


def _unlock(path: Path, descriptor: int) -> None:
    """Remove the lock file while it is locked, so that nobody has locked a removed one without noticing."""
    if descriptor not in _held:  # in a fork
        return
    _held.discard(descriptor)
    with suppress(OSError):  # Windows removes no open file
        path.unlink()
    os.close(descriptor)


def _acquire(descriptor: int) -> None:
    if os.name == "nt":  # pragma: no cover
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget_locks() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def _remove_empty(folders: Collection[Path]) -> None:
    """Remove the empty ones of folders, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


class Journal:
    """The names of the files that were written to a folder: the only ones that may be replaced or removed.

    A name is added before its file is written, so that no file is without a name, whatever ends the process. The
    journal is a hidden file of JSON lines: a header, then names relative to its folder.

    Args:
        path: of the journal; it is read if it exists, and otherwise written by :meth:`begin` or the first claim.

    Raises:
        UserError: the file is something else, or cannot be read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Journal(Path(folder) / ".journal").claim(Path(folder) / "table.csv")
    ...     Journal(Path(folder) / ".journal").names
    frozenset({'table.csv'})
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.names: frozenset[str] = frozenset()
        """Of files that were claimed before the journal was opened."""
        self.exists = False
        self._torn: int | None = None  # length of the file without a last name that was cut off
        try:
            descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UserError(f"cannot read the journal {path}: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("not a file")
            with open(descriptor, "rb", closefd=False) as file:
                self._parse(file.read())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"cannot read {path}: it is not a journal of this version of ccnet3d ({error}); give another folder"
            ) from error
        finally:
            os.close(descriptor)
        self.exists = True

    def _parse(self, data: bytes) -> None:
        whole = data[: data.rfind(b"\n") + 1]  # a full disk may have cut off the last name
        first, *others = whole.decode("utf-8").splitlines() or ["null"]
        header, names = parse_json(first), [json.loads(line) for line in others]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("expected names after its first line")
        self.header, self.names = header, frozenset(names)
        self._torn = len(whole) if len(whole) < len(data) else None

    def begin(self, header: Mapping[str, Any], names: Collection[str] = ()) -> None:
        """Replace the journal by one with this header and these names."""
        lines = [json.dumps(header), *(json.dumps(name) for name in sorted(names))]
        write_atomically(self.path, "".join(f"{line}\n" for line in lines).encode())
        self.header, self.names, self.exists, self._torn = dict(header), frozenset(names), True, None

    def claim(self, path: Path) -> None:
        """Add the name of a file that is about to be written.

        Raises:
            UserError: there is such a file, which this journal does not name.
            OutputError: the journal cannot be written.
        """
        name = relative_name(self.path.parent, path)
        replaceable(path, named=name in self.names)
        if name in self.names:
            return
        if not self.exists:
            self.begin({})
        try:
            if self._torn is not None:
                os.truncate(self.path, self._torn)
                self._torn = None
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | _NO_FOLLOW)
            try:
                line = f"{json.dumps(name)}\n".encode()
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutputError(error.errno, error.strerror, str(self.path)) from error


def relative_name(folder: Path, path: Path) -> str:
    """Return the name of a path in the journal of a folder.

    >>> relative_name(Path("out"), Path("out/probabilities/000001.npz")), relative_name(Path("out"), Path("over.mp4"))
    ('probabilities/000001.npz', '../over.mp4')
    """
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return str(path.absolute())


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Check that files can be written to a folder without replacing one of others.

    Raises:
        UserError: they cannot.
    """
    known = Journal(folder / _FILES_NAME).names
    for name in names:
        replaceable(folder / name, named=name in known)


@contextmanager
def claimed_folder(folder: Path, names: Collection[str], *, adopted: bool = False) -> Iterator[None]:
    """Lock a folder and write the names of files to its journal, for a block that writes these files.

    Args:
        folder: created if it is missing.
        names: of the files, which may exist if an earlier block wrote them.
        adopted: if the folder has no journal, take existing files for ones that an earlier version wrote.

    Raises:
        UserError: another process has the folder, it cannot be used, or a file of others has one of the names.
    """
    with lock_folder(folder):
        journal = Journal(folder / _FILES_NAME)
        if adopted and not journal.exists:
            journal.begin({}, names)
        check_files(folder, names)
        remove_unfinished(folder, {*journal.names, _FILES_NAME})
        for name in names:
            journal.claim(folder / name)
        yield


def is_regular(path: Path) -> bool:
    """Return whether a path is a file, and not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def replaceable(path: Path, *, named: bool) -> None:
    """Check that a path is free, or a file that a journal names.

    Raises:
        UserError: it is something else, such as a file or link of the user.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (named and stat.S_ISREG(mode)):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a file"
        raise UserError(
            f"{path} exists, and is {kind} that ccnet3d did not write there; move it, or give another name or folder"
        )


def remove_named(folder: Path, names: Container[str], *, root: Path) -> None:
    """Remove the files in a folder whose names relative to ``root`` are in ``names``; links and folders stay."""
    if folder.is_dir():
        for path in list(folder.iterdir()):
            if relative_name(root, path) in names and is_regular(path):
                path.unlink()
