from __future__ import annotations

import errno
import io
import struct
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ccnet3d.masks import formats

PALETTE = ((90, 140, 60), (200, 40, 40), (40, 40, 220))
NAMES = ("ground", "box", "rail")
SIZES = [(1, 1), (1, 7), (13, 1), (17, 23), (48, 64)]


def invent(height: int, width: int, seed: int = 0, ids: tuple[int, ...] = (0, 1, 2, 255)) -> np.ndarray:
    return np.array(ids, np.uint8)[np.random.default_rng(seed).integers(0, len(ids), (height, width))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ids", [(0,), (1,), (255,), (0, 1), (0, 2, 255), tuple(range(256))])
def test_a_palette_png_holds_the_ids(tmp_path: Path, size: tuple[int, int], ids: tuple[int, ...]) -> None:
    mask = invent(*size, ids=ids)
    data = formats.encode_mask(mask, PALETTE)
    # Eight bits a pixel, colour type palette, whatever the number of colours (PNG specification, IHDR).
    assert struct.unpack(">IIBB", data[16:26]) == (size[1], size[0], 8, 3)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.array(image), mask)
        shown = np.array(image.convert("RGB"))
    expected = np.array([*PALETTE, *[(0, 0, 0)] * 253])[mask]
    np.testing.assert_array_equal(shown, expected)
    (tmp_path / "mask.png").write_bytes(data)
    decoded = formats.decode_mask(tmp_path / "mask.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)
    assert formats.encode_mask(mask, PALETTE) == data


def test_a_mask_that_is_not_contiguous() -> None:
    mask = invent(10, 12)
    assert formats.encode_mask(mask[::2, ::3], PALETTE) == formats.encode_mask(mask[::2, ::3].copy(), PALETTE)


def test_files_that_are_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(ValueError, match=r"cannot read the mask .*mask\.png"):
        formats.decode_mask(path)
    with pytest.raises(ValueError, match="cannot read the mask"):
        formats.decode_mask(tmp_path)
    path.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match="cannot read the mask"):
        formats.decode_mask(path)
    for mode in ("L", "RGB", "1"):
        Image.new(mode, (4, 3)).save(path)
        with pytest.raises(ValueError, match=f"no mask: it is an image of mode {mode}, expected a palette image"):
            formats.decode_mask(path)


def test_a_mask_that_is_cut_off(tmp_path: Path) -> None:
    data = formats.encode_mask(invent(9, 7), PALETTE)
    pixels_end = data.index(b"IEND") - 12  # behind them there are checksums and the end mark only
    for length in [*range(0, pixels_end, 23), pixels_end - 4]:
        (tmp_path / "mask.png").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cannot read the mask .*mask\.png"):
            formats.decode_mask(tmp_path / "mask.png")


def test_a_damaged_mask_is_never_taken_for_another(tmp_path: Path) -> None:
    """Each byte changed in turn: an error, or a byte that does not matter."""
    mask = invent(9, 7)
    data = formats.encode_mask(mask, PALETTE)
    pixels = data.index(b"IDAT")
    for at in [*range(60), *range(pixels - 4, len(data))]:
        (tmp_path / "mask.png").write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            decoded = formats.decode_mask(tmp_path / "mask.png")
        except ValueError:
            continue
        np.testing.assert_array_equal(decoded, mask, err_msg=f"byte {at}")


@pytest.mark.parametrize("share", [0, 1, 37, 128, 200, 255, 256])
def test_paint_against_a_float_formula(share: int) -> None:
    """Opacities in 256ths are met exactly, rounding halves up."""
    random = np.random.default_rng(share)
    image = random.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    image[0], image[1] = 0, 255
    mask = invent(19, 23, ids=(0, 1, 2, 3, 7, 255))
    palette = ((255, 255, 255), (0, 0, 0), (200, 40, 41), (1, 128, 254))
    before = image.copy(), mask.copy()
    painted = formats.paint(image, mask, palette, share / 256)
    colors = np.array([*palette, *[(0, 0, 0)] * 252], float)[mask]
    truth = np.floor(image * (1 - share / 256) + colors * (share / 256) + 0.5)
    truth[mask == 255] = image[mask == 255]
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted, truth)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize("opacity", [0.1, 1 / 3, 0.55, 0.999])
def test_other_opacities_are_met_to_one_level(opacity: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    mask = invent(19, 23, ids=(0, 1, 2))
    truth = image * (1 - opacity) + np.array(PALETTE)[mask] * opacity
    painted = formats.paint(image, mask, PALETTE, opacity)
    np.testing.assert_allclose(painted.astype(float), truth, rtol=0, atol=1.01)  # 1/512 of the opacity, and rounding


def test_paint_by_hand() -> None:
    image = np.array([[[100, 101, 0], [10, 20, 30]]], np.uint8)
    mask = np.array([[1, 255]], np.uint8)
    assert formats.paint(image, mask, PALETTE).tolist() == [[[150, 71, 20], [10, 20, 30]]]  # 70.5 is rounded up


def numbered(count: int, height: int, width: int) -> list[tuple[int, np.ndarray]]:
    return [(3 * n + 1, invent(height, width, n)) for n in range(count)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 5])
def test_npz(tmp_path: Path, count: int, size: tuple[int, int]) -> None:
    masks = numbered(count, *size)
    path = tmp_path / "masks.npz"
    formats.write_npz(path, iter(masks), [number for number, _ in masks], size)
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["frames", "masks"]
        assert file["frames"].dtype == np.int64
        assert file["masks"].dtype == np.uint8
        assert file["frames"].tolist() == [number for number, _ in masks]
        np.testing.assert_array_equal(file["masks"], np.stack([mask for _, mask in masks]))
    formats.write_npz(tmp_path / "again.npz", iter(masks), [number for number, _ in masks], size)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    assert_timeless(path)


