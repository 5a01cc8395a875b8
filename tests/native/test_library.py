"""Which files are used as the library of C kernels."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from ccnet3d.native import library, load_library


def test_library_of_another_system_or_other_sources_is_not_used(
    native_library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.so"
    assert load_library(other) is None
    other.write_bytes(b"\x7fELF of another system")
    assert load_library(other) is None
    source, older = tmp_path / "older.c", tmp_path / "older.so"
    source.write_text("int ccnet3d_supported(void) { return 3; }")
    subprocess.run(["cc", "-shared", "-o", older, source], check=True)
    assert load_library(older) is None
    source.write_text("int ccnet3d_interface(void) { return 1; }")
    subprocess.run(["cc", "-shared", "-o", older.with_name("other_interface.so"), source], check=True)
    assert load_library(older.with_name("other_interface.so")) is None
    current = Path(str(native_library._name))
    assert load_library(current) is not None
    monkeypatch.setattr(library.platform, "machine", lambda: "aarch64")
    assert load_library(current) is None
