from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import pytest
import torch
from conftest import CAMVID_SPEC, draw_scene, write_sequence
from PIL import Image
from tiny_run import RECIPE, make_trainer

from ccnet3d.data import ClipRequest, LabelledSequences
from ccnet3d.data.cache import pack_path, write_pack
from ccnet3d.data.check import inspect_frames


def open_train(yard: Path) -> LabelledSequences:
    return LabelledSequences.open(yard, "train", spec_file=CAMVID_SPEC)


def packed(yard: Path, folder: Path) -> LabelledSequences:
    dataset = open_train(yard)
    write_pack(dataset, folder, inspect_frames(dataset, equal_sizes=False).sizes)
    dataset.use_packs(folder)
    return dataset


def test_the_same_frames_without_their_files(yard: Path, tmp_path: Path) -> None:
    for image, folder in zip(draw_scene(5, height=40), ("frames", "labels"), strict=True):  # one of another size
        Image.fromarray(image).save(yard / folder / "walk" / "0005.png")
    plain, quick = open_train(yard), packed(yard, tmp_path / "pack")
    expected = [(plain.read_image(index), plain.read_label(index)) for index in range(len(plain))]
    for path in [*(yard / "frames").rglob("*.png"), *(yard / "labels").rglob("*.png")]:
        path.unlink()
    again = pickle.loads(pickle.dumps(quick))  # as a loader's process that is not forked gets it
    for index, (image, label) in enumerate(expected):
        for dataset in (quick, again):
            torch.testing.assert_close(dataset.read_image(index), image, rtol=0, atol=0)
            torch.testing.assert_close(dataset.read_label(index), label, rtol=0, atol=0)
            assert dataset.read_image(index).stride() == image.stride()
    assert [path.suffix for path in (tmp_path / "pack").iterdir()] == [".safetensors"]
    assert not list(yard.rglob("*.safetensors"))


@pytest.mark.parametrize("change", ["time", "size", "classes"])
def test_what_changes_makes_another_file(yard: Path, tmp_path: Path, change: str) -> None:
    packed(yard, tmp_path)
    before = pack_path(open_train(yard), tmp_path)
    label, spec = yard / "labels" / "walk" / "0001.png", yard / "dataset.toml"
    if change == "time":
        os.utime(label, ns=(0, label.stat().st_mtime_ns + 1))
    elif change == "size":
        Image.fromarray(draw_scene(8)[1]).save(label, compress_level=0)
    else:
        spec.write_text(spec.read_text().replace("[splits]", "void_ids = [254, 255]\n[splits]"))
    dataset = open_train(yard)
    assert pack_path(dataset, tmp_path) != before
    dataset.use_packs(tmp_path)
    assert dataset.pack is None


def test_training_is_the_same_to_the_byte(yard: Path, tmp_path: Path) -> None:
    detail = tmp_path / "detail"
    write_sequence(detail, "walk", [1, 2, 3, 4, 5, 6])
    write_sequence(detail, "yard_2", [10, 12])
    (detail / "dataset.toml").write_text((yard / "dataset.toml").read_text())
    data = dataclasses.replace(RECIPE.data, detail_share=0.5, workers=1)
    recipe = dataclasses.replace(RECIPE, epochs=2, data=data)
    models = [make_trainer(yard, tmp_path / "plain", recipe, detail=detail).run()]
    for name in ("packing", "packed"):
        trainer = make_trainer(yard, tmp_path / name, recipe, detail=detail, pack=tmp_path / "pack")
        assert trainer.train_set.pack is not None
        models.append(trainer.run())
    assert len(list((tmp_path / "pack").iterdir())) == 2
    assert models[0].read_bytes() == models[1].read_bytes() == models[2].read_bytes()
    # A damaged file is written anew.
    for path in (tmp_path / "pack").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert make_trainer(yard, tmp_path / "x", recipe, detail=detail, pack=tmp_path / "pack").train_set.pack is not None


def test_nothing_is_packed_where_a_file_is_at_fault(yard: Path, tmp_path: Path) -> None:
    (yard / "labels" / "night" / "0003.png").write_bytes(b"")  # of the other split
    with pytest.raises(ValueError, match="a file is invalid"):
        make_trainer(yard, tmp_path / "run", pack=tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_clips_are_the_same(yard: Path, tmp_path: Path) -> None:
    plain, quick = open_train(yard), packed(yard, tmp_path)
    plain.transform = quick.transform = RECIPE.data.augmentation
    for seed in range(4):
        request = ClipRequest(2 * seed, 1, 3, seed)
        torch.testing.assert_close(quick[request], plain[request], rtol=0, atol=0)
