from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from conftest import REPOSITORY

from ccnet3d import resources
from ccnet3d.errors import UserError
from ccnet3d.resources import ablation_file, dataset_file, pipelines_folder, recipe_file


def test_recipe_by_name_and_by_path(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("seed = 1")
    assert recipe_file("camvid_lite") == pipelines_folder() / "camvid_lite.toml"
    assert ablation_file("loops") == pipelines_folder() / "ablations" / "loops.toml"
    assert recipe_file(str(own)) == ablation_file(str(own)) == own


def test_file_has_precedence_over_a_recipe_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("camvid_lite").write_text("seed = 1")
    assert recipe_file("camvid_lite") == Path("camvid_lite")


def test_unknown_recipe() -> None:
    with pytest.raises(UserError, match=r"neither a file nor a recipe named nothing; give .*camvid_lite, "):
        recipe_file("nothing")
    with pytest.raises(UserError, match=r"neither a file nor an ablation named nothing; give .*clip_length, "):
        ablation_file("nothing")


def test_dataset_description() -> None:
    assert 'name = "camvid"' in dataset_file("camvid").read_text(encoding="utf-8")


def test_copy_in_the_wheel_has_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ccnet3d"
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert pipelines_folder() == tmp_path / "pipelines"
    (package / "_resources" / "pipelines").mkdir(parents=True)
    assert pipelines_folder() == package / "_resources" / "pipelines"


def test_wheel_contains_the_folders() -> None:
    """The build copies them to where the package looks for them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    copied = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert copied == {name: f"ccnet3d/_resources/{name}" for name in ("pipelines", "datasets")}
    assert all((REPOSITORY / name).is_dir() for name in copied)
