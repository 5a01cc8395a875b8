from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from miniature_coco import write_miniature
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ccnet3d.cli.instances import main
from ccnet3d.config import apply_overrides, read_toml
from ccnet3d.distributed import Processes
from ccnet3d.errors import UserError
from ccnet3d.instances import InstanceRecipe, InstanceTrainer, load_detector, read_instance_recipe

pytest.importorskip("pycocotools")

RECIPE = REPOSITORY / "pipelines" / "coco_maskrcnn.toml"

TINY = [
    "epochs=2",
    "detector.backbone=resnet18",
    "detector.width=16",
    "detector.channels=16",
    "detector.anchor_sizes=[8, 16, 24, 32, 64]",
    "detector.min_size=64",
    "detector.max_size=64",
    "detector.frozen_batch_norm=false",
    "detector.regions_per_image=32",
    "detector.detections_per_image=10",
    "weights.backbone_weights=",
    "weights.trained_stages=5",
    "data.images_per_step=4",
    "data.workers=0",
    "evaluate_every=2",
    "optimizer.warmup_steps=10",
    "optimizer.drop_epochs=[2]",
]
"""The recipe with a small network, for images of 64x64 pixels."""


def set_options(*more: str) -> list[str]:
    return [part for override in (*TINY, *more) for part in ("--set", override)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature(tmp_path_factory.mktemp("coco") / "data", train=150, val=12)


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    """The folder of a run of two epochs."""
    out = root.parent / "run"
    assert (
        main(["train", "coco_maskrcnn", "--data", str(root), "--out", str(out), "--device", "cpu", *set_options()]) == 0
    )
    return out


def test_two_epochs_on_a_miniature(root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(run / "model.safetensors")
    model, info = load_detector(run / "model.safetensors")
    assert (info.class_names, info.category_ids) == (("square", "disk", "triangle"), (3, 7, 12))
    assert info.recipe["detector"]["context"] == "criss_cross"
    assert model.backbone.body.layer3.context.gamma.item() != 0
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    assert {"loss/total", "loss/mask", "loss/objectness", "val/box_ap", "learning_rate"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("val/mask_ap")] == [68]

    assert main(["evaluate", "--checkpoint", checkpoint, "--data", str(root), "-o", str(tmp_path / "scores")]) == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["scores"]
    assert scores == pytest.approx(info.scores)
    assert scores["box_ap50"] > 0.3
    assert scores["mask_ap50"] > 0.3
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "        AP  AP50  AP75   APs   APm   APl"
    assert [line.split()[0] for line in printed[1:]] == ["box", "mask"]
    results = json.loads((tmp_path / "scores" / "detections.json").read_text())
    assert {*results[0]} == {"image_id", "category_id", "bbox", "score", "segmentation"}

    half = ["--dtype", "bf16", "-o", str(tmp_path / "half")]
    assert main(["evaluate", "--checkpoint", checkpoint, "--data", str(root), *half]) == 0
    halves = json.loads((tmp_path / "half" / "scores.json").read_text())["scores"]
    assert halves != scores
    assert [halves[name] for name in ("box_ap50", "mask_ap50")] == pytest.approx(
        [scores[name] for name in ("box_ap50", "mask_ap50")], abs=0.1
    )

    assert main(["infer", str(root / "val2017"), "--checkpoint", checkpoint, "-o", str(tmp_path / "objects")]) == 0
    table = json.loads((tmp_path / "objects" / "detections.json").read_text())
    assert [image["file_name"] for image in table["images"][:2]] == ["000001.png", "000002.png"]
    confident = [(one["image_id"], one["category_id"], one["bbox"]) for one in results if one["score"] >= 0.5]
    assert confident
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in table["annotations"]] == confident
    image_id = confident[0][0]
    with Image.open(tmp_path / "objects" / "overlays" / f"{image_id:06d}.png") as drawn:
        assert drawn.size == (64, 64)
        with Image.open(root / "val2017" / f"{image_id:06d}.png") as original:
            assert drawn.tobytes() != original.tobytes()


class InterruptedRunError(Exception):
    pass


def make_trainer(root: Path, out: Path, *overrides: str, processes: Processes | None = None) -> InstanceTrainer:
    recipe = read_instance_recipe(RECIPE, [*TINY, "detector.width=8", *overrides])
    return InstanceTrainer(recipe, root, out, torch.device("cpu"), processes=processes)


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_miniature(tmp_path / "data", train=9, val=2)
    overrides = ("detector.context=non_local", "data.accumulate_steps=2", "optimizer.clip_gradient_norm=10")
    whole = make_trainer(root, tmp_path / "whole", *overrides)
    assert whole.warnings == ["train: 1 of 9 images without objects left out"]
    assert (whole.steps_per_epoch, whole.total_steps) == (2, 4)
    expected = whole.run().read_bytes()
    killed = make_trainer(root, tmp_path / "killed", *overrides)
    step = killed.train_step

    def interrupted_step(number: int, samples: Sequence[Any]) -> dict[str, float]:
        if number == 3:
            raise InterruptedRunError
        return step(number, samples)

    monkeypatch.setattr(killed, "train_step", interrupted_step)
    with pytest.raises(InterruptedRunError):
        killed.run()
    resumed = make_trainer(root, tmp_path / "killed", *overrides)
    torch.manual_seed(99)  # no step depends on the previous random state
    assert resumed.run(resume=True).read_bytes() == expected
    with pytest.raises(UserError, match=r"belongs to another recipe: data differ"):
        make_trainer(root, tmp_path / "killed", *overrides, "data.flip=0").run(resume=True)


def test_a_run_starts_from_another_one(root: Path, run: Path, tmp_path: Path) -> None:
    start = f"weights.initial_weights={run / 'model.safetensors'}"
    recipe = read_instance_recipe(RECIPE, [*TINY, start, "detector.context=none"])
    trainer = InstanceTrainer(recipe, root, tmp_path, torch.device("cpu"))
    trained, _ = load_detector(run / "model.safetensors")
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


def test_what_is_missing_is_said_in_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert main(["infer", str(tmp_path), "--checkpoint", "none.safetensors", "-o", str(tmp_path / "out")]) == 2
    assert main(["train", "camvid_lite", "--data", str(root)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "train2017; for COCO, get train2017.zip, val2017.zip and annotations_trainval2017.zip" in lines[0]
    assert "there is no model file at none.safetensors" in lines[1]
    assert "is not a recipe of instance segmentation; run: ccnet3d-train camvid_lite" in lines[2]
    assert len(lines) == 3
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="images_per_step = 4 cannot be split evenly over 3 processes times 1 accumula"):
        make_trainer(root, tmp_path / "run", processes=Processes(0, 3))


def test_the_recipe() -> None:
    recipe = read_instance_recipe(RECIPE)
    assert recipe == replace(InstanceRecipe(epochs=12), weights=replace(recipe.weights, backbone_weights="hub"))
    assert set(apply_overrides(read_toml(RECIPE), [])["detector"]) == {"backbone", "context", "loops"}
    for override, message in [
        ("data.images_per_step=0", "data.images_per_step must be in 1 to 16384, got 0"),
        ("optimizer.momentum=2", "optimizer.momentum must be in 0 to 1, got 2"),
        ("weights.trained_stages=6", "weights.trained_stages must be in 0 to 5, got 6"),
        ("precision=fp16", "precision must be 'fp32' or 'bf16', got 'fp16'"),
        ("detector.size=3", "unknown key 'size' in detector"),
    ]:
        with pytest.raises(UserError, match=message):
            read_instance_recipe(RECIPE, [override])
