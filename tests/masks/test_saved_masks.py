from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.masks import is_run_folder, open_masks

CLASSES = [
    {"id": 0, "name": "ground", "color": [90, 140, 60], "pixel_share": 0.5},
    {"id": 2, "name": "rail", "color": [40, 40, 220], "pixel_share": 0.5},
]


def invent(count: int, height: int = 6, width: int = 9) -> np.ndarray:
    """Masks of the classes 0 and 2, and of 255, not asked for."""
    choice = np.random.default_rng(1).integers(0, 3, (count, height, width))
    return np.array([0, 2, 255], np.uint8)[choice]


def save_png(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask)
    # With only three colors Pillow would write two bits per pixel, and 3 for 255.
    image.putpalette([90, 140, 60, 1, 2, 3, 40, 40, 220] + [0] * (3 * 253))
    image.save(path)


def save(folder: Path, masks: np.ndarray, numbers: Sequence[int], layout: str | None, **summary: Any) -> Path:
    """Write what a run leaves behind, without the package's own code; None is png in a summary without a format."""
    folder.mkdir(exist_ok=True)
    if layout in (None, "png"):
        for number, mask in zip(numbers, masks, strict=True):
            save_png(folder / f"{number:06d}.png", mask)
    elif layout == "npz":
        np.savez_compressed(folder / "masks.npz", masks=masks, frames=np.array(numbers, np.int64))
    elif layout == "ffv1":
        import av

        with av.open(str(folder / "masks.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = masks.shape[2], masks.shape[1], "gray"
            for mask in masks:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(mask, format="gray")))
            container.mux(stream.encode(None))
    content = {
        "frames": len(masks),
        "width": masks.shape[2],
        "height": masks.shape[1],
        "frames_per_second": 10.0,
        "pts_seconds": [n / 10 for n in numbers],
        "frame_numbers": list(numbers),
        "classes": CLASSES,
        "format": layout,
        **summary,
    }
    text = json.dumps({key: value for key, value in content.items() if value is not None})
    (folder / "summary.json").write_text(text)
    return folder


@pytest.mark.parametrize("layout", [None, "png", "npz", "ffv1"])
def test_masks_survive_every_format(tmp_path: Path, layout: str | None) -> None:
    masks, numbers = invent(5), [0, 1, 4, 7, 1_000_000]
    saved = open_masks(save(tmp_path, masks, numbers, layout))
    assert len(saved) == 5
    assert (saved.class_ids, saved.class_names) == ((0, 2), ("ground", "rail"))
    assert saved.palette == ((90, 140, 60), (40, 40, 220))
    assert saved.pts_seconds == (0, 0.1, 0.4, 0.7, 100_000)
    assert saved.summary["width"] == 9
    for _ in range(2):  # masks can be read more than once
        read = list(saved)
        assert [index for index, _ in read] == numbers
        for (_, mask), truth in zip(read, masks, strict=True):
            assert mask.dtype == np.uint8
            np.testing.assert_array_equal(mask, truth)


def test_every_value_survives(tmp_path: Path) -> None:
    masks = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    classes = [{"id": i, "name": f"c{i}", "color": [i, 0, 0]} for i in range(255)]
    for layout in ("png", "npz", "ffv1"):
        saved = open_masks(save(tmp_path / layout, masks, [0], layout, classes=classes))
        np.testing.assert_array_equal(next(iter(saved))[1], masks[0])


def test_without_frame_numbers_and_times(tmp_path: Path) -> None:
    save(tmp_path, invent(3), range(3), "png", frame_numbers=None, pts_seconds=[None, 0.5, None])
    assert open_masks(tmp_path).frame_indices == open_masks(str(tmp_path)).frame_indices == (0, 1, 2)
    assert open_masks(tmp_path).pts_seconds == (None, 0.5, None)
    save(tmp_path, invent(3), range(3), "png", pts_seconds=None)
    assert open_masks(tmp_path).pts_seconds == (None, None, None)


def test_masks_may_change_size(tmp_path: Path) -> None:
    save(tmp_path, invent(3), range(3), "png")
    save_png(tmp_path / "000001.png", invent(1, 20, 30)[0])
    assert [mask.shape for _, mask in open_masks(tmp_path)] == [(6, 9), (20, 30), (6, 9)]


