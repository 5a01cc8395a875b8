"""Kinds, order and names of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_scene
from PIL import Image
from video.corpus import X264, draw_coded, encode, ffmpeg, has_encoder, read_code

from ccnet3d.video import (
    GrayVideoWriter,
    VideoError,
    VideoWriter,
    images_in_folder,
    match_pattern,
    open_video,
    read_gray_video,
    sort_files,
)
from ccnet3d.video.file_kinds import in_natural_order

AWKWARD = [
    "2026-03-29T02:30:00.mp4", "http:x.mp4", "cam:1.mp4", "-x.mp4", "a%03d.mp4", "what?.mp4", "star*.mp4", "a[1].mp4",
    "file:a.mp4", "concat:a.mp4", "a|b.mp4", "a b#c.mp4", "vidéo 日本.mp4", "#1.mp4", "a,b=c.mp4", "pipe:0",
]  # fmt: skip


def test_names_that_are_no_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = encode(tmp_path / "source.mp4", *X264, frames=3).read_bytes()
    for name in AWKWARD:
        Path(name).write_bytes(data)
        with open_video(name) as reader:
            assert [read_code(frame.image) for frame in reader] == [0, 1, 2], name
            assert (len(reader), read_code(reader.clip([2])[0].image), reader.info.name) == (3, 2, name)
    latin = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    Path(latin).write_bytes(data)
    assert len(list(open_video(latin))) == 3


@pytest.mark.parametrize("folder", ["masks:1", "http:", "-o", "a%03d"])
def test_outputs_whose_names_are_no_urls(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path(folder) / "cam:1.mp4", 10) as video, GrayVideoWriter(Path(folder, "m:1.mkv"), 10) as gray:
        for index in range(3):
            video.write(draw_scene(index)[0], None)
            gray.write(draw_scene(index)[1])
    assert sorted(path.name for path in Path(folder).iterdir()) == ["cam:1.mp4", "m:1.mkv"]
    assert len(list(open_video(Path(folder) / "cam:1.mp4"))) == 3
    planes = list(read_gray_video(Path(folder, "m:1.mkv")))
    assert np.array_equal(planes, [draw_scene(index)[1] for index in range(3)])


def test_decord_opens_names_with_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord", reason="decord has no wheel for this platform")
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "source.mp4", *X264, frames=3).rename("12:00.mp4")
    assert len(list(open_video("12:00.mp4", "decord"))) == 3


def test_videos_of_all_kinds(tmp_path: Path) -> None:
    """No list of extensions: whatever FFmpeg opens, by content where the name does not tell."""
    mpeg2 = ("-c:v", "mpeg2video", "-q:v", 3)
    made: dict[str, tuple[str, tuple[object, ...]]] = {
        "00001.MTS": ("mpegts", X264), "a.m2ts": ("mpegts", X264), "b.M2T": ("mpegts", X264),
        "c.3gp": ("3gp", ("-c:v", "mpeg4")), "d.y4m": ("yuv4mpegpipe", ("-pix_fmt", "yuv420p")),
        "e.mxf": ("mxf", mpeg2), "f.VOB": ("vob", mpeg2), "g.f4v": ("f4v", X264), "h.nut": ("nut", X264),
        "i.dv.mov": ("mov", X264), "j.264": ("h264", X264), "k.mjpeg": ("mjpeg", ("-c:v", "mjpeg", "-q:v", 2)),
        "l.asf": ("asf", ("-c:v", "msmpeg4")), "m.gif": ("gif", ()), "n.apng": ("apng", ()),
    }  # fmt: skip
    if has_encoder("libtheora"):
        made["o.ogv"] = ("ogg", ("-c:v", "libtheora", "-q:v", 8))
    if has_encoder("libwebp_anim"):
        made["p.webp"] = (
            "webp",
            (
                "-c:v",
                "libwebp_anim",
            ),
        )
    for name, (container, options) in made.items():
        encode(tmp_path / name, *options, "-f", container, frames=3, rate=25)
    for name in ("music.mp3", "music.m4a", "music.ogg", "music.wav"):
        ffmpeg("-f", "lavfi", "-i", "sine=sample_rate=8000:duration=0.2", tmp_path / name)
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    (tmp_path / "notes.txt").write_text("a text\n" * 99)
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / ".hidden.mp4").write_bytes(b"x")
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 99)
    (tmp_path / "folder.mp4").mkdir()
    Image.fromarray(draw_coded(0)).save(tmp_path / "still.gif")
    Image.fromarray(draw_coded(0)).save(tmp_path / "still.webp")
    kinds = sort_files(sorted(tmp_path.iterdir()))
    assert [path.name for path in kinds.videos] == sorted([*made, "broken.mp4"])
    assert [path.name for path in kinds.images] == ["still.gif", "still.webp"]
    assert [path.name for path in kinds.others] == [
        "a.srt", "data.json", "folder.mp4", "music.m4a", "music.mp3", "music.ogg", "music.wav", "notes.txt",
    ]  # fmt: skip
    for path in kinds.videos:
        if path.name != "broken.mp4":
            assert len(list(open_video(path))) >= 2, path  # encoders of MPEG-4 may drop one


def test_images_of_all_kinds(tmp_path: Path) -> None:
    names = ["1.PNG", "2.jpg", "3.JPEG", "4.tif", "5.tga", "6.jp2", "7.jfif", "8.pbm", "9.webp", "10.avif", "11.ppm"]
    for name in names:
        image = Image.new("1" if name.endswith("pbm") else "RGB", (64, 48))
        image.save(tmp_path / name, format={"8.pbm": "PPM"}.get(name))
    for name in ("a.ps", "b.pdf", "c.txt", "d.h5"):
        (tmp_path / name).write_bytes(b"%!PS")
    assert [path.name for path in images_in_folder(tmp_path)] == names
    assert len(list(open_video(tmp_path))) == len(names)


def names_in_order(names: Sequence[str]) -> list[str]:
    return [path.name for path in in_natural_order([Path("folder", name) for name in names])]


@pytest.mark.parametrize(
    "names",
    [
        ["img1.png", "img2.png", "img10.png"],
        ["59-58.png", "59-59.png", "1-00-00.png", "1-00-01.png"],
        ["take_09:59.png", "take_59:59.png", "take_1:00:00.png", "take_10:00:00.png"],
        ["59m59s.jpg", "1h00m00s.jpg", "1h00m01s.jpg"],
        ["58.59,5.png", "58.59,75.png", "59.00.png", "1.00.00,25.png"],
        ["00-59-59.png", "01-00-00.png"],
        # Numbers that are no times keep their natural order.
        ["1-75.png", "2-10.png", "10-1.png"],
        ["1-2-3.png", "1-2.png", "2-99.png"],
        ["2026-03-29T01-59-59.png", "2026-03-29T03-00-00.png"],
    ],
)
def test_order_of_frames(names: list[str]) -> None:
    assert names_in_order(names[::-1]) == names
    assert names_in_order(sorted(names)) == names


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("1.png", "1.jpg", "2.png", "2.jpg"):
        Image.fromarray(draw_coded(int(name[0]))).save(tmp_path / name)
    with pytest.raises(
        VideoError, match=r"contains 1\.jpg and 1\.png, two images of one frame.*quoted pattern.*\*\.jpg'"
    ):
        open_video(tmp_path)
    with open_video(str(tmp_path / "*.png")) as reader:
        assert [read_code(frame.image) for frame in reader] == [1, 2]


def test_patterns_in_folders_with_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "take[1] * ?" / "frames[a-c]"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(draw_coded(number)).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    for pattern in (f"{folder}/*.png", "take[1] * ?/frames[a-c]/[0-9].png", "take*/*/*.png", "**/*.png"):
        assert sorted(path.name for path in match_pattern(pattern)) == ["0.png", "1.png", "2.png"], pattern
        assert [read_code(frame.image) for frame in open_video(pattern)] == [0, 1, 2]
    assert match_pattern("take[1] * ?/frames[a-c]/1.png") == [Path("take[1] * ?/frames[a-c]/1.png")]
    assert match_pattern("nothing[1]/*.png") == []