def assert_timeless(path: Path) -> None:
    """What would differ tomorrow is not in the archive."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_npz_is_compressed(tmp_path: Path) -> None:
    masks = [(n, np.zeros((100, 100), np.uint8)) for n in range(10)]
    formats.write_npz(tmp_path / "masks.npz", masks, range(10), (100, 100))
    assert (tmp_path / "masks.npz").stat().st_size < 2000


def test_masks_that_are_not_contiguous_in_npz(tmp_path: Path) -> None:
    mask = invent(5, 7).T
    formats.write_npz(tmp_path / "masks.npz", [(0, mask)], [0], (7, 5))
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["masks"][0], mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 23), (48, 64), (63, 101)])
@pytest.mark.parametrize("rate", [None, 10.0, 30000 / 1001])
def test_ffv1_is_exact(tmp_path: Path, size: tuple[int, int], rate: float | None) -> None:
    masks = numbered(4, *size)
    masks[0][1].flat[:256] = np.arange(256)[: size[0] * size[1]]  # every value, where there is room
    path = tmp_path / "masks.mkv"
    formats.write_ffv1(path, iter(masks), rate)
    with av.open(str(path)) as container:
        assert container.format.name.startswith("matroska")
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("ffv1", "gray")
        frames = list(container.decode(video=0))
    assert len(frames) == 4
    for number, (frame, (_, mask)) in enumerate(zip(frames, masks, strict=True)):
        np.testing.assert_array_equal(frame.to_ndarray(), mask)
        assert frame.time == pytest.approx(number / (rate or 25), abs=0.0006)  # Matroska counts milliseconds
    formats.write_ffv1(tmp_path / "again.mkv", iter(masks), rate)
    assert (tmp_path / "again.mkv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_cvat(tmp_path: Path, size: tuple[int, int]) -> None:
    masks = [(0, invent(*size, 1)), (12, invent(*size, 2)), (1_234_567, invent(*size, 3))]
    path = tmp_path / "cvat.zip"
    formats.write_cvat(path, iter(masks), NAMES, PALETTE)
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
                expected = np.array([*PALETTE, *[(0, 0, 0)] * 253])[mask]  # other is background
                np.testing.assert_array_equal(np.array(image), expected)
    assert_timeless(path)
    formats.write_cvat(tmp_path / "again.zip", iter(masks), NAMES, PALETTE)
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("palette", [((0, 0, 0), (1, 1, 1)), ((5, 6, 7), (5, 6, 7)), ((1, 2, 3), (0, 0, 0))])
def test_colours_that_cvat_cannot_tell_apart(tmp_path: Path, palette: formats.Palette) -> None:
    with pytest.raises(ValueError, match="the model's palette has black or a colour twice; use another --format"):
        formats.write_cvat(tmp_path / "cvat.zip", [], ("a", "b"), palette)
    assert list(tmp_path.iterdir()) == []


def broken_masks() -> formats.NumberedMasks:
    yield 0, invent(8, 8)
    raise OSError(errno.ENOSPC, "the disk is full")


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is full"):
        formats.write_npz(tmp_path / "masks.npz", broken_masks(), [0, 1], (8, 8))
    with pytest.raises(OSError, match="the disk is full"):
        formats.write_ffv1(tmp_path / "masks.mkv", broken_masks(), 10)
    with pytest.raises(OSError, match="the disk is full"):
        formats.write_cvat(tmp_path / "cvat.zip", broken_masks(), NAMES, PALETTE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(3, 4, 5), (256, 1, 1), (1, 7, 3)])
def test_probabilities(shape: tuple[int, int, int]) -> None:
    probabilities = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = formats.encode_probabilities(probabilities)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert file.files == ["probabilities"]
        assert file["probabilities"].dtype == np.uint8
        np.testing.assert_array_equal(file["probabilities"], probabilities)
    assert formats.encode_probabilities(probabilities) == data
    assert len(formats.encode_probabilities(np.zeros((10, 50, 50), np.uint8))) < 2000


def test_saved_masks(tmp_path: Path) -> None:
    masks = {0: invent(3, 5, 0), 7: invent(3, 5, 1), 123_456: invent(3, 5, 2), 1_000_000: invent(3, 5, 3)}
    for number in (1_000_000, 7, 123_456, 0):
        formats.mask_path(tmp_path, number).write_bytes(formats.encode_mask(masks[number], PALETTE))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000.png", "000007.png", "1000000.png", "123456.png",
    ]  # fmt: skip
    Image.new("RGB", (5, 3)).save(tmp_path / "000001.png")  # a frame of the video itself
    (tmp_path / "000002.png").write_bytes(b"no image")
    (tmp_path / "0003.png").write_bytes(formats.encode_mask(masks[0], PALETTE))
    (tmp_path / "000004.npz").touch()
    (tmp_path / "cover.png").write_bytes(formats.encode_mask(masks[0], PALETTE))
    assert formats.saved_numbers(tmp_path) == [0, 7, 123_456, 1_000_000]
    assert formats.saved_numbers(tmp_path / "absent") == []
    read = dict(formats.saved_masks(tmp_path, [7, 1_000_000]))
    assert list(read) == [7, 1_000_000]
    for number, mask in read.items():
        np.testing.assert_array_equal(mask, masks[number])
    with pytest.raises(ValueError, match=r"cannot read the mask .*000005\.png"):
        list(formats.saved_masks(tmp_path, [0, 5]))


def test_names_of_the_formats() -> None:
    assert formats.FILE_NAMES == {"png": None, "npz": "masks.npz", "ffv1": "masks.mkv", "cvat": "cvat.zip"}
