from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from conftest import CAMVID_SPEC, draw_scene, write_sequence
from PIL import Image
from tiny_run import RECIPE, make_trainer

from ccnet3d.data import ClipRequest, DataSource, LabelledSequences, inspect_frames


def open_train(yard: Path) -> LabelledSequences:
    return DataSource(yard, CAMVID_SPEC).open("train")


def cached(yard: Path, folder: Path) -> LabelledSequences:
    dataset = open_train(yard)
    dataset.write_cache(folder, inspect_frames(dataset, equal_sizes=False).sizes)
    return DataSource(yard, CAMVID_SPEC, cache=folder).open("train")


def test_the_same_frames_without_their_files(yard: Path, tmp_path: Path) -> None:
    for image, folder in zip(draw_scene(5, height=40), ("frames", "labels"), strict=True):  # one of another size
        Image.fromarray(image).save(yard / folder / "walk" / "0005.png")
    plain, quick = open_train(yard), cached(yard, tmp_path / "cache")
    expected = [(plain.read_image(index), plain.read_label(index)) for index in range(len(plain))]
    for path in [*(yard / "frames").rglob("*.png"), *(yard / "labels").rglob("*.png")]:
        path.unlink()
    again = pickle.loads(pickle.dumps(quick))  # as a DataLoader worker that is not forked gets it
    for index, (image, label) in enumerate(expected):
        for dataset in (quick, again):
            torch.testing.assert_close(dataset.read_image(index), image, rtol=0, atol=0)
            torch.testing.assert_close(dataset.read_label(index), label, rtol=0, atol=0)
            assert dataset.read_image(index).stride() == image.stride()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]
    assert not list(yard.rglob("*.safetensors"))


@pytest.mark.parametrize("change", ["time", "size", "classes"])
def test_a_change_leads_to_another_file(yard: Path, tmp_path: Path, change: str) -> None:
    cached(yard, tmp_path)
    before = open_train(yard).cache_path(tmp_path)
    label, spec = yard / "labels" / "walk" / "0001.png", yard / "dataset.toml"
    if change == "time":
        os.utime(label, ns=(0, label.stat().st_mtime_ns + 1))
    elif change == "size":
        Image.fromarray(draw_scene(8)[1]).save(label, compress_level=0)
    else:
        spec.write_text(spec.read_text().replace("[splits]", "void_ids = [254, 255]\n[splits]"))
    dataset = DataSource(yard, CAMVID_SPEC, cache=tmp_path).open("train")
    assert dataset.cache_path(tmp_path) != before
    assert dataset.cache is None


def test_file_names_follow_from_the_description_and_the_sources(tmp_path: Path) -> None:
    """The name changes with the format alone, so that an existing cache of the format remains valid."""
    write_sequence(tmp_path, "walk", [1])
    (tmp_path / "dataset.toml").write_text(
        'name = "yard"\nclasses = [{ name = "a", color = [0, 0, 1] }, { name = "b", color = [1, 0, 0] }]\n'
        'splits = { train = ["walk"] }\n'
    )
    paths = [tmp_path / folder / "walk" / "0001.png" for folder in ("frames", "labels")]
    spec = (
        "DatasetSpec(name='yard', classes=(ClassSpec(name='a', color=(0, 0, 1), merges=()), ClassSpec(name='b', "
        "color=(1, 0, 0), merges=())), description='', homepage='', terms='', layouts=(LayoutSpec(images='frames', "
        "labels='labels', label_suffix='', label_encoding='id', pair_list='', frame_list=''),), "
        "splits={'train': ('walk',)}, void_ids=(255,), source_colors={}, frame_pattern='', max_gap_frames=0)"
    )
    layout = (
        "LayoutSpec(images='frames', labels='labels', label_suffix='', label_encoding='id', pair_list='', "
        "frame_list='')"
    )
    sources = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    digest = hashlib.sha256(json.dumps([2, spec, layout, sources]).encode()).hexdigest()
    expected = tmp_path / "cache" / f"frames-{digest[:16]}.safetensors"
    assert DataSource(tmp_path).open("train").cache_path(tmp_path / "cache") == expected


def test_training_is_the_same_to_the_byte(yard: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    write_sequence(large, "walk", [1, 2, 3, 4, 5, 6])
    write_sequence(large, "yard_2", [10, 12])
    (large / "dataset.toml").write_text((yard / "dataset.toml").read_text())
    data = dataclasses.replace(RECIPE.data, high_resolution_share=0.5, workers=1)
    recipe = dataclasses.replace(RECIPE, epochs=2, data=data)
    models = [make_trainer(yard, tmp_path / "plain", recipe, high_resolution=large).run()]
    for name in ("writing", "reading"):
        trainer = make_trainer(yard, tmp_path / name, recipe, high_resolution=large, cache=tmp_path / "cache")
        assert trainer.train_set.cache is not None
        models.append(trainer.run())
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert models[0].read_bytes() == models[1].read_bytes() == models[2].read_bytes()
    # A damaged file is written again.
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    trainer = make_trainer(yard, tmp_path / "x", recipe, high_resolution=large, cache=tmp_path / "cache")
    assert trainer.train_set.cache is not None


def test_nothing_is_cached_if_a_file_is_invalid(yard: Path, tmp_path: Path) -> None:
    (yard / "labels" / "night" / "0003.png").write_bytes(b"")  # of the other split
    with pytest.raises(ValueError, match="a file is invalid"):
        make_trainer(yard, tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_clips_are_the_same(yard: Path, tmp_path: Path) -> None:
    plain, quick = open_train(yard), cached(yard, tmp_path)
    plain.transform = quick.transform = RECIPE.data.augmentation
    for seed in range(4):
        request = ClipRequest(2 * seed, 1, 3, seed)
        torch.testing.assert_close(quick[request], plain[request], rtol=0, atol=0)
