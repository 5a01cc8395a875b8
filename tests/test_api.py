"""The names that ``import ccnet3d`` offers without importing their packages."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from importlib import import_module

import pytest
from conftest import REPOSITORY

import ccnet3d


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import ccnet3d; print(*sorted(set(sys.modules) - before))"
    loaded = run_python(code).split()
    assert "ccnet3d" in loaded
    assert [name for name in loaded if name.startswith("ccnet3d.")] == []
    assert {name.partition(".")[0] for name in loaded} <= {"ccnet3d", *sys.stdlib_module_names}


def test_import_takes_milliseconds() -> None:
    """Compared with an empty program, run in turns; torch alone would take a second."""

    def seconds(code: str) -> float:
        begin = time.perf_counter()
        run_python(code)
        return time.perf_counter() - begin

    pairs = [(seconds("import ccnet3d"), seconds("pass")) for _ in range(7)]
    assert statistics.median(package - empty for package, empty in pairs) < 0.05


@pytest.mark.parametrize("name", ccnet3d.__all__)
def test_every_name_resolves(name: str) -> None:
    value = getattr(ccnet3d, name)
    assert name in dir(ccnet3d)
    if name != "__version__":
        module = import_module(f"ccnet3d.{ccnet3d._MODULE_OF[name]}")
        assert value is getattr(module, name)
        assert name in module.__all__


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING, ``__all__`` and the table of modules agree."""
    tree = ast.parse((REPOSITORY / "ccnet3d" / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module.removeprefix("ccnet3d.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ccnet3d.")
        for alias in node.names
    }
    assert imported == ccnet3d._MODULE_OF
    assert {*imported, "__version__"} == set(ccnet3d.__all__)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("open_vidoe", "; did you mean 'open_video'?"),
        ("VideoSegmentor", "; did you mean 'VideoSegmenter'?"),
        ("qqq", ""),
    ],
)
def test_misspelled_name_raises_with_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(AttributeError) as error:
        getattr(ccnet3d, name)
    assert str(error.value) == f"module 'ccnet3d' has no attribute {name!r}{suggestion}"
