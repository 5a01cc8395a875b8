from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ccnet3d.errors import OutputError
from ccnet3d.files import atomic_path, write_atomically


def test_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    write_atomically(target, b"one")
    assert target.read_bytes() == b"one"
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"one"
    assert list(target.parent.iterdir()) == [target]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_unwritable_files_are_output_errors_with_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / "file" / "mask.png", b"")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTDIR, str(tmp_path / "file" / "mask.png"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        write_atomically(tmp_path / "mask.png", b"")
    assert caught.value.filename == str(tmp_path / "mask.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "absent", "input.png"), BrokenPipeError(errno.EPIPE, "Broken pipe")]
)
def test_errors_about_other_files_pass_unchanged(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "mask.png"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []
