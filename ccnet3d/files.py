"""Files that are either whole or absent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccnet3d.errors import OutputError

_UNFINISHED = ".partial"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder that becomes ``path`` when the block ends without an error.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OutputError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader or a crash never sees half of it."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what a process that was killed left of files named ``name`` (a pattern) in ``folder``."""
    for path in folder.glob(f".{name}.*{_UNFINISHED}"):
        path.unlink(missing_ok=True)
