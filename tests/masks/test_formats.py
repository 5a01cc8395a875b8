from __future__ import annotations

import errno
import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from masks.samples import CLASSES, SIZES, indexed, invent, sequence_of
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.inference import RunOptions
from ccnet3d.masks import FORMAT_HELP, FORMATS, MaskClasses, MaskFormat, MaskSequence, RunFolder
from ccnet3d.masks.cvat_format import CVAT
from ccnet3d.masks.ffv1_format import FFV1
from ccnet3d.masks.mask_format import IndexedMasks
from ccnet3d.masks.npz_format import NPZ


def write(mask_format: MaskFormat, path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    assert mask_format.write
    mask_format.write(path, masks, sequence)


def test_names_of_the_formats_and_their_files() -> None:
    assert {name: one.file_name for name, one in FORMATS.items()} == {
        "png": None,
        "npz": "masks.npz",
        "ffv1": "masks.mkv",
        "cvat": "cvat.zip",
        "cvat-xml": "cvat.xml",
        "coco-rle": "coco.json",
        "label-studio": "label_studio.json",
    }
    assert list(FORMATS) == list(FORMAT_HELP)
    for one in FORMATS.values():
        assert (one.file_name is None) == (one.write is None)
        assert FORMAT_HELP[one.name].isprintable()


def test_a_new_format_is_an_entry_in_each_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's choices and help, the options of a run and the outputs of a folder follow the table."""
    from ccnet3d.cli.infer import build_parser

    monkeypatch.setitem(FORMATS, "runes", replace(NPZ, name="runes", file_name="stone.bin"))
    monkeypatch.setitem(FORMAT_HELP, "runes", "carved in stone")
    parser = build_parser()
    assert parser.parse_args(["-o", "x", "--format", "runes"]).format == "runes"
    assert "runes: carved in stone" in " ".join(parser.format_help().split())
    assert RunOptions(format="runes").format == "runes"
    (tmp_path / "stone.bin").touch()
    assert RunFolder(tmp_path).outputs() == [tmp_path / "stone.bin"]
    with pytest.raises(
        UserError, match="unknown format 'rune'; choose png, npz, ffv1, cvat, cvat-xml, coco-rle, label-studio, runes"
    ):
        RunOptions(format="rune")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 5])
def test_npz(tmp_path: Path, count: int, size: tuple[int, int]) -> None:
    masks = indexed(count, *size)
    path = tmp_path / "masks.npz"
    write(NPZ, path, iter(masks), sequence_of(masks))
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["frames", "masks"]
        assert file["frames"].dtype == np.int64
        assert file["masks"].dtype == np.uint8
        assert file["frames"].tolist() == [index for index, _ in masks]
        np.testing.assert_array_equal(file["masks"], np.stack([mask for _, mask in masks]))
    write(NPZ, tmp_path / "again.npz", iter(masks), sequence_of(masks))
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    assert_timeless(path)


