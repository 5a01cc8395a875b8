from __future__ import annotations

import io
import json
import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import Commands
from conftest import MakeVideo, draw_scene
from PIL import Image
from video.corpus import skip_without, two_streams

from ccnet3d.cli.infer import main
from ccnet3d.cli.view import main as view
from ccnet3d.masks import open_masks


@pytest.fixture
def infer(tiny_checkpoint: Path):
    """Run the command with the tiny model, expecting success."""

    def run(*arguments: object, code: int = 0) -> None:
        assert main([*map(str, arguments), "--checkpoint", str(tiny_checkpoint)]) == code

    return run


def pngs(folder: Path) -> dict[int, np.ndarray]:
    return {int(path.stem): np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal_masks(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> None:
    assert list(a) == list(b)
    assert all(np.array_equal(a[number], b[number]) for number in a)


def test_every_format_contains_the_same_masks(make_video: MakeVideo, infer, tmp_path: Path) -> None:
    video = make_video(frames=9, height=49, width=63, codec="ffv1", name="odd.mkv")
    infer(video, "-o", tmp_path / "png")
    expected = pngs(tmp_path / "png")
    assert len(expected) == 9
    for name in ("npz", "ffv1"):
        infer(video, "-o", tmp_path / name, "--format", name)
        assert_equal_masks(dict(open_masks(tmp_path / name)), expected)
    assert sorted(path.name for path in (tmp_path / "npz").iterdir()) == ["masks.npz", "summary.json"]
    with np.load(tmp_path / "npz" / "masks.npz", allow_pickle=False) as arrays:
        assert arrays["frames"].tolist() == list(range(9))
        assert np.array_equal(arrays["masks"], np.stack(list(expected.values())))
    infer(video, "-o", tmp_path / "cvat", "--format", "cvat")
    with zipfile.ZipFile(tmp_path / "cvat" / "cvat.zip") as archive:
        colors = np.array(Image.open(io.BytesIO(archive.read("SegmentationClass/frame_000004.png"))))
    assert np.array_equal(colors, np.array([[90, 140, 60], [200, 40, 40], [40, 40, 220]])[expected[4]])


def test_only_some_classes(make_video: MakeVideo, infer, tmp_path: Path, capsys) -> None:
    video = make_video(frames=4)
    infer(video, "-o", tmp_path / "all")
    infer(video, "-o", tmp_path / "some", "--classes", "rail, Ground", "--overlay", tmp_path / "over.mp4")
    everything = pngs(tmp_path / "all")
    assert_equal_masks(pngs(tmp_path / "some"), {n: np.where(m == 1, 255, m) for n, m in everything.items()})
    summary = json.loads((tmp_path / "some" / "summary.json").read_text())
    assert [c["name"] for c in summary["classes"]] == ["ground", "rail"]
    shares = [np.mean([m == c["id"] for m in everything.values()]) for c in summary["classes"]]
    assert [c["pixel_share"] for c in summary["classes"]] == pytest.approx(shares)
    infer(video, "-o", tmp_path / "none", "--classes", "sky", code=2)
    assert "the model has no class 'sky'; it has ground, box, rail" in capsys.readouterr().err


def test_probabilities(make_video: MakeVideo, infer, tmp_path: Path) -> None:
    infer(make_video(frames=4), "-o", tmp_path / "masks", "--save-probabilities")
    for number in range(4):
        with np.load(tmp_path / "masks" / "probabilities" / f"{number:06d}.npz", allow_pickle=False) as arrays:
            shares = arrays["probabilities"]
        assert (shares.dtype, shares.shape) == (np.dtype(np.uint8), (3, 16, 24))  # stride 2 of 32x48
        assert np.abs(shares.sum(0, dtype=int) - 255).max() <= 2  # each of three is rounded


def test_selected_frames(make_video: MakeVideo, infer, tmp_path: Path, capsys) -> None:
    video = make_video(frames=20)  # 10 per second
    infer(video, "-o", tmp_path / "a", "--start", "0.5s", "--end", 15, "--frame-stride", 3)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert list(pngs(tmp_path / "a")) == summary["frame_numbers"] == [5, 8, 11, 14]
    assert summary["pts_seconds"] == pytest.approx([0.5, 0.8, 1.1, 1.4])
    assert summary["frames"] == 4
    infer(video, "-o", tmp_path / "b", "--start", "1:00", code=2)
    assert "no frame lies from 60.0 on" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    for wrong, message in [
        (["--start", "soon"], "expected a frame index such as 250, or a time"),
        (["--frame-stride", "0"], "the frame stride must be at least 1, got 0"),
        (["--manifest", "x.csv", "--shares", "./x.csv"], "--manifest and --shares are both x.csv"),
        (["--retries", "3"], "--retries is an option of --engine ray; give --engine ray, too"),
        (["--shard", "3"], "expected a shard as I/N, such as 0/4, got '3'"),
        (["--shard", "4/4"], "the shards of 4 are 0/4 to 3/4, got 4/4"),
    ]:
        infer(video, "-o", tmp_path / "b", *wrong, code=2)
        assert message in capsys.readouterr().err


def test_folder_of_images_is_a_video(infer, tmp_path: Path) -> None:
    for number in range(11):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(draw_scene(number)[0]).save(tmp_path / "frames" / f"img{number}.png")
    infer(tmp_path / "frames", "-o", tmp_path / "folder")
    infer(tmp_path / "frames" / "img*.png", "-o", tmp_path / "pattern")
    masks = pngs(tmp_path / "folder")
    assert list(masks) == list(range(11))
    assert_equal_masks(pngs(tmp_path / "pattern"), masks)
    summary = json.loads((tmp_path / "folder" / "summary.json").read_text())
    assert summary["pts_seconds"] == [None] * 11
    assert summary["settings"]["smoothing"] == 0  # how close in time they are is unknown


def test_smoothing_where_frames_are_close_in_time(make_video: MakeVideo, infer, tmp_path: Path) -> None:
    video = make_video(frames=4)  # 10 per second
    for name, options, smoothing in [
        ("close", [], 1),
        ("apart", ["--frame-stride", "2"], 0),
        ("none", ["--smooth", "0"], 0),
        ("explicit", ["--frame-stride", "2", "--smooth", "3"], 3),
    ]:
        infer(video, "-o", tmp_path / name, *options)
        assert json.loads((tmp_path / name / "summary.json").read_text())["settings"]["smoothing"] == smoothing


def test_several_videos_and_their_shards(make_video: MakeVideo, infer, tmp_path: Path, capsys) -> None:
    for name in ("a.mp4", "b.mp4", "b.mkv", "c.mp4"):
        make_video(f"videos_{name}", frames=3 + len(name))
    (tmp_path / "videos").mkdir()
    for path in tmp_path.glob("videos_*"):
        path.rename(tmp_path / "videos" / path.name.removeprefix("videos_"))
    infer(tmp_path / "videos", "-o", tmp_path / "whole", "--overlay", tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert {name.split("/")[0] for name in expected if "/" in name} == {"a", "b.mp4", "b.mkv", "c"}
    assert {name for name in expected if "/" not in name} == {"a.mp4", "b.mp4.mp4", "b.mkv.mp4", "c.mp4"}
    for shard in range(3):
        infer(
            tmp_path / "videos", "-o", tmp_path / "sharded", "--overlay", tmp_path / "sharded", "--shard", f"{shard}/3"
        )
    assert files(tmp_path / "sharded") == expected
    # A video alone has the same masks, and a broken one stops no other.
    infer(tmp_path / "videos" / "c.mp4", "-o", tmp_path / "c")
    assert_equal_masks(pngs(tmp_path / "c"), pngs(tmp_path / "whole" / "c"))
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video" * 100)
    capsys.readouterr()
    infer(tmp_path / "videos", "-o", tmp_path / "rest", "-q", code=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "a.mp4 cannot be read as a video" in lines[0]
    assert lines[1] == "ccnet3d-infer: error: 1 of 4 videos failed; their errors are above"
    assert sorted(path.name for path in (tmp_path / "rest").iterdir()) == ["b.mkv", "b.mp4", "c"]
    infer(tmp_path / "videos", "-o", tmp_path / "x", "--overlay", tmp_path / "over.mp4", code=2)
    assert "with several videos --overlay names a folder, got the file" in capsys.readouterr().err


def test_json_lines(make_video: MakeVideo, infer, tmp_path: Path, capsys) -> None:
    video = make_video(frames=5)
    infer(video, "-o", tmp_path / "masks", "--json")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["frame"] * 5 + ["video"]
    for number, (event, mask) in enumerate(zip(events, pngs(tmp_path / "masks").values(), strict=False)):
        assert (event["frame"], event["video"]) == (number, str(video))
        assert event["pts_seconds"] == pytest.approx(number / 10)
        counts = {name: int((mask == i).sum()) for i, name in enumerate(["ground", "box", "rail"])}
        assert event["class_pixels"] == {name: count for name, count in counts.items() if count}
    assert events[-1]["summary"] == json.loads((tmp_path / "masks" / "summary.json").read_text())
    assert events[-1]["output"] == str(tmp_path / "masks")


def test_standard_input(
    make_video: MakeVideo, infer, commands: Commands, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    video = make_video("pipe.mkv", frames=5)
    infer(video, "-o", tmp_path / "file")
    common = ["--checkpoint", tiny_checkpoint, "-q"]
    run = commands.run("ccnet3d.cli.infer", "-", "-o", tmp_path / "pipe", *common, text=video.read_bytes())
    assert (run.returncode, run.stderr) == (0, "")
    assert_equal_masks(pngs(tmp_path / "pipe"), pngs(tmp_path / "file"))
    run = commands.run("ccnet3d.cli.infer", "-", "-o", tmp_path / "no", *common, text=b"")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_by_a_signal(
    make_video: MakeVideo, infer, commands: Commands, tiny_checkpoint: Path, tmp_path: Path, number: int, code: int
) -> None:
    video, out = make_video(frames=200), tmp_path / "masks"
    process = commands.start("ccnet3d.cli.infer", video, "-o", out, "--checkpoint", tiny_checkpoint)
    while len(list(out.glob("*.png"))) < 3:
        assert process.is_running()
        time.sleep(0.02)
    os.kill(process.pid, number)
    run = process.wait()
    assert run.returncode == code
    assert run.stderr == "ccnet3d-infer: interrupted; the masks so far are complete; continue with --resume\n"
    assert not (out / "summary.json").exists()
    assert list(out.glob("*.partial")) == list(out.glob(".*.partial")) == []
    infer(video, "-o", out, "--resume", "-q")
    infer(video, "-o", tmp_path / "whole", "-q")
    assert files(out) == files(tmp_path / "whole")


def test_missing_videos_among_several_are_an_error_at_once(
    make_video: MakeVideo, infer, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = make_video("b.mp4", frames=3)
    with monkeypatch.context() as patched:
        patched.setattr("ccnet3d.cli.infer.load_views", lambda _: pytest.fail("the model was loaded"))
        infer("a.mp4", video, "c.mp4", "-o", tmp_path / "masks", "-q", code=2)
    error = "there is no file a.mp4, c.mp4; give the path of a video or of a folder of images"
    assert capsys.readouterr().err == f"ccnet3d-infer: error: {error}\n"
    assert not (tmp_path / "masks").exists()
    table = tmp_path / "table.csv"  # which names the videos that fail
    infer("a.mp4", video, "-o", tmp_path / "masks", "-q", "--manifest", table, code=2)
    assert "a.mp4: there is no file a.mp4" in capsys.readouterr().err
    assert [line.split(",")[1] for line in table.read_text().splitlines()] == ["status", "failed", "done"]


def test_an_invalid_video_among_several_ends_only_itself(make_video: MakeVideo, infer, tmp_path: Path, capsys) -> None:
    videos = [make_video(f"{name}.mp4", frames=3) for name in "ab"]
    videos[0].write_bytes(b"")
    infer(*videos, "-o", tmp_path / "masks", "-q", code=2)
    assert f"{videos[0]} is empty" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--opacity", "0.7"], "--opacity is for the video of --overlay; add --overlay"),
        (["--timeout", "3"], "--timeout is for URLs and cameras, and there is none; leave it out"),
        (["--reconnect", "0"], "--reconnect is for URLs and cameras, and there is none; leave it out"),
        (["--actors", "2"], "--actors is an option of --engine ray"),
        (["--overlap", "0.5"], "--overlap is for the windows of --window"),
    ],
)
def test_options_without_effect_are_refused(
    make_video: MakeVideo, infer, tmp_path: Path, capsys, options: list[str], message: str
) -> None:
    infer(make_video(frames=2), "-o", tmp_path / "masks", *options, code=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_advice_after_ctrl_c_of_a_live_source_is_not_to_resume(
    tmp_path: Path, infer, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ccnet3d.cli.infer.load_views", interrupt)
    infer("rtsp://127.0.0.1:9/x", "-o", tmp_path / "masks", code=130)
    assert capsys.readouterr().err == "ccnet3d-infer: interrupted\n"


def test_stream(infer, tmp_path: Path, capsys) -> None:
    """The smaller of two streams, and a page of it; another stream does not continue the run."""
    video, out = tmp_path / "two.mkv", tmp_path / "masks"
    two_streams(video)
    infer(video, "-o", out, "--end", 2, "--stream", 0, "-q")
    assert capsys.readouterr().err == ""
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["width"], summary["height"], summary["settings"]["stream"]) == (128, 96, 0)
    infer(video, "-o", out, "--end", 2, "--resume", code=2)
    assert "stream" in capsys.readouterr().err
    assert view([str(out), str(video), "-o", str(tmp_path / "view.html"), "-q"]) == 0
    infer(video, "-o", tmp_path / "chosen", "--end", 2, "-q")
    assert "the file has 2 video streams, 0 (128x96), 1 (96x80), and stream 1 is read" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["decord", "torchcodec"])
def test_decoders_agree(make_video: MakeVideo, infer, tmp_path: Path, other: str) -> None:
    skip_without(other)
    video = make_video(frames=12)
    for decoder in ("av", other):
        infer(video, "-o", tmp_path / decoder, "--decoder", decoder)
    assert_equal_masks(pngs(tmp_path / other), pngs(tmp_path / "av"))
