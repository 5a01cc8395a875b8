"""The recipes for public datasets, on miniatures of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data.miniatures import Miniature

from ccnet3d.cli import evaluate, train
from ccnet3d.data import read_dataset_spec
from ccnet3d.resources import find_dataset, recipe_file
from ccnet3d.training import read_recipe

RECIPES = ["ade20k_r101", "cityscapes_r101", "lip_r101", "vspw_r101"]

TINY = [
    "epochs=1", "model.backbone_weights=", "model.overrides.backbone=test_resnet", "model.overrides.output_stride=32",
    "model.overrides.channels=16", "data.frames_per_batch=2", "data.workers=0", "data.augmentation.crop_size=[33,33]",
]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the paper states; and one line where the data is absent."""
    recipe = read_recipe(recipe_file(name))
    optimizer, loss = recipe.optimizer, recipe.losses.cross_entropy
    assert (optimizer.name, optimizer.weight_decay, optimizer.schedule) == ("sgd", 1e-4, "poly")
    assert (loss.weight, loss.auxiliary_weight, recipe.ema_decay) == (1.0, 0.4, 0)
    spec = read_dataset_spec(find_dataset(recipe.data.dataset))
    config = recipe.model.build_config(len(spec.classes))
    assert (config.backbone, config.output_stride, config.channels) == ("resnet101", 8, 512)
    assert config.loops == (3 if name == "vspw_r101" else 2)
    text = recipe_file(name).read_text(encoding="utf-8")
    assert f"ccnet3d-train {name} --data" in text
    assert f"ccnet3d-evaluate --dataset {recipe.data.dataset} --data" in text
    if name == "cityscapes_r101":
        assert (recipe.data.frames_per_batch, optimizer.learning_rate) == (8, 1e-2)
        assert recipe.data.augmentation.crop_size == (769, 769)
        assert 59_000 < recipe.epochs * 2975 / 8 < 61_000
    monkeypatch.chdir(tmp_path)
    assert train.main([name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ccnet3d-train: error: no data folder at data/{spec.name}; ")
    assert f"datasets/{spec.name}/README.md says how to get it" in line
    (tmp_path / "data" / spec.name).mkdir(parents=True)
    assert train.main([name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no {spec.name} data for the split 'train' in data/{spec.name}; expected " in line


@pytest.mark.parametrize("name", ["ade20k_r101", "cityscapes_r101", "vspw_r101"])
def test_training_and_evaluation(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of several sizes, windows of large ones, and clips."""
    monkeypatch.chdir(tmp_path)
    dataset = name.removesuffix("_r101")
    Miniature(tmp_path / "data" / dataset, (48, 64)).write(dataset)
    clips = ["data.clip_lengths=[2]", "inference_clip_length=2"] if dataset == "vspw" else []
    overrides = [*TINY, *clips, "data.input_size=[48,64]"]
    assert train.main([name, "--threads", "1", *(item for one in overrides for item in ("--set", one))]) == 0
    model = f"runs/{name}/model.safetensors"
    views = {
        "ade20k": ["--scales", "0.5,1", "--flip"],
        "cityscapes": ["--window", "33x33", "--scales", "0.75,1", "--flip"],
        "vspw": ["--consistency"],
    }[dataset]
    options = ["--dataset", dataset, "--split", "val", "--checkpoint", model, "--json", "scores.json", *views]
    assert evaluate.main(options) == 0
    scores = json.loads(Path("scores.json").read_text())
    assert scores["frames"] == {"ade20k": 2, "cityscapes": 1, "vspw": 2}[dataset]
    assert 0 <= scores["miou"] <= 1
    assert len(scores["per_class_iou"]) == {"ade20k": 150, "cityscapes": 19, "vspw": 124}[dataset]
