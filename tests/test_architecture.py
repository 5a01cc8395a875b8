"""The structure of the package, read from the source without importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "ccnet3d"
ROOT = PACKAGE / "__init__.py"
"""Offers names of all rooms, which it imports when they are used; so it is above every room and has no step."""

LADDER = [
    {
        "constants",
        "errors",
        "files",
        "journal",
        "images",
        "progress",
        "config",
        "distributed",
        "resources",
        "wording",
        "native",
    },
    {"attention"},
    {"video", "data", "models"},
    {"masks", "metrics", "losses"},
    {"inference", "evaluation"},
    {"training", "reports", "export"},
    {"ablation", "instances", "serving"},
    {"cli"},
]
"""From the ground up. A room imports from lower steps only, and only from another room's ``__init__``."""

STEP = {room: step for step, rooms in enumerate(LADDER) for room in rooms}

OPTIONAL = {
    "av",
    "cv2",
    "decord",
    "fastapi",
    "jinja2",
    "matplotlib",
    "pyarrow",
    "pycocotools",
    "scipy",
    "supervision",
    "tensorboard",
    "torchcodec",
    "triton",
    "uvicorn",
}
"""Packages that are slow to import or may be missing, so they are imported in the functions that use them."""

MOST_LINES = 350
FEW_LINES = 40

SMALL_WITH_A_REASON = {
    "masks/ffv1_format.py": "one file per mask format",
}
"""Files under FEW_LINES lines with one importer, which would otherwise be merged into it, and why they are separate."""


def all_modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line, module and names of every absolute import, at the top or in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.lineno, node.module or "", [alias.name for alias in node.names]


def imported_modules(tree: ast.AST, known: set[str]) -> set[str]:
    """Return the package's modules that a module imports; ``from ccnet3d.a import b`` may name a module ``b``."""
    found = set()
    for _, module, names in imports(tree):
        submodules = {f"{module}.{name}" for name in names} & known
        found |= submodules or ({module} & known)
    return found


def wrong_imports(path: Path, text: str) -> Iterator[str]:
    """Yield one line per import that breaks the ladder."""
    own = room_of(path)
    for line, module, names in imports(ast.parse(text)):
        targets = [f"ccnet3d.{name}" for name in names] if module == "ccnet3d" else [module]
        for target in targets:
            parts = target.split(".")
            if parts[0] != "ccnet3d" or len(parts) == 1 or parts[1] == own or parts[1] == "__version__":
                continue
            where = f"{relative(path)}:{line} imports {target}"
            if parts[1] not in STEP:
                yield f"{where}: import from the package of that name"
            elif STEP[parts[1]] > STEP[own] or (STEP[parts[1]] == STEP[own] != 0):
                yield f"{where}: {own} may not import {parts[1]}"
            elif len(parts) > 2:
                yield f"{where}: import from ccnet3d.{parts[1]}"


def test_every_room_has_a_step() -> None:
    assert {room_of(path) for path in all_modules() if path != ROOT} == set(STEP)


@pytest.mark.parametrize("path", [path for path in all_modules() if path != ROOT], ids=relative)
def test_imports_go_down_the_ladder(path: Path) -> None:
    assert list(wrong_imports(path, path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("where", "line", "problem"),
    [
        ("inference/x.py", "from ccnet3d.evaluation import evaluate", "inference may not import evaluation"),
        ("metrics/x.py", "from ccnet3d.training import Trainer", "metrics may not import training"),
        ("models/x.py", "def f():\n    import ccnet3d.cli.infer", "models may not import cli"),
        ("evaluation/x.py", "from ccnet3d.video.container import import_av", "import from ccnet3d.video"),
        ("errors.py", "from ccnet3d import attention", "errors may not import attention"),
        ("reports/x.py", "from ccnet3d import open_video", "import from the package of that name"),
    ],
)
def test_a_wrong_import_is_found(where: str, line: str, problem: str) -> None:
    (found,) = wrong_imports(PACKAGE / where, line)
    assert problem in found


def test_right_imports_pass() -> None:
    text = "import torch\nfrom ccnet3d import __version__\nfrom ccnet3d.video import open_video\nimport ccnet3d"
    assert list(wrong_imports(PACKAGE / "inference" / "x.py", text)) == []


def test_no_import_circle() -> None:
    """Imports for type checkers count."""
    names = {path: dotted_name(path) for path in all_modules() if path != ROOT}
    known = set(names.values())
    graph = {name: imported_modules(parse(path), known) for path, name in names.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_optional_packages_are_imported_where_they_are_used() -> None:
    eager = [
        f"{relative(path)}:{line} imports {module}"
        for path in all_modules()
        if path.stem not in ("triton_kernels", "answers", "page", "routes", "schemas")  # imported in functions
        for statement in parse(path).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for line, module, _ in imports(statement)
        if module.partition(".")[0] in OPTIONAL
    ]
    assert eager == []


def test_masks_videos_and_commands_import_without_torch() -> None:
    commands = sorted(path.stem for path in (PACKAGE / "cli").glob("*.py") if path.stem != "__init__")
    modules = ["ccnet3d.masks", "ccnet3d.models", "ccnet3d.video", *(f"ccnet3d.cli.{command}" for command in commands)]
    code = f"import sys; sys.modules['torch'] = None\nimport {', '.join(modules)}"
    assert "ccnet3d.cli.infer" in modules
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_two_modules_share_a_name() -> None:
    """Except commands, which are named after what they run."""
    names = Counter(path.stem for path in all_modules() if path.stem != "__init__" and room_of(path) != "cli")
    assert [name for name, count in names.items() if count > 1] == []


def assigned_names(tree: ast.Module) -> set[str]:
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_every_module_defines_all() -> None:
    """Except commands, and modules whose names start with an underscore, which are private."""
    without = [
        relative(path)
        for path in all_modules()
        if path.stem == "__init__" or not path.stem.startswith("_")
        if room_of(path) != "cli"
        if "__all__" not in assigned_names(parse(path))
    ]
    assert without == []


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_too_long() -> None:
    long = {relative(path): lines for path in all_modules() if (lines := count_lines(path)) > MOST_LINES}
    assert long == {}


def test_small_files_have_several_importers() -> None:
    """A small file that one other module imports belongs into that module, unless it is a room's public interface."""
    names = {path: dotted_name(path) for path in all_modules()}
    importers: dict[str, set[str]] = defaultdict(set)
    for path in all_modules():
        for imported in imported_modules(parse(path), set(names.values())):
            importers[imported].add(relative(path))
    to_merge = {
        relative(path): importers[name]
        for path, name in names.items()
        if path.stem != "__init__" and room_of(path) != "cli" and count_lines(path) < FEW_LINES
        if len(importers[name]) == 1 and not next(iter(importers[name])).endswith("__init__.py")
        if relative(path) not in SMALL_WITH_A_REASON
    }
    assert to_merge == {}
