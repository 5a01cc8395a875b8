from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeVideo, draw_scene
from PIL import Image

from ccnet3d.cli.view import main


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Masks of the first three frames that ``make_video`` writes, as a run writes them."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(3):
        image = Image.fromarray(draw_scene(number)[1])
        image.putpalette([0] * 768)
        image.save(folder / f"{number:06d}.png")
    classes = [{"id": i, "name": name, "color": [i, 0, 0]} for i, name in enumerate(("ground", "box", "rail"))]
    summary = {"frames": 3, "width": 64, "height": 48, "frames_per_second": None, "classes": classes}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_page(masks: Path, make_video: MakeVideo, tmp_path: Path, capsys) -> None:
    page = tmp_path / "new" / "view.html"
    arguments = [str(masks), str(make_video(frames=3)), "-o", str(page)]
    assert main([*arguments, "--title", "A <walk>", "--width", "32", "--max-frames", "2", "--quality", "50"]) == 0
    assert capsys.readouterr().out == f"2 of 3 masks as pictures in {page} (0.0 MB)\n"
    text = page.read_text()
    assert "<title>A &lt;walk&gt;</title>" in text
    assert text.count('id="frame-') == 2
    assert [path.name for path in page.parent.iterdir()] == ["view.html"]


def test_page_is_replaced_only_on_request(masks: Path, make_video: MakeVideo, tmp_path: Path, capsys) -> None:
    page = tmp_path / "view.html"
    page.write_text("mine")
    arguments = [str(masks), str(make_video(frames=3)), "-o", str(page), "-q"]
    assert main(arguments) == 2
    assert "view.html exists; give the page another name, or --overwrite" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert capsys.readouterr().out == ""
    assert "<title>clip.mp4</title>" in page.read_text()


def test_unreadable_input(masks: Path, make_video: MakeVideo, tmp_path: Path, capsys) -> None:
    video, out = make_video(frames=2), ["-o", str(tmp_path / "view.html")]
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    for given, message in (
        ([tmp_path / "nothing", video], "there is no folder"),
        ([tmp_path, video], "contains no summary.json; give the output folder of ccnet3d-infer"),
        ([masks, empty], "is empty"),
        ([masks, video], "gave 2 frames and no frame 2"),
        ([masks, tmp_path / "nothing.mp4"], "nothing.mp4"),
    ):
        assert main([*map(str, given), *out]) == 2
        error = capsys.readouterr().err
        assert error.startswith("ccnet3d-view: error: ")
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "view.html").exists()


@pytest.mark.parametrize("option", [["--width", "0"], ["--max-frames", "x"], ["--quality", "-1"], []])
def test_bad_options(option: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["masks", "video.mp4", *(["-o", "x.html"] if option else []), *option])
    assert exit_info.value.code == 2


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "ccnet3d.cli.view"]
    run = subprocess.run([*command, "no", "no.mp4", "-o", "x.html"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "ccnet3d-view: error: there is no folder no; give the output folder of ccnet3d-infer\n"
