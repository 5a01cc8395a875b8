"""Runs whose frames lie in or around the output folder, or change before the run is resumed."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeVideo, draw_scene
from inference.test_resume import interrupt, tree
from masks.test_files_of_others import snapshot
from PIL import Image

from ccnet3d.cli.infer import main
from ccnet3d.errors import UserError
from ccnet3d.inference import RunOptions, VideoSegmenter, segment_video
from ccnet3d.inference.source_files import fingerprint_files
from ccnet3d.masks import FORMATS
from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.video import open_video


def draw(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_scene(number)[0]).save(folder / name)
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Photos that are named as masks are."""
    return draw(tmp_path / "fr", [f"{number:06d}.png" for number in range(3)])


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"], ["--resume"]])
@pytest.mark.parametrize(
    ("source", "out", "relation"),
    [
        ("fr", "fr", "is"),
        ("fr", "fr/../fr", "is"),
        ("fr", "link", "is"),
        ("link", "fr", "is"),
        ("fr", "fr/masks/new", "lies in"),
        ("fr", ".", "contains"),
        ("fr/*.png", "fr", "is"),
        ("fr/0000*.png", "fr/masks", "lies in"),
    ],
)
def test_an_output_folder_is_apart_from_the_images(
    frames: Path, tiny_checkpoint: Path, tmp_path: Path, capsys, overwrite: list[str], source: str, out: str, relation
) -> None:
    (tmp_path / "link").symlink_to(frames)
    before = snapshot(tmp_path)
    command = [str(tmp_path / source), "-o", str(tmp_path / out), "--checkpoint", str(tiny_checkpoint), *overwrite]
    assert main(command) == 2
    assert f" {relation} the folder of the images, " in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--resume"]])
