"""A still image: ``photo.jpg`` becomes ``photo.png``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_scene
from PIL import Image

from ccnet3d.cli.infer import main
from ccnet3d.cli.view import main as view
from ccnet3d.errors import UserError
from ccnet3d.masks import FORMATS, RunFolder, open_masks


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command in a folder with the photo, on it by default."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_scene(3)[0]).save("photo.jpg", quality=95)

    def call(*arguments: str) -> int:
        names = () if arguments and arguments[0].endswith((".png", ".jpg")) else ("photo.jpg",)
        return main([*names, *arguments, "--checkpoint", str(tiny_checkpoint), "-q"])

    return call


def names_in(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_the_mask_has_the_name_and_the_pixels_of_the_photo(run) -> None:
    assert run("-o", "masks") == 0
    assert names_in("masks") == ["photo.png", "summary.json"]
    summary = json.loads(Path("masks/summary.json").read_text())
    assert summary["mask_files"] == ["photo.png"]
    assert summary["image_names"] == ["photo.jpg"]
    # A folder with this image alone is the independent way to the same mask.
    Path("folder").mkdir()
    Path("photo.jpg").rename("folder/photo.jpg")
    assert main(["folder", "-o", "numbered", "--checkpoint", "tiny.safetensors", "-q"]) == 0
    assert names_in("numbered") == ["000000.png", "summary.json"]
    assert Path("numbered/000000.png").read_bytes() == Path("masks/photo.png").read_bytes()
    (index, mask), *others = open_masks("masks")
    assert (index, others) == (0, [])
    np.testing.assert_array_equal(mask, np.asarray(Image.open("masks/photo.png")))


def test_the_viewer_and_other_formats_know_stills(run) -> None:
    assert run("-o", "masks") == 0
    assert view(["masks", "photo.jpg", "-o", "page.html", "-q"]) == 0
    assert run("-o", "array", "--format", "npz") == 0
    assert names_in("array") == ["masks.npz", "summary.json"]
    (_, from_array), (_, from_png) = *open_masks("array"), *open_masks("masks")
    np.testing.assert_array_equal(from_array, from_png)


def test_rules_of_output_folders_hold(run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", "masks") == 0
    Path("masks/mine.png").write_bytes(b"mine")
    Path("masks/000000.png").write_bytes(b"mine too")
    assert run("-o", "masks") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run("-o", "masks", "--resume") == 0
    Image.fromarray(draw_scene(4)[0]).save("other.png")
    assert run("other.png", "-o", "masks", "--overwrite") == 0
    assert names_in("masks") == ["000000.png", "mine.png", "other.png", "summary.json"]
    assert Path("masks/mine.png").read_bytes() == b"mine"
    assert Path("masks/000000.png").read_bytes() == b"mine too"
    capsys.readouterr()
    assert run("-o", "new", "--start", "1") == 2  # a still has frame 0 only
    assert not Path("new").exists()


def test_a_mask_never_replaces_the_image_or_a_file_of_the_user(run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("masks").mkdir()
    Path("masks/photo.png").write_bytes(b"mine")
    assert run("-o", "masks") == 2
    assert run("-o", "masks", "--overwrite") == 2
    assert "ccnet3d did not write" in capsys.readouterr().err
    assert Path("masks/photo.png").read_bytes() == b"mine"
    assert names_in("masks") == ["photo.png"]
    Image.open("photo.jpg").save("drawn.png")
    before = Path("drawn.png").read_bytes()
    assert run("drawn.png", "-o", ".") == 2
    assert run("drawn.png", "-o", ".", "--overwrite") == 2
    assert Path("drawn.png").read_bytes() == before
    assert not Path("summary.json").exists()
    assert run("-o", ".") == 0  # beside the photo
    assert Path("photo.png").exists()


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    run, settings = RunFolder(tmp_path / "masks", FORMATS["png"], "photo"), {"video": "photo.jpg"}
    assert run.begin(settings, resume=False, overwrite=False) == []
    mask = np.zeros((2, 3), np.uint8)
    run.write_mask(0, mask, [(0, 0, 0)])
    again = RunFolder(tmp_path / "masks", FORMATS["png"], "photo")
    assert again.begin(settings, resume=True, overwrite=False) == [0]
    np.testing.assert_array_equal(again.read_mask(0), mask)
    again = RunFolder(tmp_path / "masks", FORMATS["png"], "photo")
    assert again.begin(settings, resume=False, overwrite=True) == []
    assert not (tmp_path / "masks" / "photo.png").exists()


@pytest.mark.parametrize("name", ["../photo.png", "/etc/passwd", "..", "", "a/b.png"])
def test_a_summary_cannot_name_files_elsewhere(run, name: str) -> None:
    assert run("-o", "masks") == 0
    path = Path("masks/summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_files": [name]}))
    with pytest.raises(UserError, match="not a name in this folder"):
        open_masks("masks")
    before = Path("photo.jpg").read_bytes()
    assert run("-o", "masks", "--overwrite") == 2  # photo.png is named by no one now
    assert Path("photo.jpg").read_bytes() == before
    assert Path("masks/photo.png").exists()
