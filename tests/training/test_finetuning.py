"""Runs that start from a model of other classes, and sizes that fit the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import RECIPE, SMALL, make_trainer

from ccnet3d.cli import train
from ccnet3d.data import Augmentation
from ccnet3d.errors import UserError
from ccnet3d.models import load_model
from ccnet3d.resources import recipe_file
from ccnet3d.training import DataRecipe, ModelRecipe, OptimizerRecipe, Recipe, read_recipe
from ccnet3d.training.sizes import fitted_sizes

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny_finetune(weights: Path, **model: object) -> Recipe:
    start = ModelRecipe(architecture="initial_weights", initial_weights=str(weights), **model)  # type: ignore[arg-type]
    return replace(RECIPE, epochs=1, model=start)


def use_classes(yard: Path, *names: str) -> None:
    text = (yard / "dataset.toml").read_text()
    for old, new in zip(("ground", "box", "rail"), names, strict=True):
        text = text.replace(f'"{old}", color', f'"{new}" , color')
    (yard / "dataset.toml").write_text(text)


def test_the_architecture_is_that_of_the_weights(yard: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    use_classes(yard, "dog", "Rail", "cat")
    trainer = make_trainer(yard, tmp_path / "run", tiny_finetune(tiny_checkpoint, frozen=("backbone",)))
    trained, info = load_model(tiny_checkpoint)
    assert trainer.model.config == info.model
    assert trainer.transfer is not None
    assert trainer.transfer.shared == ("Rail",)
    assert torch.equal(trainer.model.classifier.weight[1], trained.classifier.weight[2])
    saved, description = load_model(trainer.run())
    assert description.class_names == ("dog", "Rail", "cat")
    start, end = trained.state_dict(), saved.state_dict()
    moved = {name.partition(".")[0] for name in start if not torch.allclose(start[name], end[name], rtol=1e-3)}
    assert "backbone" not in moved
    assert {"head", "classifier"} <= moved


def test_learning_rates_by_depth(yard: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The first layer learns slowest, parts with new classes fastest."""
    use_classes(yard, "dog", "rail", "cat")
    rates = OptimizerRecipe(learning_rate=0.1, backbone_factor=0.5, backbone_first_factor=0.25, new_factor=10.0)
    trainer = make_trainer(yard, tmp_path, replace(tiny_finetune(tiny_checkpoint), optimizer=rates))
    rate_of = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    by_name = {name: rate_of[id(p)] for name, p in trainer.model.named_parameters()}
    backbone = [rate for name, rate in by_name.items() if name.startswith("backbone.")]
    assert backbone == sorted(backbone)
    assert (backbone[0], backbone[-1]) == pytest.approx((0.0125, 0.05))
    others = {name.partition(".")[0]: rate for name, rate in by_name.items() if not name.startswith("backbone.")}
    assert others == pytest.approx({"head": 0.1, "decoder": 0.1, "classifier": 1.0, "auxiliary": 1.0})


