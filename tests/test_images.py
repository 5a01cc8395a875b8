from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_scene
from image_files import write_bomb, write_png
from PIL import Image
from video.corpus import ffmpeg

from ccnet3d.errors import UserError
from ccnet3d.images import LOSSLESS_SUFFIXES, find_images, read_ids, read_rgb

HEIGHT, WIDTH = 12, 16


def wide_values(channels: int) -> np.ndarray:
    """Return values over all of 16 bits, uint16 ``[12, 16, channels]``."""
    gray = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 341
    return np.stack([gray, gray[::-1], gray[:, ::-1]], axis=-1)[..., :channels]


@pytest.mark.parametrize("name", ["gray.png", "gray.tif", "gray.pgm", "color.png", "color.tif", "color.ppm"])
def test_16_bits_are_scaled_as_ffmpeg_does(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    values = wide_values(1 if name.startswith("gray") else 3)
    size, kind = f"{WIDTH}x{HEIGHT}", "gray16le" if values.shape[2] == 1 else "rgb48le"
    ffmpeg("-f", "rawvideo", "-pix_fmt", kind, "-s", size, "-i", "-", path, stdin=values.tobytes())
    decoded, _ = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-sws_flags", "accurate_rnd", "-")
    truth = np.frombuffer(decoded, np.uint8).reshape(HEIGHT, WIDTH, 3)
    image = read_rgb(path)
    assert (image.dtype, image.shape) == (np.uint8, (HEIGHT, WIDTH, 3))
    assert np.abs(image - values / 257).max() <= 1
    assert np.abs(image.astype(int) - truth).max() <= 2  # which rounds some kinds, and drops the low byte of others


def test_values_of_unknown_scale_are_refused(tmp_path: Path) -> None:
    """Clipped to 255, they would be black or white without a word."""
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif has floating-point values, whose scale is unknown; convert it"):
        read_rgb(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif is an image of mode F, expected class ids"):
        read_ids(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(UserError, match=r"wide\.tif has values from 1048576 to 1048576; convert it to 8 or 16 bits"):
        read_rgb(tmp_path / "wide.tif")


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
"""From stored to upright pixels, by the table of EXIF 2.32, tag 0x0112: where row 0 and column 0 are in the picture."""


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(tmp_path: Path, orientation: int) -> None:
    rgb, ids = draw_scene(1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, pixels in (("a.png", rgb), ("a.tif", rgb), ("ids.png", ids), ("wide.png", ids.astype(np.uint16) * 257)):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    turn = UPRIGHT[orientation]
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), turn(rgb))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), turn(rgb))
    np.testing.assert_array_equal(read_rgb(tmp_path / "wide.png")[..., 0], turn(ids))
    np.testing.assert_array_equal(read_ids(tmp_path / "ids.png"), turn(ids))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ids_are_the_stored_values(tmp_path: Path, bits: int) -> None:
    ids = np.arange(7 * 11).reshape(7, 11) % (1 << bits)
    write_png(tmp_path / "gray.png", ids, bits)
    palette = Image.fromarray(ids.astype(np.uint8))
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(tmp_path / "palette.png", bits=bits)
    for name in ("gray.png", "palette.png"):
        np.testing.assert_array_equal(read_ids(tmp_path / name), ids)
    levels = ids * 255 // ((1 << bits) - 1)  # as a picture, the largest value is white
    np.testing.assert_array_equal(read_rgb(tmp_path / "gray.png")[..., 0], levels)


def test_ids_of_2_bits_in_a_tiff(tmp_path: Path) -> None:
    ids = np.arange(64).reshape(8, 8) % 4
    raw = (ids * 85).astype(np.uint8).tobytes()
    ffmpeg("-f", "rawvideo", "-pix_fmt", "gray", "-s", "8x8", "-i", "-", tmp_path / "8.tif", stdin=raw)
    assert read_ids(tmp_path / "8.tif").max() == 255  # of 8 bits: as they are
    pixel_bits = np.unpackbits(ids.astype(np.uint8)[..., None], axis=2)[..., 6:]
    data = np.packbits(pixel_bits.reshape(8, -1), axis=1).tobytes()
    entries = [(256, 8), (257, 8), (258, 2), (259, 1), (262, 1), (273, 8), (278, 8), (279, len(data))]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    (tmp_path / "2.tif").write_bytes(header + data + struct.pack("<H", len(entries)) + table + bytes(4))
    np.testing.assert_array_equal(read_ids(tmp_path / "2.tif"), ids)


def test_bombs_are_errors_that_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    write_bomb(path)
    for read in (read_rgb, read_ids):
        with pytest.raises(UserError, match=r"^cannot read the image .*bomb\.png: .*exceeds limit") as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about metadata
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "jpg"])
def test_damage_is_one_error(tmp_path: Path, suffix: str) -> None:
    """Random bytes in the header: a decoded image or one line, whatever Pillow raises."""
    path, buffer = tmp_path / f"x.{suffix}", io.BytesIO()
    Image.fromarray(draw_scene(1)[0]).save(buffer, Image.registered_extensions()[f".{suffix}"])
    whole, random = buffer.getvalue(), np.random.default_rng(0)
    refused: list[str] = []
    for _ in range(100):
        damaged = bytearray(whole)
        for position in random.integers(0, min(300, len(whole)), 3):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        for read in (read_rgb, read_ids):
            try:
                read(path)
            except UserError as error:
                refused.append(str(error))
    assert len(refused) > 10
    assert all(str(path) in line and "\n" not in line for line in refused)


def test_which_names_are_data(tmp_path: Path) -> None:
    kept = ["1.png", "2.PNG", "3.JpEg", "6.tga", "deep/er/4.tif", "sequence.png.d/5.png"]
    left = ["._1.png", ".ipynb_checkpoints/1-checkpoint.png", "Thumbs.db", "@eaDir/1.png", "__MACOSX/1.png"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == [tmp_path / name for name in sorted(kept)]
    assert [path.name for path in find_images(tmp_path, LOSSLESS_SUFFIXES)] == ["1.png", "2.PNG", "4.tif", "5.png"]
    hidden = tmp_path / ".hidden"  # names count below the given folder only
    hidden.mkdir()
    (hidden / "1.png").touch()
    assert find_images(hidden) == [hidden / "1.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(UserError, match=r"the folder .*closed cannot be read \(Permission denied\)"):
        find_images(tmp_path)