def test_npz_is_not_loaded_whole(tmp_path: Path) -> None:
    masks = np.zeros((40, 400, 500), np.uint8)  # 8 MB
    saved = open_masks(save(tmp_path, masks, range(40), "npz"))
    tracemalloc.start()
    assert sum(1 for _ in saved) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_500_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "cvat"}, "the format cvat, which cannot be read back; run .*: png, npz, ffv1, coco-rle"),
        ({"format": "tiff"}, "unknown format 'tiff'; known are png, npz, ffv1, coco-rle"),
        ({"format": ["png"]}, "unknown format"),
        ({"format": ["x"] * 1000}, r"unknown format .{1,40}; known are"),
        ({"frames": float("inf")}, "is not a summary that ccnet3d-infer writes"),
        ({"frames": 4}, r"3 frame numbers for 4 masks\); run ccnet3d-infer again with --overwrite"),
        ({"frame_numbers": [0, 2, 2]}, "frame numbers that do not increase"),
        ({"pts_seconds": [0.0]}, "1 times for 3 masks"),
        ({"classes": None}, "is not a summary that ccnet3d-infer writes .Summary lacks the key 'classes'"),
        ({"classes": [{"id": 255, "name": "x", "color": [0, 0, 0]}]}, "not all different and in 0 to 254"),
        ({"classes": [{"id": 0, "name": "x", "color": [0, 0]}]}, r"color must be tuple.int, int, int., got \[0, 0\]"),
        (
            {"frames": 10**9, "frame_numbers": None, "pts_seconds": None},
            "frames must be in 1 to 10000000, got 1000000000",
        ),
        ({"frames": 10**30}, r"frames must be at most 2\^63 - 1 in size, got 10000"),
        ({"frames": True, "frame_numbers": [0]}, "frames must be int, got True"),
        ({"frames_per_second": "fast"}, "frames_per_second must be float, got 'fast'"),
        ({"frames_per_second": 1e300}, "frames_per_second must be in 0 to"),
        ({"width": "9"}, "width must be int, got '9'"),
        ({"settings": []}, "settings must be .*Mapping"),
        ({"classes": []}, r"class ids \[\], which are"),
        ({"classes": [3]}, "classes must be Class, got 3"),
        ({"classes": [{"id": 0, "name": "x", "color": [0, 0, 300]}]}, r"color must be in 0 to 255, got \(0, 0, 300\)"),
        ({"frame_numbers": [0, 1, 9]}, "masks are missing in .*: 1 of 3, the first is 000009.png; run"),
    ],
)
def test_summaries_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save(tmp_path, invent(3), range(3), "png")
    text = json.loads((tmp_path / "summary.json").read_text()) | changes
    (tmp_path / "summary.json").write_text(json.dumps({k: v for k, v in text.items() if v is not None}))
    with pytest.raises(UserError, match=message):
        open_masks(tmp_path)


