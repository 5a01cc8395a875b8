from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeVideo
from PIL import Image

from ccnet3d.cli.infer import main
from ccnet3d.masks import paint
from ccnet3d.models import ModelInfo
from ccnet3d.video import open_video


def test_one_mask_per_frame(
    make_video: MakeVideo, tiny_checkpoint: Path, tiny_info: ModelInfo, tmp_path: Path, capsys
) -> None:
    video, out, overlay = make_video(frames=7, height=50, width=66), tmp_path / "masks", tmp_path / "over.mp4"
    arguments = [str(video), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "--overlay", str(overlay)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"7 masks of 66x50 in {out}\n"
    names = [f"{number:06d}.png" for number in range(7)]
    assert sorted(path.name for path in out.iterdir()) == [*names, "summary.json"]
    counts = np.zeros(3)
    painted = list(open_video(overlay))
    frames = list(open_video(video))
    assert len(painted) == 7
    for frame, shown, name in zip(frames, painted, names, strict=True):
        with Image.open(out / name) as mask:
            assert (mask.mode, mask.size) == ("P", (66, 50))
            assert mask.getpalette()[:9] == [90, 140, 60, 200, 40, 40, 40, 40, 220]
            ids = np.array(mask)
        counts += np.bincount(ids.ravel(), minlength=3)
        expected = 0.5 * frame.image + 0.5 * np.array(tiny_info.palette)[ids]
        assert np.abs(paint(frame.image, ids, tiny_info.palette) - expected).max() <= 0.5
        assert np.abs(shown.image - expected).mean() < 10
        assert shown.pts_seconds == pytest.approx(frame.pts_seconds, abs=1e-3)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["width"], summary["height"]) == (7, 66, 50)
    assert summary["frames_per_second"] == pytest.approx(10)
    assert summary["pts_seconds"] == pytest.approx([n / 10 for n in range(7)], abs=1e-3)
    assert [c["name"] for c in summary["classes"]] == ["ground", "box", "rail"]
    assert [c["pixel_share"] for c in summary["classes"]] == pytest.approx(list(counts / counts.sum()))
    assert (summary["settings"]["clip_length"], summary["settings"]["input_size"]) == (3, [32, 48])


