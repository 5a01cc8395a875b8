"""Videos with alpha and tables of shares as outputs of a run."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import MakeVideo

from ccnet3d.cli.infer import main
from ccnet3d.errors import UserError
from ccnet3d.inference import RunOptions, VideoSegmenter, plan_jobs, segment_video
from ccnet3d.masks import open_masks
from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.video import open_video

pytestmark = pytest.mark.usefixtures("one_thread")


def segment(video: Path, segmenter: VideoSegmenter, root: Path, stop_at: int | None = None, **options: Any) -> None:
    files = {"overlay": root / "over.mp4", "alpha": root / "cut.mov", "shares": root / "shares.csv"}

    def on_frame(event: dict[str, Any]) -> None:
        if event["frame"] == stop_at:
            raise KeyboardInterrupt

    with open_video(video) as reader:
        segment_video(
            reader,
            segmenter,
            root / "masks",
            RunOptions(class_names=["box", "rail"], **files, **options),
            on_frame=on_frame,
        )


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files_show_the_masks_and_a_resumed_run_writes_the_same(
    torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, tmp_path: Path
) -> None:
    video, segmenter = make_video(frames=7, height=50, width=66), VideoSegmenter(torn_model, tiny_info)
    segment(video, segmenter, tmp_path / "a")
    masks = dict(open_masks(tmp_path / "a" / "masks"))
    with av.open(str(tmp_path / "a" / "cut.mov")) as container:
        visible = [frame.reformat(format="yuva444p").planes[3] for frame in container.decode(video=0)]
        alphas = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width] for plane in visible]
    assert len(alphas) == 7
    for alpha, mask in zip(alphas, masks.values(), strict=True):
        np.testing.assert_array_equal(alpha > 127, mask != 255)
    with (tmp_path / "a" / "shares.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["frame", "seconds", "box", "rail"]
    for row, (index, mask) in zip(rows, masks.items(), strict=True):
        assert int(row[0]) == index
        assert [float(cell) for cell in row[1:]] == pytest.approx(
            [index / 10, (mask == 1).mean(), (mask == 2).mean()], abs=1e-6
        )
    summary = open_masks(tmp_path / "a" / "masks").summary
    assert (summary["alpha_file"], summary["shares_file"]) == ("../cut.mov", "../shares.csv")

    with pytest.raises(KeyboardInterrupt):
        segment(video, segmenter, tmp_path / "b", stop_at=4)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["masks"]  # no half of a file
    segment(video, segmenter, tmp_path / "b", resume=True)
    assert tree(tmp_path / "b") == tree(tmp_path / "a")
    segment(video, segmenter, tmp_path / "b", resume=True)  # a complete one is left alone
    (tmp_path / "b" / "shares.csv").unlink()
    with pytest.raises(UserError, match=r"the run in .* is complete, but .*shares.csv is missing; give --overwrite"):
        segment(video, segmenter, tmp_path / "b", resume=True)
    segment(video, segmenter, tmp_path / "b", overwrite=True)
    assert tree(tmp_path / "b") == tree(tmp_path / "a")


def test_files_of_others_are_not_replaced(
    tiny_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, tmp_path: Path
) -> None:
    video, segmenter = make_video(frames=2), VideoSegmenter(tiny_model, tiny_info)
    for name in ("cut.mov", "shares.csv"):
        root = tmp_path / name.replace(".", "_")
        root.mkdir()
        (root / name).write_text("mine")
        for options in ({}, {"overwrite": True}):
            with pytest.raises(UserError, match=f"{name} exists, and is a file that ccnet3d did not write there"):
                segment(video, segmenter, root, **options)
        assert tree(root) == {name: b"mine"}


def test_bad_options(tiny_checkpoint: Path, make_video: MakeVideo, tmp_path: Path, capsys) -> None:
    video, moved = make_video(frames=1), tmp_path / "drive.mov"
    shutil.copy(video, moved)
    common = ["-o", str(tmp_path / "masks"), "--checkpoint", str(tiny_checkpoint)]
    before = sorted(tmp_path.iterdir())
    for source, options, message in (
        (video, ["--alpha", "cut.webm"], "a video with alpha shows some classes; name them, as in --classes Car"),
        (video, ["--alpha", "cut.avi", "--classes", "box"], "must be a .webm (VP9) or .mov (ProRes 4444) file, got"),
        (video, ["--shares", "shares.txt"], "must be a .csv or .parquet file, got shares.txt"),
        (moved, ["--alpha", str(moved), "--classes", "box"], "would replace the video itself; give it another name"),
    ):
        assert main([str(source), *common, *options]) == 2
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before


def test_several_videos_have_a_folder_of_each(tmp_path: Path) -> None:
    jobs = plan_jobs(["a.mp4", "b.mkv"], Path("out"), alpha=tmp_path / "cut", shares=tmp_path / "shares")
    assert [(job.overlay, job.alpha, job.shares) for job in jobs] == [
        (None, tmp_path / "cut" / f"{name}.webm", tmp_path / "shares" / f"{name}.csv") for name in "ab"
    ]
    with pytest.raises(UserError, match="with several videos --shares names a folder, got the file x.parquet"):
        plan_jobs(["a.mp4", "b.mkv"], Path("out"), shares=Path("x.parquet"))
