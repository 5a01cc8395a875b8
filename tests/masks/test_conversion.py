"""Saved masks to other formats: the same bytes as from the run itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeVideo
from PIL import Image

from ccnet3d.cli.masks import main
from ccnet3d.errors import UserError
from ccnet3d.inference import RunOptions, VideoSegmenter, segment_video
from ccnet3d.masks import FORMATS, check_export, convert_masks, open_masks, select_classes, write_shares
from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.video import open_video

pytest.importorskip("cv2", reason="OpenCV is an optional extra")
pytest.importorskip("pycocotools", reason="pycocotools is an optional extra")

pytestmark = pytest.mark.usefixtures("one_thread")

WRITTEN = [name for name, one in FORMATS.items() if one.write]


def segment(source: Path, out: Path, segmenter: VideoSegmenter, options: RunOptions) -> None:
    with open_video(source) as reader:
        segment_video(reader, segmenter, out, options)


@pytest.mark.parametrize("classes", [(), ("Box", "ground")], ids=["all", "some"])
@pytest.mark.parametrize("images", [False, True], ids=["video", "images"])
def test_a_converted_file_equals_that_of_a_run(
    torn_model: CCNet3D,
    tiny_info: ModelInfo,
    make_video: MakeVideo,
    tmp_path: Path,
    classes: tuple[str, ...],
    images: bool,
) -> None:
    source = make_video(frames=3)
    if images:
        source = tmp_path / "drive"
        source.mkdir()
        for number, frame in enumerate(open_video(tmp_path / "clip.mp4")):
            Image.fromarray(frame.image).save(source / f"shot {number}.png")
    segmenter = VideoSegmenter(torn_model, tiny_info)
    table = tmp_path / "run.csv"
    segment(source, tmp_path / "png", segmenter, RunOptions(class_names=classes, shares=table))
    masks = open_masks(tmp_path / "png")
    assert masks.image_names == (("shot 0.png", "shot 1.png", "shot 2.png") if images else None)
    for name in WRITTEN:
        run, path = tmp_path / name, tmp_path / f"converted-{name}"
        segment(source, run, segmenter, RunOptions(format=name, class_names=classes))
        convert_masks(masks, path, name)
        assert path.read_bytes() == FORMATS[name].path(run).read_bytes(), name
    write_shares(masks, tmp_path / "shares.csv")
    assert (tmp_path / "shares.csv").read_bytes() == table.read_bytes()
    assert masks.class_ids == ((0, 1) if classes else (0, 1, 2))


def test_some_classes_of_masks(
    torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, tmp_path: Path
) -> None:
    """As a run with --classes writes them, for masks of all classes."""
    video, segmenter = make_video(frames=2), VideoSegmenter(torn_model, tiny_info)
    segment(video, tmp_path / "all", segmenter, RunOptions())
    masks = open_masks(tmp_path / "all")
    for name in WRITTEN:
        run, path = tmp_path / name, tmp_path / f"converted-{name}"
        segment(video, run, segmenter, RunOptions(format=name, class_names=["rail"]))
        convert_masks(masks, path, name, ["Rail"])
        assert path.read_bytes() == FORMATS[name].path(run).read_bytes(), name
    write_shares(masks, tmp_path / "shares.csv", ["rail"])
    with (tmp_path / "shares.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["frame", "seconds", "rail"]
    for row, (index, mask) in zip(rows, masks, strict=True):
        assert int(row[0]) == index
        assert float(row[2]) == pytest.approx((mask == 2).mean())
    assert select_classes(masks).shown == (0, 1, 2)
    with pytest.raises(UserError, match="the masks have no class 'tree'; they have ground, box, rail"):
        convert_masks(masks, tmp_path / "x.npz", "npz", ["tree"])
    with pytest.raises(UserError, match="cannot convert masks to 'png'; known are npz, ffv1, cvat"):
        convert_masks(masks, tmp_path / "x", "png")


def test_videos_of_saved_masks_equal_those_of_a_run(
    torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, tmp_path: Path, capsys
) -> None:
    video, segmenter = make_video(frames=5, width=70), VideoSegmenter(torn_model, tiny_info)
    options = RunOptions(class_names=["box"], overlay=tmp_path / "a.mp4", alpha=tmp_path / "a.mov", opacity=0.7)
    segment(video, tmp_path / "some", segmenter, options)
    segment(video, tmp_path / "all", segmenter, RunOptions())
    common = ["--video", str(video), "--alpha", str(tmp_path / "b.mov"), "--overlay", str(tmp_path / "b.mp4")]
    for masks in ("some", "all"):
        options = [*common, "--opacity", "0.7", "--classes", "box", "--overwrite", "-q"]
        assert main([str(tmp_path / masks), *options]) == 0
        for suffix in (".mp4", ".mov"):
            assert (tmp_path / f"b{suffix}").read_bytes() == (tmp_path / f"a{suffix}").read_bytes()
    before = (tmp_path / "b.mov").read_bytes()
    assert main([str(tmp_path / "all"), *common, "--overwrite"]) == 2
    assert "a video with alpha shows some classes; name them" in capsys.readouterr().err
    other = make_video("other.mp4", frames=3, width=70)
    assert main([str(tmp_path / "all"), "--video", str(other), *options[2:]]) == 2
    assert "other.mp4 gave 3 frames and no frame 3" in capsys.readouterr().err
    assert main([str(tmp_path / "some"), *common, "--overwrite", "--alpha", str(tmp_path / "a.mov")]) == 2
    assert "a.mov is a file of the run in" in capsys.readouterr().err
    assert (tmp_path / "b.mov").read_bytes() == before


def test_masks_that_a_file_cannot_hold(tiny_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path) -> None:
    source, out = tmp_path / "photos", tmp_path / "masks"
    source.mkdir()
    for number, size in enumerate([(40, 30), (30, 40)]):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(source / f"{number}.png")
    segment(source, out, VideoSegmenter(tiny_model, tiny_info), RunOptions())
    with pytest.raises(UserError, match="the mask of frame 1 is 40x30, the first is 30x40, and the format stores one"):
        convert_masks(open_masks(out), tmp_path / "x.npz", "npz")
    assert not list(tmp_path.glob("*x.npz*"))
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps({**summary, "image_names": ["0.png"]}))
    with pytest.raises(UserError, match="1 names of images for 2 masks"):
        open_masks(out)
    del summary["image_names"]
    (out / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="of an earlier version, which did not record the names of its images"):
        convert_masks(open_masks(out), tmp_path / "x.zip", "cvat")


def test_files_that_are_not_replaced(
    tiny_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    segment(make_video(frames=1), out, VideoSegmenter(tiny_model, tiny_info), RunOptions(format="npz"))
    masks = open_masks(out)
    mine = tmp_path / "mine.npz"
    check_export(masks, mine, overwrite=False, suffix=".npz")
    mine.write_text("mine")
    with pytest.raises(UserError, match="exists; give another name, or --overwrite to replace it"):
        check_export(masks, mine, overwrite=False)
    check_export(masks, mine, overwrite=True)
    with pytest.raises(UserError, match="must end in .json, got"):
        check_export(masks, mine, overwrite=True, suffix=".json")
    with pytest.raises(UserError, match="is a file of the run in"):
        check_export(masks, out / "masks.npz", overwrite=True)
    (tmp_path / "link.npz").symlink_to(mine)
    with pytest.raises(UserError, match="is a link, which is not replaced"):
        check_export(masks, tmp_path / "link.npz", overwrite=True)
    with pytest.raises(UserError, match="is a folder, which is not replaced"):
        check_export(masks, out, overwrite=True)
