"""Atomic file writes, archives whose bytes depend on their content alone, and PyTorch files of unknown origin."""

from __future__ import annotations

import errno
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccnet3d.errors import OutputError

__all__ = ["atomic_path", "is_file", "load_tensors", "remove_unfinished", "timeless_entry", "write_atomically"]

_UNFINISHED = ".partial"
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial")
"""The name of a temporary file, and in it that of the file."""


def load_tensors(path: Path) -> Any:
    """Load a PyTorch file of tensors and plain values on the CPU, and of nothing else.

    Depending on the damage, PyTorch raises almost any exception for a file that it cannot read; its messages and
    warnings, which are not shown, may advise to trust the file.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block ends without an error.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError as error:  # mkdir's word for a parent that is a file
        raise OutputError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
    except OSError as error:
        raise OutputError(error.errno, error.strerror, str(path)) from error
    try:
        yield temporary
        os.replace(temporary, path)
    except BrokenPipeError:  # not about this file: the block also prints, and its reader is gone
        raise
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OutputError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that neither a reader nor a crash ever sees half of it.

    Raises:
        OutputError: ``path`` cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "new" / "greeting.txt", b"hello")
    ...     print((Path(folder) / "new" / "greeting.txt").read_text())
    hello
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def is_file(path: Path) -> bool:
    """Return whether there is a file; False also for a name that no file can have, such as one that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def remove_unfinished(folder: Path, names: Container[str] | None = None) -> None:
    """Remove the temporary files that a killed process left behind in ``folder``.

    Args:
        folder: the folder of the files; it may be missing.
        names: the names that the files were going to have; None for all, in a folder that only the package writes to.
    """
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        match = _TEMPORARY.fullmatch(path.name)
        if match and (names is None or match[1] in names) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def timeless_entry(name: str) -> zipfile.ZipInfo:
    """Return an archive entry without the time of writing, so that archives of equal content are equal.

    PNGs, which are compressed already, are stored as they are.
    """
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