def test_folders_that_are_not_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder .*nowhere; give the output folder of ccnet3d-infer"):
        open_masks(tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains no summary.json; give the output folder"):
        open_masks(tmp_path)
    assert not is_run_folder(tmp_path)
    assert not is_run_folder(tmp_path / "nowhere")
    for content in ("{", "[]", "3", '"text"', "null", "[" * 100_000, "\N{BYTE ORDER MARK}{"):
        (tmp_path / "summary.json").write_text(content)
        with pytest.raises(UserError, match="is not a summary .*(not valid JSON|expected a JSON object)"):
            open_masks(tmp_path)


@pytest.mark.parametrize("layout", ["png", "npz", "ffv1"])
def test_interrupted_run(tmp_path: Path, layout: str) -> None:
    save(tmp_path, invent(3), range(3), layout)
    (tmp_path / "summary.json").unlink()
    with pytest.raises(
        UserError, match="still writing it, or it was interrupted; .* ccnet3d-infer again with --resume"
    ):
        open_masks(tmp_path)


def test_run_interrupted_before_its_one_file_was_written(tmp_path: Path) -> None:
    (tmp_path / ".ccnet3d-run.json").write_text("{}")
    assert is_run_folder(tmp_path)
    with pytest.raises(
        UserError, match="still writing it, or it was interrupted; .* ccnet3d-infer again with --resume"
    ):
        open_masks(tmp_path)


@pytest.mark.parametrize(("layout", "name"), [("png", "000001.png"), ("npz", "masks.npz"), ("ffv1", "masks.mkv")])
def test_damaged_and_missing_files(tmp_path: Path, layout: str, name: str) -> None:
    path = save(tmp_path, invent(3, 60, 90), range(3), layout) / name
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"nothing of the kind"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}( is damaged|: ).*; run ccnet3d-infer again with --overwrite"):
            list(open_masks(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match="missing.*run ccnet3d-infer again with --overwrite"):
        open_masks(tmp_path)


def test_npz_with_other_arrays(tmp_path: Path) -> None:
    save(tmp_path, invent(3), range(3), "npz")
    for arrays, message in (
        ({"masks": invent(3)}, "no item named 'frames.npy'"),
        ({"masks": invent(3), "frames": np.array([0, 1, 5])}, "its frame indices differ from those of summary.json"),
        ({"masks": invent(2), "frames": np.arange(3)}, "2 masks for 3 frames"),
        ({"masks": invent(3).astype(np.int32), "frames": np.arange(3)}, r"its masks are int32 \[3, 6, 9\]"),
    ):
        np.savez(tmp_path / "masks.npz", **arrays)
        with pytest.raises(UserError, match=message):
            list(open_masks(tmp_path))
    np.savez(tmp_path / "masks.npz", masks=invent(3), frames=np.array([None, 1, 2], dtype=object))
    with pytest.raises(UserError, match=r"its frame indices are object \[3\]"):  # instead of unpickled
        list(open_masks(tmp_path))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("frames", (10**12,), "its frame indices differ from those of summary.json"),
        ("masks", (10**12, 6, 9), "1000000000000 masks for 3 frames"),
        ("masks", (3, 10**6, 10**6), "its masks claim 1000000x1000000 pixels"),
        ("masks", (3, 60_000, 60_000), "its masks claim 60000x60000 pixels, more than"),
        ("masks", (3, -6, 9), "its masks claim 9x-6 pixels"),
        ("masks", (3, 6, 2**70), "its masks claim 118"),
    ],
)
def test_npz_headers_that_claim_too_much(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    save(tmp_path, invent(3), range(3), "npz")
    with zipfile.ZipFile(tmp_path / "masks.npz") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    buffer = io.BytesIO()
    descr = "<i8" if name == "frames" else "|u1"
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "masks.npz", "w") as archive:
        for member, data in members.items():
            archive.writestr(member, buffer.getvalue() + data[128:] if member == f"{name}.npy" else data)
    with pytest.raises(UserError, match=f"masks.npz is damaged .*{message}"):
        list(open_masks(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 6, 9), ",  # TokenError
        b"{'descr': '|u1', 'fortran_order': False, 'shape': 1 + 1j}",
        b"(" * 100,
        b"{'descr': [('a', 1, 2, 3, 4)], 'fortran_order': False, 'shape': (3,)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 6, 9)}",
    ],
)
def test_npz_headers_that_are_damaged(tmp_path: Path, text: bytes) -> None:
    save(tmp_path, invent(3), range(3), "npz")
    with zipfile.ZipFile(tmp_path / "masks.npz") as archive:
        frames = archive.read("frames.npy")
    with zipfile.ZipFile(tmp_path / "masks.npz", "w") as archive:
        archive.writestr("frames.npy", frames)
        archive.writestr("masks.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(200))
    with pytest.raises(UserError, match=r"masks.npz is damaged"):
        list(open_masks(tmp_path))


def test_more_or_fewer_frames_than_the_summary_says(tmp_path: Path) -> None:
    save(tmp_path, invent(3), range(3), "ffv1")
    for frames in (2, 4):
        changes = {"frames": frames, "frame_numbers": list(range(frames)), "pts_seconds": None}
        text = json.loads((tmp_path / "summary.json").read_text()) | changes
        (tmp_path / "summary.json").write_text(json.dumps(text))
        with pytest.raises(UserError, match=f"does not contain {frames} masks"):
            list(open_masks(tmp_path))


def test_pixels_that_are_not_class_ids(tmp_path: Path) -> None:
    save(tmp_path, invent(3), range(3), "png")
    Image.new("RGB", (9, 6)).save(tmp_path / "000001.png")
    with pytest.raises(UserError, match="000001.png is not a mask: it is an image of mode RGB.*; run ccnet3d"):
        list(open_masks(tmp_path))
    save_png(tmp_path / "000001.png", np.full((6, 9), 7, np.uint8))
    with pytest.raises(UserError, match="the mask of frame 1 in .* contains the class 7, which summary.json does not"):
        list(open_masks(tmp_path))
