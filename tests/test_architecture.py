"""The rooms of the package and the ladder between them, read from the source without importing it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "ccnet3d"

LADDER = [
    {"constants", "errors", "files", "config", "distributed", "resources"},
    {"attention"},
    {"video", "data", "models"},
    {"masks", "metrics", "losses"},
    {"inference", "evaluation"},
    {"training", "reports"},
    {"ablation"},
    {"cli"},
]
"""From the ground up; a room imports from lower steps only, and from another room's ``__init__`` only."""

STEP = {room: step for step, rooms in enumerate(LADDER) for room in rooms}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported from this package, whether at the top or in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "ccnet3d":
                yield from ((node.lineno, f"ccnet3d.{alias.name}") for alias in node.names)
            elif node.module:
                yield node.lineno, node.module


def arrows(path: Path, text: str) -> Iterator[str]:
    """What is wrong with a module's imports, a line for each."""
    own = room_of(path)
    for line, name in imports(ast.parse(text)):
        parts = name.split(".")
        if parts[0] != "ccnet3d" or len(parts) == 1 or parts[1] == own or parts[1] not in STEP:
            continue
        where = f"{path.name}:{line} imports {name}"
        if STEP[parts[1]] > STEP[own] or (STEP[parts[1]] == STEP[own] != 0):
            yield f"{where}: {own} may not import {parts[1]}"
        elif len(parts) > 2:
            yield f"{where}: import from ccnet3d.{parts[1]}"


def test_every_room_has_its_step() -> None:
    rooms = {room_of(path) for path in modules()} - {"__init__"}
    assert rooms == set(STEP)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down_the_ladder(path: Path) -> None:
    if path != PACKAGE / "__init__.py":
        assert list(arrows(path, path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("where", "line", "problem"),
    [
        ("inference/x.py", "from ccnet3d.evaluation import evaluate", "inference may not import evaluation"),
        ("metrics/x.py", "from ccnet3d.training import Trainer", "metrics may not import training"),
        ("models/x.py", "def f():\n    import ccnet3d.cli.infer", "models may not import cli"),
        ("evaluation/x.py", "from ccnet3d.video.container import import_av", "import from ccnet3d.video"),
        ("errors.py", "from ccnet3d import attention", "errors may not import attention"),
    ],
)
def test_a_wrong_arrow_is_found(where: str, line: str, problem: str) -> None:
    (found,) = arrows(PACKAGE / where, line)
    assert problem in found


def test_no_two_modules_share_a_name() -> None:
    """Commands are named after what they run, so ``cli`` may repeat a name."""
    names = Counter(path.stem for path in modules() if path.stem != "__init__" and room_of(path) != "cli")
    assert [name for name, count in names.items() if count > 1] == []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def test_no_import_circle() -> None:
    names = {
        path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in modules()
    }
    known = set(names.values())
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in known:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= (inner & known) or {node.module}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def public_names(tree: ast.Module) -> set[str]:
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_every_module_says_what_is_public() -> None:
    """Commands aside; a module whose name starts with an underscore is private as a whole."""
    silent = [
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if path.stem == "__init__" or not path.stem.startswith("_")
        if room_of(path) != "cli"
        if "__all__" not in public_names(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
