from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from masks.samples import PALETTE, SIZES, invent
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.masks import paint
from ccnet3d.masks.palette import decode_mask, encode_mask


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ids", [(0,), (1,), (255,), (0, 1), (0, 2, 255), tuple(range(256))])
def test_palette_png_contains_the_ids(tmp_path: Path, size: tuple[int, int], ids: tuple[int, ...]) -> None:
    mask = invent(*size, ids=ids)
    data = encode_mask(mask, PALETTE)
    # Eight bits per pixel, color type palette, for any number of colors (PNG specification, IHDR).
    assert struct.unpack(">IIBB", data[16:26]) == (size[1], size[0], 8, 3)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.array(image), mask)
        shown = np.array(image.convert("RGB"))
    expected = np.array([*PALETTE, *[(0, 0, 0)] * 253])[mask]
    np.testing.assert_array_equal(shown, expected)
    (tmp_path / "mask.png").write_bytes(data)
    decoded = decode_mask(tmp_path / "mask.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)
    assert encode_mask(mask, PALETTE) == data


def test_noncontiguous_mask() -> None:
    mask = invent(10, 12)
    assert encode_mask(mask[::2, ::3], PALETTE) == encode_mask(mask[::2, ::3].copy(), PALETTE)


def test_files_that_are_not_masks(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(UserError, match=r"cannot read the mask .*mask\.png"):
        decode_mask(path)
    with pytest.raises(UserError, match="cannot read the mask"):
        decode_mask(tmp_path)
    path.write_bytes(b"no image at all")
    with pytest.raises(UserError, match="cannot read the mask"):
        decode_mask(path)
    for mode in ("L", "RGB", "1"):
        Image.new(mode, (4, 3)).save(path)
        with pytest.raises(UserError, match=f"not a mask: it is an image of mode {mode}, expected a palette image"):
            decode_mask(path)


def test_truncated_mask(tmp_path: Path) -> None:
    data = encode_mask(invent(9, 7), PALETTE)
    pixels_end = data.index(b"IEND") - 12  # only checksums and the end mark follow
    for length in [*range(0, pixels_end, 23), pixels_end - 4]:
        (tmp_path / "mask.png").write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cannot read the mask .*mask\.png"):
            decode_mask(tmp_path / "mask.png")


def test_damaged_mask_never_decodes_to_another_mask(tmp_path: Path) -> None:
    """Each byte changed in turn: an error, or a byte that does not matter."""
    mask = invent(9, 7)
    data = encode_mask(mask, PALETTE)
    pixels = data.index(b"IDAT")
    for at in [*range(60), *range(pixels - 4, len(data))]:
        (tmp_path / "mask.png").write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            decoded = decode_mask(tmp_path / "mask.png")
        except UserError:
            continue
        np.testing.assert_array_equal(decoded, mask, err_msg=f"byte {at}")


@pytest.mark.parametrize("share", [0, 1, 37, 128, 200, 255, 256])
def test_paint_against_a_float_formula(share: int) -> None:
    """Opacities in 256ths are exact, halves round up."""
    random = np.random.default_rng(share)
    image = random.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    image[0], image[1] = 0, 255
    mask = invent(19, 23, ids=(0, 1, 2, 3, 7, 255))
    palette = ((255, 255, 255), (0, 0, 0), (200, 40, 41), (1, 128, 254))
    before = image.copy(), mask.copy()
    painted = paint(image, mask, palette, share / 256)
    colors = np.array([*palette, *[(0, 0, 0)] * 252], float)[mask]
    truth = np.floor(image * (1 - share / 256) + colors * (share / 256) + 0.5)
    truth[mask == 255] = image[mask == 255]
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted, truth)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize("opacity", [0.1, 1 / 3, 0.55, 0.999])
def test_other_opacities_are_exact_to_one_level(opacity: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    mask = invent(19, 23, ids=(0, 1, 2))
    truth = image * (1 - opacity) + np.array(PALETTE)[mask] * opacity
    painted = paint(image, mask, PALETTE, opacity)
    np.testing.assert_allclose(painted.astype(float), truth, rtol=0, atol=1.01)  # 1/512 of the opacity, and rounding


def test_paint_by_hand() -> None:
    image = np.array([[[100, 101, 0], [10, 20, 30]]], np.uint8)
    mask = np.array([[1, 255]], np.uint8)
    assert paint(image, mask, PALETTE).tolist() == [[[150, 71, 20], [10, 20, 30]]]  # 70.5 is rounded up
