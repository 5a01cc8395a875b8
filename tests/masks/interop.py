"""The tools that masks are written for, in an environment of their own, as they need older packages than the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("CCNET3D_INTEROP_PYTHON") or sys.executable


@cache
def has_module(name: str) -> bool:
    command = [PYTHON, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"]
    return subprocess.run(command, check=False, env=clean_environment()).returncode == 0


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run_with(module: str, script: str, *arguments: Path | str) -> Any:
    """Run a script where a module is, and return what it prints, as JSON; skip the test without the module."""
    if not has_module(module):
        pytest.skip(f"{PYTHON} has no {module}; pip install 'ccnet3d[interop]', or name another CCNET3D_INTEROP_PYTHON")
    command = [PYTHON, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
