"""The examples in the docstrings of the package run as they are written."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest
from conftest import REPOSITORY

import ccnet3d

PACKAGE = REPOSITORY / "ccnet3d"
# Found by their text, so that collecting the tests imports no module that needs an optional package.
WITH_EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_examples_of_a_module(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, so that an example may write files."""
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    module = import_module(name)
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testmod(module)  # prints what failed
    assert attempted > 0
    assert failed == 0


@pytest.mark.parametrize("name", sorted(set(ccnet3d.__all__) - {"UserError", "__version__"}))
def test_main_names_have_an_example(name: str) -> None:
    assert ">>> " in getattr(ccnet3d, name).__doc__