def test_what_does_not_fit_is_one_error(yard: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    other = replace(tiny_finetune(tiny_checkpoint).model, architecture="ccnet3d_b0")
    with pytest.raises(UserError, match=r"of another architecture \(.*\); .*set model.architecture=initial_weights"):
        make_trainer(yard, tmp_path, replace(RECIPE, model=other))
    with pytest.raises(UserError, match=r"model.frozen names 'backbon', which the model lacks; it has backbone, "):
        make_trainer(yard, tmp_path, tiny_finetune(tiny_checkpoint, frozen=("backbon",)))
    with pytest.raises(UserError, match="model.frozen names every part"):
        every = tuple(name for name, _ in load_model(tiny_checkpoint)[0].named_children())
        make_trainer(yard, tmp_path, tiny_finetune(tiny_checkpoint, frozen=every))
    with pytest.raises(UserError, match="opposites, set only one of them"):
        tiny_finetune(tiny_checkpoint, frozen=("backbone",), trained=("head",))
    with pytest.raises(UserError, match="that of initial_weights, but model.initial_weights is empty"):
        ModelRecipe(architecture="initial_weights")
    with pytest.raises(UserError, match="there is no model file at nowhere"):
        ModelRecipe(architecture="initial_weights", initial_weights="nowhere").build_config(3)


def test_the_command_finetunes(
    yard: Path,
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the options alone, with sizes for frames of 64x48, to a model file that the printed line names."""
    use_classes(yard, "dog", "rail", "cat")
    monkeypatch.chdir(tmp_path)
    arguments = [
        "finetune",
        "--data",
        str(yard),
        "--initial-weights",
        str(tiny_checkpoint),
        "--freeze",
        "backbone,head",
    ]
    changed = ["epochs=1", "data.workers=0", "precision=fp32", "data.frames_per_batch=11"]
    changed = ["--freeze", "backbone,head", *(item for value in changed for item in ("--set", value))]
    assert train.main([*arguments, *changed, "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"from {tiny_checkpoint}: ")
    assert lines[0].endswith("%), the class rail among them; new for dog, cat: classifier, auxiliary")
    assert lines[1] == (
        "sizes that fit the frames: 128x96, crops of 64x64; for those of the recipe (800x608), give "
        "--set data.fit_sizes=false"
    )
    assert lines[2].endswith("1 step on cpu; writing to runs/yard_finetune")
    assert lines[-1] == "ccnet3d-infer video.mp4 -o masks/ --checkpoint runs/yard_finetune/model.safetensors"
    _, info = load_model("runs/yard_finetune/model.safetensors")
    assert info.input_size == (96, 128)
    assert info.recipe["model"]["frozen"] == ["backbone", "head"]
    assert train.main([*arguments, "--freeze", "neck", "--out", "other"]) == 2
    assert "model.frozen names 'neck'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("frame", "input_size", "crop_size"),
    [
        ((360, 480), (608, 800), (416, 544)),  # CamVid, enlarged 1.7 times
        ((720, 960), (608, 800), (416, 544)),
        ((480, 720), (608, 800), (416, 544)),  # 3:2
        ((720, 1280), (512, 928), (352, 640)),  # 16:9, the same area
        ((1280, 720), (928, 512), (640, 352)),
        ((96, 128), (192, 256), (128, 160)),  # enlarged twofold
        ((10, 10), (32, 32), (32, 32)),
    ],
)  # fmt: skip
def test_sizes(frame: tuple[int, int], input_size: tuple[int, int], crop_size: tuple[int, int]) -> None:
    crops = Augmentation(crop_size=(416, 544), crop_aspect=(1.15, 1.5))
    fitted = fitted_sizes(DataRecipe(input_size=(608, 800), fit_sizes=True, augmentation=crops), frame)
    assert fitted.input_size == input_size
    assert fitted.augmentation.crop_size == crop_size
    plain = DataRecipe(input_size=(608, 800))
    assert fitted_sizes(plain, frame) is plain


def test_sizes_that_are_given_are_kept() -> None:
    path = recipe_file("finetune")
    assert read_recipe(path).data.fit_sizes
    assert not read_recipe(path, ["data.input_size=[48,64]"]).data.fit_sizes
    assert not read_recipe(path, SMALL).data.fit_sizes
    assert read_recipe(path, ["data.input_size=[48,64]", "data.fit_sizes=true"]).data.fit_sizes


def test_runs_of_two_datasets_have_two_folders(yard: Path) -> None:
    from ccnet3d.data import DataSource

    source = DataSource(yard)
    assert train.run_name("camvid_lite", source) == "yard_camvid_lite"
    assert train.run_name("adapt", None) == "adapt"
    text = (yard / "dataset.toml").read_text()
    for name, run in [("camvid", "camvid_lite"), ("../a b", "a-b_camvid_lite"), ("///", "camvid_lite")]:
        (yard / "dataset.toml").write_text(text.replace('name = "yard"', f'name = "{name}"'))
        assert train.run_name("camvid_lite", source) == run
