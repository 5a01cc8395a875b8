"""Recipes, dataset descriptions and weights that come with the package.

The first two come from the repository's folders ``pipelines/`` and ``datasets/``: a wheel contains a copy of them, an
editable install or a checkout reads the folders themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ccnet3d.config import parse_json
from ccnet3d.errors import UserError
from ccnet3d.files import is_file

__all__ = [
    "DEFAULT_WEIGHTS",
    "DETECTOR_METADATA_KEY",
    "MODEL_METADATA_KEY",
    "ablation_file",
    "dataset_file",
    "dataset_names",
    "find_dataset",
    "model_class_names",
    "model_file",
    "pipelines_folder",
    "recipe_file",
    "shipped_weights",
]

DEFAULT_WEIGHTS = "ccnet3d_b0_camvid"
"""Name of the weights in the package that are loaded by default."""

MODEL_METADATA_KEY = "ccnet3d"
"""Key of a model file's header under which its metadata is JSON."""

DETECTOR_METADATA_KEY = "ccnet3d_detector"
"""The same of the file of an instance segmentation model."""

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


def find_dataset(name: str) -> Path:
    """Return a description of a dataset: a TOML file, or that of the package with this name.

    Raises:
        UserError: ``name`` is neither a file nor a known name.

    >>> find_dataset("cityscapes").parent.name
    'cityscapes'
    """
    path = Path(name)
    if is_file(path):
        return path
    known = dataset_names()
    if name in known:
        return dataset_file(name)
    raise UserError(
        f"there is neither a file nor a dataset named {name[:200]}; give a dataset.toml or one of {', '.join(known)}"
    )


def dataset_names() -> list[str]:
    """Return the names of the datasets whose descriptions come with the package.

    >>> "ade20k" in dataset_names()
    True
    """
    return sorted(path.parent.name for path in _folder("datasets").glob("*/dataset.toml"))


def shipped_weights() -> dict[str, Path]:
    """Return the model files in the package by their names, which :func:`ccnet3d.load_model` accepts.

    >>> "ccnet3d_lite_camvid" in shipped_weights()
    True
    """
    return {file.stem: file for file in sorted((_PACKAGE / "weights").glob("*.safetensors"))}


def model_file(path: Path | str | None = None) -> Path:
    """Return a model file: an existing path, or weights in the package by name; None and ``default`` are the default.

    Raises:
        UserError: there is no such file.

    >>> model_file().name
    'ccnet3d_b0_camvid.safetensors'
    """
    path = Path(DEFAULT_WEIGHTS if path is None or str(path) == "default" else path)
    if is_file(path):
        return path
    shipped = shipped_weights()
    if str(path) in shipped:
        return shipped[str(path)]
    raise UserError(
        f"there is no model file at {path}; give a .safetensors file that training wrote, or the name of "
        f"weights in the package: {', '.join(shipped)}"
    )


def model_class_names(path: Path) -> list[str] | None:
    """Return the class names in the header of a model file, without reading its weights; None for other files.

    >>> model_class_names(model_file())[:3]
    ['Sky', 'Building', 'Pole']
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, Any] = parse_json((file.metadata() or {})[MODEL_METADATA_KEY])
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    names = header.get("class_names")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
