"""The COCO file against pycocotools' own reader, and back."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeVideo
from masks.samples import CLASSES, NAMES, PALETTE, indexed, invent, sequence_of

from ccnet3d.cli.infer import main
from ccnet3d.errors import UserError
from ccnet3d.masks import MaskClasses, open_masks
from ccnet3d.masks.coco_rle_format import COCO_RLE, _decode

pycocotools = pytest.importorskip("pycocotools.mask", reason="pycocotools is an optional extra")


def write(path: Path, masks: list[tuple[int, np.ndarray]], classes: MaskClasses = CLASSES) -> Path:
    assert COCO_RLE.write
    COCO_RLE.write(path, iter(masks), sequence_of(masks, classes))
    return path


def read(path: Path, indices: list[int]) -> list[np.ndarray]:
    assert COCO_RLE.read
    return list(COCO_RLE.read(path, indices))


def load(path: Path) -> Any:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        return COCO(str(path))


def mixed() -> list[tuple[int, np.ndarray]]:
    """Every class, one class, nothing at all, several sizes."""
    empty = np.full((9, 4), 255, np.uint8)
    return [*indexed(3, 13, 17), (20, np.ones((13, 17), np.uint8)), (21, empty), (1_000_000, invent(1, 1, ids=(2,)))]


def test_pycocotools_loads_the_same_masks(tmp_path: Path) -> None:
    masks = mixed()
    coco = load(write(tmp_path / "coco.json", masks))
    assert [(c["id"], c["name"], c["color"]) for c in coco.loadCats(coco.getCatIds())] == [
        (i + 1, name, list(color)) for i, (name, color) in enumerate(zip(NAMES, PALETTE, strict=True))
    ]
    images = coco.loadImgs(coco.getImgIds())
    assert [image["frame_index"] for image in images] == [index for index, _ in masks]
    assert [image["file_name"] for image in images][-3:] == ["000020.png", "000021.png", "1000000.png"]
    for image, (_, mask) in zip(images, masks, strict=True):
        assert (image["height"], image["width"]) == mask.shape
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert [a["category_id"] for a in annotations] == [i + 1 for i in range(3) if (mask == i).any()]
        for annotation in annotations:
            inside = mask == annotation["category_id"] - 1
            np.testing.assert_array_equal(coco.annToMask(annotation), inside)
            rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            assert (annotation["area"], annotation["bbox"], annotation["iscrowd"]) == (inside.sum(), box, 0)
    ids = coco.getAnnIds()
    assert ids == list(range(1, len(ids) + 1))


def test_masks_come_back_exactly_without_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = mixed()
    path = write(tmp_path / "coco.json", masks)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    for mask, (_, truth) in zip(read(path, [index for index, _ in masks]), masks, strict=True):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, truth)


def test_same_masks_same_bytes(tmp_path: Path) -> None:
    one, other = (write(tmp_path / name, mixed()).read_bytes() for name in ("one", "other"))
    assert one == other


def test_only_requested_classes_are_categories(tmp_path: Path) -> None:
    classes = MaskClasses(NAMES, PALETTE, (0, 2))
    path = write(tmp_path / "coco.json", [(0, invent(5, 6, ids=(0, 2, 255)))], classes)
    assert [category["name"] for category in json.loads(path.read_text())["categories"]] == ["ground", "rail"]


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 1])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (400, 7), (240, 320)])
def test_run_lengths_decode_as_by_pycocotools(size: tuple[int, int], share: float) -> None:
    """Runs of one pixel to whole images, whose lengths rise and fall."""
    random = np.random.default_rng(1)
    inside = random.random(size) < share
    inside[:, : size[1] // 3] = inside[:, : size[1] // 3].cumsum(0) % 5 > 2
    rle = pycocotools.encode(inside.astype(np.uint8, order="F"))
    np.testing.assert_array_equal(pycocotools.decode(rle), inside)
    np.testing.assert_array_equal(_decode(rle["counts"].decode(), *size), inside)


def test_run_lengths_by_hand() -> None:
    """2 pixels outside, 3 inside and 1 outside, by columns of 2; "d" is 52, which asks for another character."""
    assert _decode("231", 2, 3).tolist() == [[False, True, True], [False, True, False]]
    for counts in ("", "23", "232", "2311", "23d", "23\n", "231oooooooo0", "é"):
        with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
            _decode(counts, 2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "no 'annotations'"),
        (lambda c: c["images"][0].pop("height"), "no 'height'"),
        (lambda c: c["images"][1].update(frame_index=9), "frame indices differ from those of summary.json"),
        (lambda c: c["images"].pop(), "frame indices differ from those of summary.json"),
        (lambda c: c["annotations"][0].update(image_id=77), "annotations without an image"),
        (lambda c: c["annotations"][0].update(category_id=0), "annotation 1 is not of a class"),
        (lambda c: c["annotations"][0].update(category_id=256), "annotation 1 is not of a class"),
        (lambda c: c["annotations"][0].update(area=5), "annotation 1 contradicts its own size or area"),
        (lambda c: c["annotations"][0]["segmentation"].update(size=[17, 13]), "annotation 1 contradicts its own size"),
        (lambda c: c["annotations"][0]["segmentation"].update(counts="0"), "do not add up to 17x13 pixels"),
        (lambda c: c["annotations"][0]["segmentation"].update(counts=[1, 2]), "not compressed ones, a string"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "overlaps another one"),
        (lambda c: c["images"][0].update(height=10**18), "its masks claim 17x10+ pixels"),
    ],
)
def test_damaged_content_is_one_error(tmp_path: Path, change: Any, message: str) -> None:
    masks = indexed(2, 13, 17)
    path = write(tmp_path / "coco.json", masks)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"coco.json is damaged .*{message}.*; run ccnet3d-infer again"):
        read(path, [1, 4])


def test_run_equals_the_png_run(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path) -> None:
    common = [str(make_video(frames=5)), "--checkpoint", str(tiny_checkpoint), "-q", "--classes", "box,rail"]
    assert main([*common, "-o", str(tmp_path / "png")]) == 0
    assert main([*common, "-o", str(tmp_path / "coco"), "--format", "coco-rle"]) == 0
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["coco.json", "summary.json"]
    expected, got = open_masks(tmp_path / "png"), open_masks(tmp_path / "coco")
    assert (got.class_names, got.frame_indices) == (expected.class_names, expected.frame_indices)
    for (index, mask), (truth_index, truth) in zip(got, expected, strict=True):
        assert index == truth_index
        np.testing.assert_array_equal(mask, truth)
    coco = load(tmp_path / "coco" / "coco.json")
    assert coco.getCatIds() == [2, 3]
    assert {annotation["category_id"] for annotation in coco.anns.values()} <= {2, 3}


def test_without_pycocotools_nothing_is_written(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    out = tmp_path / "masks"
    arguments = [str(make_video(frames=2)), "-o", str(out), "--checkpoint", str(tiny_checkpoint)]
    assert main([*arguments, "--format", "coco-rle", "--overlay", str(tmp_path / "over.mp4")]) == 2
    assert capsys.readouterr().err == (
        "ccnet3d-infer: error: --format coco-rle needs pycocotools; run: pip install 'ccnet3d[coco]'\n"
    )
    assert not out.exists()
    assert list(tmp_path.glob("*over*")) == []
