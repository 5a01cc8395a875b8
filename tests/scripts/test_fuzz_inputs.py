from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from script_runner import run

sys.path.insert(0, str(REPOSITORY / "scripts" / "benchmarks"))

import fuzz_inputs
from fuzz_kinds import KINDS, Seed


def test_a_case_of_each_kind(tmp_path: Path) -> None:
    fuzz = run("fuzz_inputs.py", "--minutes", "5", "--cases", len(KINDS), "--seed", "3", "--out", tmp_path / "out")
    assert fuzz.returncode == 0, fuzz.stdout + fuzz.stderr
    assert fuzz.stdout.splitlines() == [f"{kind}: 1 cases, 0 findings" for kind in KINDS]
    assert not (tmp_path / "out").exists()


def test_unknown_kind() -> None:
    fuzz = run("fuzz_inputs.py", "--kinds", "videos,audio")
    assert fuzz.returncode == 2
    assert fuzz.stderr.startswith("fuzz_inputs.py: error: unknown kind 'audio'; choose from videos, images")


def fail(_: Path) -> int:
    raise KeyError("width")


def print_lines(code: int, *lines: str) -> Callable[[Path], int]:
    def print_them(_: Path) -> int:
        print(*lines, sep="\n", file=sys.stderr)
        return code

    return print_them


def take_memory(_: Path) -> int:
    np.ones(1 << 40)
    return 0


def wait(_: Path) -> int:
    time.sleep(60)
    return 0


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (print_lines(0, "x: warning: a frame is damaged"), ""),
        (print_lines(2, "x: warning: a frame", "x: error: no file"), ""),
        (print_lines(2, "x: error: 2 files are invalid:", "  a", "  b"), ""),
        (print_lines(2, "x: error: one", "and two"), "not one error line: 1 of 2"),
        (print_lines(2), "not one error line: 0 of 1"),
        (print_lines(2, "x: error: " + "long " * 1000), "an error line of more than 1500 characters"),
        (print_lines(2, "x: error: set weights_only=False"), "prints a traceback, or PyTorch's advice to trust a file"),
        (print_lines(1, "Traceback", "ValueError: 3 of 4"), "ValueError: _ of _"),
        (fail, "KeyError: _"),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "signal SIGKILL"),
        (take_memory, "numpy._core._exceptions._ArrayMemoryError: "),
        (wait, "no end within 1 seconds"),
    ],
)
def test_what_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], int], reason: str
) -> None:
    monkeypatch.setattr(fuzz_inputs, "_SECONDS", 1 if read is wait else 60)
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "file.bin").write_bytes(b"content")
    seed = Seed(tmp_path / "seed", ("file.bin",), read)
    found, _ = fuzz_inputs._run_case([seed], tmp_path / "work", np.random.default_rng(0))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)
