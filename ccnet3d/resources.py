"""Recipes and dataset descriptions that come with the package.

The repository's ``pipelines/`` and ``datasets/`` are the one source: a wheel carries a copy inside the package, and an
editable install or a checkout reads the folders themselves.
"""

from __future__ import annotations

from pathlib import Path

from ccnet3d.errors import UserError

__all__ = ["dataset_file", "pipelines_folder", "recipe_file"]

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    in_wheel = _PACKAGE / "_resources" / name
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name


def pipelines_folder() -> Path:
    """Return the folder of the recipes; ablations lie in its folder ``ablations``."""
    return _folder("pipelines")


def recipe_file(name: str, folder: Path | None = None) -> Path:
    """Return the TOML file that a recipe's name or path stands for.

    Args:
        name: a path of a TOML file, or the name of a file in ``folder`` without its extension.
        folder: where names are looked up; :func:`pipelines_folder` when None.

    Raises:
        UserError: neither a file nor a known name.
    """
    folder = pipelines_folder() if folder is None else folder
    path = Path(name)
    if path.is_file():
        return path
    known = sorted(file.stem for file in folder.glob("*.toml"))
    if name in known:
        return folder / f"{name}.toml"
    raise UserError(
        f"there is no file {name} and no recipe of that name; give a TOML file or one of {', '.join(known)}"
    )


def dataset_file(name: str) -> Path:
    """Return the ``dataset.toml`` of a dataset that comes with the package, such as ``camvid``."""
    return _folder("datasets") / name / "dataset.toml"