def assert_timeless(path: Path) -> None:
    """Nothing in the archive depends on the day."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_npz_is_compressed(tmp_path: Path) -> None:
    masks = [(n, np.zeros((100, 100), np.uint8)) for n in range(10)]
    write(NPZ, tmp_path / "masks.npz", masks, sequence_of(masks))
    assert (tmp_path / "masks.npz").stat().st_size < 2000


def test_noncontiguous_masks_in_npz(tmp_path: Path) -> None:
    mask = invent(5, 7).T
    write(NPZ, tmp_path / "masks.npz", [(0, mask)], sequence_of([(0, mask)]))
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["masks"][0], mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 23), (48, 64), (63, 101)])
@pytest.mark.parametrize("rate", [None, 10.0, 30000 / 1001])
def test_ffv1_is_exact(tmp_path: Path, size: tuple[int, int], rate: float | None) -> None:
    masks = indexed(4, *size)
    masks[0][1].flat[:256] = np.arange(256)[: size[0] * size[1]]  # every value, where there is room
    path = tmp_path / "masks.mkv"
    write(FFV1, path, iter(masks), sequence_of(masks, rate=rate))
    with av.open(str(path)) as container:
        assert container.format.name.startswith("matroska")
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("ffv1", "gray")
        frames = list(container.decode(video=0))
    assert len(frames) == 4
    for position, (frame, (_, mask)) in enumerate(zip(frames, masks, strict=True)):
        np.testing.assert_array_equal(frame.to_ndarray(), mask)
        assert frame.time == pytest.approx(position / (rate or 25), abs=0.0006)  # Matroska counts milliseconds
    write(FFV1, tmp_path / "again.mkv", iter(masks), sequence_of(masks, rate=rate))
    assert (tmp_path / "again.mkv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_cvat(tmp_path: Path, size: tuple[int, int]) -> None:
    masks = [(0, invent(*size, 1)), (12, invent(*size, 2)), (1_234_567, invent(*size, 3))]
    path = tmp_path / "cvat.zip"
    write(CVAT, path, iter(masks), sequence_of(masks))
    names = ["frame_000000", "frame_000012", "frame_1234567"]
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == sorted([
            "labelmap.txt",
            "ImageSets/Segmentation/default.txt",
            *(f"SegmentationClass/{name}.png" for name in names),
        ])  # fmt: skip
        # The form that CVAT documents for "Segmentation mask 1.1".
        assert file.read("labelmap.txt").decode() == (
            "# label:color_rgb:parts:actions\n"
            "background:0,0,0::\n"
            "ground:90,140,60::\n"
            "box:200,40,40::\n"
            "rail:40,40,220::\n"
        )
        assert file.read("ImageSets/Segmentation/default.txt").decode().split() == names
        for name, (_, mask) in zip(names, masks, strict=True):
            with Image.open(io.BytesIO(file.read(f"SegmentationClass/{name}.png"))) as image:
                assert image.mode == "RGB"
                expected = np.array([*CLASSES.palette, *[(0, 0, 0)] * 253])[mask]  # other is background
                np.testing.assert_array_equal(np.array(image), expected)
    assert_timeless(path)
    write(CVAT, tmp_path / "again.zip", iter(masks), sequence_of(masks))
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("palette", [((0, 0, 0), (1, 1, 1)), ((5, 6, 7), (5, 6, 7)), ((1, 2, 3), (0, 0, 0))])
def test_colors_that_cvat_cannot_tell_apart(tmp_path: Path, palette: tuple[tuple[int, int, int], ...]) -> None:
    classes = MaskClasses(("a", "b"), palette, (0, 1))
    message = "the model's palette has black or a color twice; choose another --format"
    with pytest.raises(UserError, match=message):
        write(CVAT, tmp_path / "cvat.zip", [], MaskSequence(classes, [], (0, 0), None))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=message):  # a run asks before it writes anything
        CVAT.check(classes)
    CVAT.check(CLASSES)


def test_pixels_without_a_class_get_no_label_in_cvat(tmp_path: Path) -> None:
    """CVAT labels what belongs to an object, by the class under it; object 0 is black in Pascal VOC's colors."""
    classes = MaskClasses(CLASSES.names, CLASSES.palette, (0, 2))
    mask = np.array([[0, 2, 255]], np.uint8)
    write(CVAT, tmp_path / "cvat.zip", [(0, mask)], sequence_of([(0, mask)], classes))
    with zipfile.ZipFile(tmp_path / "cvat.zip") as file:
        pixels = np.array(Image.open(io.BytesIO(file.read("SegmentationObject/frame_000000.png"))))
    assert pixels.tolist() == [[[128, 0, 0], [128, 128, 0], [0, 0, 0]]]  # objects 1, 3 and 0, as VOC's devkit has them


@pytest.mark.parametrize("name", ["a:b", "a\nb", "#a", " a", "a\u2028", ""])
def test_class_names_that_cvat_cannot_read(name: str) -> None:
    with pytest.raises(UserError, match="list of labels has no place for the class name"):
        CVAT.check(MaskClasses((name, "b c"), ((1, 1, 1), (2, 2, 2)), (0, 1)))
    CVAT.check(MaskClasses(("Fußweg, links", "b c"), ((1, 1, 1), (2, 2, 2)), (0, 1)))


def broken_masks() -> Iterator[tuple[int, np.ndarray]]:
    yield 0, invent(8, 8)
    raise OSError(errno.ENOSPC, "the disk is full")


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.write])
def test_an_error_leaves_no_file(tmp_path: Path, name: str) -> None:
    sequence = MaskSequence(CLASSES, [0, 1], (8, 8), 10)
    with pytest.raises(OSError, match="the disk is full"):
        write(FORMATS[name], tmp_path / "masks", broken_masks(), sequence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.read and one.write])
def test_damaged_file_is_one_error_or_harmless(tmp_path: Path, name: str) -> None:
    """Random bytes changed, cut off or added: the masks as before, or a UserError, never another exception."""
    one, masks = FORMATS[name], indexed(3, 13, 17)
    indices = [index for index, _ in masks]
    path = tmp_path / "masks"
    write(one, path, masks, sequence_of(masks))
    data = path.read_bytes()
    random, failures = np.random.default_rng(0), 0
    for number in range(200):
        at = int(random.integers(len(data)))
        changes = bytes([data[at] ^ int(random.integers(1, 256))]), b"", b"0"
        path.write_bytes(data[:at] + changes[number % 3] + data[at + (number % 3 < 2) :])
        assert one.read
        message, read = "", []
        try:
            read = list(one.read(path, indices))
        except UserError as error:
            message = str(error)
        assert [mask.dtype for mask in read] == [np.uint8] * (0 if message else 3)
        if message:
            assert message.startswith(str(path))
            assert message.endswith("; run ccnet3d-infer again with --overwrite")
            failures += 1
    assert failures > 50