def test_pictures_in_the_output_folder_are_refused(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys, mode: str, option: list[str]
) -> None:
    """Labels, say, that are named as masks are."""
    out = tmp_path / "labels"
    out.mkdir()
    Image.new(mode, (4, 3)).save(out / "000002.png")
    before = snapshot(tmp_path)
    video, over = str(make_video(frames=4)), str(tmp_path / "new" / "over.mp4")
    Path(video).rename(tmp_path.parent / f"{tmp_path.name}.mp4")
    video = str(tmp_path.parent / f"{tmp_path.name}.mp4")
    assert main([video, "-o", str(out), "--checkpoint", str(tiny_checkpoint), "--overlay", over, *option]) == 2
    assert "000002.png exists, and is a file that ccnet3d did not write there; move it" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_a_video_that_an_earlier_run_wrote_is_not_replaced_by_its_masks(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "masks"
    common = ["-o", str(out), "--checkpoint", str(tiny_checkpoint), "--format", "ffv1", "-q"]
    assert main([str(make_video(frames=2)), *common]) == 0
    before = tree(out)
    assert main([str(out / "masks.mkv"), *common, "--overwrite"]) == 2
    assert "has the name of an output in" in capsys.readouterr().err
    assert tree(out) == before


def test_resume_notices_other_frames(frames: Path, tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "masks"
    common = [str(frames), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "-q"]
    assert main(common) == 0
    expected = tree(out)

    def changed(change: Callable[[Path], object]) -> None:
        kept = tmp_path / "kept"
        shutil.copytree(frames, kept)
        change(frames)
        for complete in (True, False):
            if not complete:
                interrupt(out, 2)
            before = tree(out)
            assert main([*common, "--resume"]) == 2
            error = capsys.readouterr().err
            assert f"fr has changed since the run in {out} began; give the files of that run, or --overwrite" in error
            assert tree(out) == before
        shutil.rmtree(frames)
        shutil.copytree(kept, frames, copy_function=shutil.copyfile)  # a copy, with other times
        shutil.rmtree(kept)
        assert main([*common, "--resume"]) == 0
        assert tree(out) == expected

    def edit(folder: Path) -> None:
        data = bytearray((folder / "000001.png").read_bytes())
        data[-20] ^= 1
        (folder / "000001.png").write_bytes(data)

    changed(edit)
    changed(lambda folder: (folder / "000002.png").rename(folder / "000003.png"))
    changed(lambda folder: (folder / "000001.png").unlink())


def test_resume_notices_another_video_of_equal_size(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    video, out = make_video(frames=3), tmp_path / "masks"
    common = [str(video), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "-q"]
    assert main(common) == 0
    os.utime(video, (1, 1))
    assert main([*common, "--resume"]) == 0
    data = bytearray(video.read_bytes())
    data[-30] ^= 1  # within the description at the end
    video.write_bytes(data)
    assert main([*common, "--resume"]) == 2
    assert "clip.mp4 has changed since the run in" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    del summary["settings"]["source"]  # as earlier versions wrote it
    (out / "summary.json").write_text(json.dumps(summary))
    assert main([*common, "--resume"]) == 0


def test_fingerprints_read_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        (tmp_path / f"{number}.ppm").write_bytes(bytes([number]) * 200_000)
    read = []
    opened = Path.open

    def counted(path: Path, mode: str) -> object:
        read.append(path.name)
        return opened(path, mode)

    reader = open_video(tmp_path)
    monkeypatch.setattr(Path, "open", counted)
    first = fingerprint_files(reader.info)
    assert len(read) <= 32
    assert {read[0], read[-1]} == {"0.ppm", "99.ppm"}
    (tmp_path / "99.ppm").write_bytes(bytes([99]) * 199_999 + b"x")
    assert fingerprint_files(reader.info) != first


def test_images_keep_their_names(tiny_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path) -> None:
    segmenter = VideoSegmenter(tiny_model, tiny_info)
    folder = draw(tmp_path / "photos", ["b 10.png", "b 2.jpg", "ä.png", "z.png"])
    options = RunOptions(format="cvat")

    def names(source: Path | str, out: str, options: RunOptions) -> list[str]:
        with open_video(source) as reader:
            segment_video(reader, segmenter, tmp_path / out, options)
        with zipfile.ZipFile(tmp_path / out / "cvat.zip") as archive:
            listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
            stored = [name for name in archive.namelist() if name.startswith("SegmentationClass/")]
        assert stored == [f"SegmentationClass/{name}.png" for name in listed]
        return listed

    assert names(folder, "a", options) == ["b 2", "b 10", "z", "ä"]
    assert names(f"{folder}/*.png", "b", options) == ["b 10", "z", "ä"]
    draw(tmp_path / "many", ["left/1.png", "right/1.png"])
    assert names(f"{tmp_path}/many/*/*.png", "c", options) == ["left/1", "right/1"]
    with pytest.raises(
        UserError, match="identifies images by their names without extension, and 2 of these are named z"
    ):
        FORMATS["cvat"].check_images(["a.png", "z.png", "z.jpg"])
    pytest.importorskip("pycocotools")
    with open_video(folder) as reader:
        segment_video(reader, segmenter, tmp_path / "d", RunOptions(format="coco-rle"))
        images = json.loads((tmp_path / "d" / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["b 2.jpg", "b 10.png", "z.png", "ä.png"]


def test_a_file_that_appears_while_a_run_lasts_is_not_replaced(
    tiny_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, tmp_path: Path
) -> None:
    video, out, over = make_video(frames=30), tmp_path / "masks", tmp_path / "over.mp4"
    segmenter = VideoSegmenter(tiny_model, tiny_info)

    def plant(path: Path) -> Callable[[object], None]:
        return lambda _: None if path.exists() else (path.write_bytes(b"mine"), None)[1]

    for path, options in (
        (out / "000005.png", RunOptions()),
        (out / "summary.json", RunOptions()),
        (out / "masks.npz", RunOptions(format="npz")),
        (over, RunOptions(overlay=over)),
    ):
        with (
            open_video(video) as reader,
            pytest.raises(ValueError, match=f"{path.name} exists, and is a file that ccnet3d did not write there"),
        ):
            segment_video(reader, segmenter, out, options, on_frame=plant(path))
        assert path.read_bytes() == b"mine"
        path.unlink()
        with open_video(video) as reader:
            segment_video(reader, segmenter, out, RunOptions(**{**options.__dict__, "resume": True}))
        shutil.rmtree(out)
        over.unlink(missing_ok=True)


def test_a_second_run_is_told_that_the_first_one_works(
    tiny_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    video, out = make_video(frames=3), tmp_path / "masks"
    command = [str(video), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "-q"]
    codes = []

    def run_again(_: object) -> None:
        codes.extend(main([*command, *option]) for option in ([], ["--resume"], ["--overwrite"]))

    with open_video(video) as reader:
        summary = segment_video(reader, VideoSegmenter(tiny_model, tiny_info), out, on_frame=run_again)
    assert set(codes) == {2}
    assert set(capsys.readouterr().err.splitlines()) == {
        f"ccnet3d-infer: error: another run is writing to {out}; wait until it ends, or give another folder"
    }
    assert summary["frames"] == 3
    assert sorted(path.name for path in out.iterdir()) == ["000000.png", "000001.png", "000002.png", "summary.json"]


def test_pipes_have_no_fingerprint(make_video: MakeVideo) -> None:
    with make_video("clip.mkv", frames=2).open("rb") as stream, open_video(stream) as reader:
        assert fingerprint_files(reader.info) is None


def test_lost_images_shift_no_names(frames: Path, tiny_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path) -> None:
    (frames / "000001.png").write_bytes(b"no image")
    with open_video(frames) as reader:
        segment_video(reader, VideoSegmenter(tiny_model, tiny_info), tmp_path / "out", RunOptions(format="cvat"))
    with zipfile.ZipFile(tmp_path / "out" / "cvat.zip") as archive:
        assert archive.read("ImageSets/Segmentation/default.txt").decode() == "000000\n000002\n"