def test_earlier_masks_are_refused_or_replaced(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "masks"
    common = ["-o", str(out), "--checkpoint", str(tiny_checkpoint), "-q"]
    assert main([str(make_video("a.mp4", frames=5)), *common]) == 0
    (out / "notes.txt").write_text("mine")
    shorter = str(make_video("b.mp4", frames=2))
    assert main([shorter, *common, "--overlay", str(tmp_path / "over.mp4")]) == 2
    assert list(tmp_path.glob("*over*")) == []
    assert "contains the masks of an earlier run" in capsys.readouterr().err
    assert len(list(out.glob("*.png"))) == 5
    assert main([shorter, *common, "--overwrite"]) == 0
    assert len(list(out.glob("*.png"))) == 2
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file"), (b"", "is empty"), (b"no video\n" * 99, "cannot be read as a video")],
)
def test_bad_video_is_one_line_and_exit_code_2(tmp_path: Path, tiny_checkpoint: Path, content, message: str) -> None:
    video, out, overlay = tmp_path / "video.mp4", tmp_path / "masks", tmp_path / "over.mp4"
    if content is not None:
        video.write_bytes(content)
    command = [sys.executable, "-m", "ccnet3d.cli.infer", str(video), "-o", str(out), "--overlay", str(overlay)]
    run = subprocess.run([*command, "--checkpoint", str(tiny_checkpoint)], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("ccnet3d-infer: error: ")
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert not out.exists()
    assert not overlay.exists()


def test_bad_arguments(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    out = ["-o", str(tmp_path / "masks")]
    checkpoint = ["--checkpoint", str(tiny_checkpoint)]
    video = str(make_video())
    assert main(out) == 2
    assert "give a video file, or --sample" in capsys.readouterr().err
    assert main([video, "--sample", *out]) == 2
    assert main([video, *out, "--checkpoint", video]) == 2
    assert "is not a ccnet3d model file" in capsys.readouterr().err
    assert main([video, *out, *checkpoint, "--overlay", str(tmp_path / "over.avi")]) == 2
    assert "must be an .mp4 file" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()
    assert main([video, *out, *checkpoint, "--device", "abacus"]) == 2
    assert "the device 'abacus' cannot be used here" in capsys.readouterr().err
    assert main([video, *out, *checkpoint, "--device", "meta"]) == 2  # it has no data
    assert "the device 'meta' cannot be used here" in capsys.readouterr().err
    assert main([video, *out, *checkpoint, "--classes", " ,"]) == 2
    assert "--classes must be names of classes, such as Car,Pedestrian, got ' ,'" in capsys.readouterr().err
    assert main(["https://example.org/a.mp4", *out, *checkpoint]) == 2
    assert "https://example.org/a.mp4 is a URL; give a file, or pipe it: ffmpeg -i URL" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("")
    assert main([video, "-o", str(file / "masks"), *checkpoint]) == 2
    assert "cannot use the output folder" in capsys.readouterr().err
    for option in (["--input-size", "360"], ["--input-size", "0x4"], ["--clip-length", "0"], ["--threads", "x"]):
        with pytest.raises(SystemExit) as exit_info:
            main([video, *out, *option])
        assert exit_info.value.code == 2


def test_overlay_replaces_nothing_without_overwrite(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    video = make_video(frames=2)
    before = video.read_bytes()
    common = [str(video), "-o", str(tmp_path / "masks"), "--checkpoint", str(tiny_checkpoint)]
    assert main([*common, "--overlay", str(video), "--overwrite"]) == 2
    assert "would replace the video itself" in capsys.readouterr().err
    assert video.read_bytes() == before
    (tmp_path / "other.mp4").write_bytes(b"mine")
    assert main([*common, "--overlay", str(tmp_path / "other.mp4")]) == 2
    assert "other.mp4 exists" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()
    assert main([*common, "--overlay", str(tmp_path / "other.mp4"), "--overwrite"]) == 2  # no run wrote it
    assert "other.mp4 exists, and is a file that ccnet3d did not write" in capsys.readouterr().err
    assert (tmp_path / "other.mp4").read_bytes() == b"mine"
    assert not (tmp_path / "masks").exists()
    own = [*common, "--overlay", str(tmp_path / "new" / "own.mp4")]
    assert main(own) == 0
    assert main(own) == 2
    assert main([*own, "--overwrite"]) == 0


def test_images_of_the_user_are_not_earlier_masks(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "masks" / "000000_own.png"
    numbered = tmp_path / "masks" / "000009.png"
    own.parent.mkdir()
    for path in (own, numbered):
        Image.new("RGB", (3, 3)).save(path)
    out = ["-o", str(own.parent), "--checkpoint", str(tiny_checkpoint), "-q", "--overwrite"]
    assert main([str(make_video(frames=2)), *out]) == 0
    assert sorted(p.name for p in own.parent.glob("*.png")) == [
        "000000.png",
        "000000_own.png",
        "000001.png",
        "000009.png",
    ]


def test_sample_with_the_default_weights(tmp_path: Path, capsys) -> None:
    out = tmp_path / "masks"
    assert main(["--sample", "-o", str(out), "--input-size", "90x120"]) == 0
    first, *advice = capsys.readouterr().out.splitlines()
    assert first == f"45 masks of 480x360 in {out} from a drawn clip"
    assert advice[0] == f"the overlay is {out / 'overlay.mp4'}"
    assert f"open {out / 'view.html'} in a browser" in advice[2]
    assert len(list(out.glob("*.png"))) == 45
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["input_size"] == [90, 120]
    assert summary["video"] == "sample.mp4"
    with open_video(out / "overlay.mp4") as overlay:
        assert len(overlay) == 45
    page = (out / "view.html").read_text()
    assert "A drawn street" in page
    assert "Bicyclist" in page


def test_the_sample_is_made_again_and_replaces_only_its_own_files(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("ccnet3d.video.sample.SAMPLE_FRAMES", 2)
    out = tmp_path / "masks"
    command = ["--sample", "-o", str(out), "--input-size", "32x48"]
    assert main([*command, "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(command) == 2
    assert "contains the masks of an earlier run" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "view.html").write_text("mine")
    assert main(["--sample", "-o", str(tmp_path / "other")]) == 2
    assert "view.html exists, and is a file that ccnet3d did not write" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["view.html"]
    assert (tmp_path / "other" / "view.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "Car,Cat"], "the model has no class 'Cat'; it has Sky, Building"),
        (["--start", "soon"], "expected a frame index such as 250"),
        (["--end", "-1"], "expected a frame index"),
        (["--checkpoint", "nowhere.safetensors"], "there is no model file at nowhere.safetensors"),
        (["--overlay", "over.avi"], "must be an .mp4 file"),
        (["--overlay", "video.mp4"], "would replace the video itself"),
        (["-o", "file/masks"], "cannot use the output folder file/masks"),
        (["-o", "earlier"], "contains the masks of an earlier run"),
        (["-o", "foreign", "--format", "npz"], "masks.npz exists, and is a file that ccnet3d did not write"),
        (["--shard", "2/2"], "the shards of 2 are"),
        (["--stream", "7"], "stream"),
    ],
)
def test_errors_that_need_no_model_come_before_torch_is_imported(
    make_video: MakeVideo, tmp_path: Path, options: list[str], message: str
) -> None:
    make_video("video.mp4", frames=2)
    (tmp_path / "file").write_text("")
    for folder, name, text in (("earlier", "summary.json", '{"frames": 0}'), ("foreign", "masks.npz", "mine")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    code = "import sys; sys.modules['torch'] = None; from ccnet3d.cli.infer import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "video.mp4", "-o", "masks", *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run.stderr
    assert message in run.stderr
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
