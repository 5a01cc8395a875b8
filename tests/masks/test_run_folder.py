from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from masks.samples import PALETTE, invent
from PIL import Image

from ccnet3d.errors import UserError
from ccnet3d.masks import FORMATS, RunFolder, is_run_folder
from ccnet3d.masks.palette import decode_mask, encode_mask
from ccnet3d.masks.png_format import mask_path, read_masks, saved_frame_indices
from ccnet3d.masks.run_folder import encode_probabilities


@pytest.mark.parametrize("shape", [(3, 4, 5), (256, 1, 1), (1, 7, 3)])
def test_probabilities(shape: tuple[int, int, int]) -> None:
    probabilities = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_probabilities(probabilities)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert file.files == ["probabilities"]
        assert file["probabilities"].dtype == np.uint8
        np.testing.assert_array_equal(file["probabilities"], probabilities)
    assert encode_probabilities(probabilities) == data
    assert len(encode_probabilities(np.zeros((10, 50, 50), np.uint8))) < 2000


def test_saved_masks_among_other_files(tmp_path: Path) -> None:
    masks = {0: invent(3, 5, 0), 7: invent(3, 5, 1), 123_456: invent(3, 5, 2), 1_000_000: invent(3, 5, 3)}
    for index in (1_000_000, 7, 123_456, 0):
        RunFolder(tmp_path).write_mask(index, masks[index], PALETTE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000.png", "000007.png", "1000000.png", "123456.png",
    ]  # fmt: skip
    Image.new("RGB", (5, 3)).save(tmp_path / "000001.png")  # a frame of the video
    (tmp_path / "000002.png").write_bytes(b"no image")
    (tmp_path / "0003.png").write_bytes(encode_mask(masks[0], PALETTE))
    (tmp_path / "000004.npz").touch()
    (tmp_path / "cover.png").write_bytes(encode_mask(masks[0], PALETTE))
    assert saved_frame_indices(tmp_path) == [0, 7, 123_456, 1_000_000]
    assert RunFolder(tmp_path).outputs() == [mask_path(tmp_path, index) for index in masks]
    assert saved_frame_indices(tmp_path / "absent") == []
    for index, mask in zip([7, 1_000_000], read_masks(tmp_path, [7, 1_000_000]), strict=True):
        np.testing.assert_array_equal(mask, masks[index])
    with pytest.raises(UserError, match=r"cannot read the mask .*000005\.png"):
        list(read_masks(tmp_path, [0, 5]))


def test_huge_images_are_not_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("P", (9, 9)).save(tmp_path / "000000.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert saved_frame_indices(tmp_path) == []
    with pytest.raises(UserError, match="cannot read the mask .*exceeds limit"):
        decode_mask(tmp_path / "000000.png")


@pytest.mark.parametrize("name", ["png", "npz"])
def test_life_of_a_run(tmp_path: Path, name: str) -> None:
    run, settings = RunFolder(tmp_path / "new", FORMATS[name]), {"video": "a"}
    assert not is_run_folder(run.folder)
    assert run.begin(settings, resume=False, overwrite=False) == []
    assert is_run_folder(run.folder)
    assert run.is_interrupted()
    assert run.read_summary() is None
    run.write_mask(3, invent(2, 2), PALETTE)
    assert RunFolder(run.folder, FORMATS[name]).begin(settings, resume=True, overwrite=False) == [3]
    run.complete({"frames": 1})
    assert is_run_folder(run.folder)
    assert not run.is_interrupted()
    assert run.read_summary() == {"frames": 1}
    left = ["000003.png", "summary.json"] if name == "png" else ["summary.json"]
    assert sorted(path.name for path in run.folder.iterdir()) == left


def test_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot use the output folder .*file/masks: Not a directory"):
        RunFolder(tmp_path / "file" / "masks").begin({}, resume=False, overwrite=False)

    with pytest.raises(UserError, match=r"the output folder .*file is a file; give another name"):
        RunFolder(tmp_path / "file").begin({}, resume=False, overwrite=False)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere inside")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(UserError, match=r"cannot use the output folder .*masks: Permission denied"):
        RunFolder(tmp_path / "masks").begin({}, resume=False, overwrite=False)
