"""Recipes and dataset descriptions that come with the package.

Both come from the repository's folders ``pipelines/`` and ``datasets/``: a wheel contains a copy of them, an editable
install or a checkout reads the folders themselves.
"""

from __future__ import annotations

from pathlib import Path

from ccnet3d.errors import UserError
from ccnet3d.files import is_file

__all__ = ["ablation_file", "dataset_file", "pipelines_folder", "recipe_file"]

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    in_wheel = _PACKAGE / "_resources" / name
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name


def pipelines_folder() -> Path:
    """Return the folder of the recipes; its subfolder ``ablations`` contains the ablations.

    >>> from ccnet3d.resources import pipelines_folder
    >>> (pipelines_folder() / "camvid_lite.toml").is_file()
    True
    """
    return _folder("pipelines")


def recipe_file(name: str) -> Path:
    """Return the TOML file of a recipe.

    Args:
        name: the path of a TOML file, or the name of a recipe that comes with the package.

    Raises:
        UserError: ``name`` is neither a file nor a known name.

    >>> from ccnet3d.resources import recipe_file
    >>> recipe_file("camvid_lite").name
    'camvid_lite.toml'
    """
    return _toml_file("a recipe", name, pipelines_folder())


def ablation_file(name: str) -> Path:
    """Return the TOML file of an ablation.

    Args:
        name: the path of a TOML file, or the name of an ablation that comes with the package.

    Raises:
        UserError: ``name`` is neither a file nor a known name.

    >>> from ccnet3d.resources import ablation_file
    >>> ablation_file("clip_length").name
    'clip_length.toml'
    """
    return _toml_file("an ablation", name, pipelines_folder() / "ablations")


def _toml_file(kind: str, name: str, folder: Path) -> Path:
    path = Path(name)
    if is_file(path):
        return path
    known = sorted(file.stem for file in folder.glob("*.toml"))
    if name in known:
        return folder / f"{name}.toml"
    raise UserError(
        f"there is neither a file nor {kind} named {name[:200]}; give a TOML file or one of {', '.join(known)}"
    )


def dataset_file(name: str) -> Path:
    """Return the ``dataset.toml`` of a dataset that comes with the package, such as ``camvid``.

    >>> from ccnet3d.resources import dataset_file
    >>> dataset_file("camvid").is_file()
    True
    """
    return _folder("datasets") / name / "dataset.toml"
