from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY

from ccnet3d.errors import UserError
from ccnet3d.models import ARCHITECTURES
from ccnet3d.training import OptimizerRecipe, build_model, read_recipe
from ccnet3d.training.optimizer import learning_rate_factor

RECIPES = sorted({*(REPOSITORY / "pipelines").glob("*.toml")} - {REPOSITORY / "pipelines" / "coco_maskrcnn.toml"})


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path)
    config = recipe.model.build_config(num_classes=11)
    # Initial values may differ from the architecture, the model itself only in an attention that a later stage trains.
    named = recipe.model.architecture != "initial_weights"
    expected = ARCHITECTURES[recipe.model.architecture if named else "ccnet3d_b0"]  # that of the default weights
    loops = config.evidence_loops or expected.evidence_loops
    assert replace(config, initial_gamma=expected.initial_gamma, evidence_loops=loops) == expected


def test_the_papers_recipe() -> None:
    recipe = read_recipe(REPOSITORY / "pipelines" / "camvid_resnet101.toml")
    optimizer, loss = recipe.optimizer, recipe.losses.cross_entropy
    assert (optimizer.name, optimizer.weight_decay, optimizer.schedule) == ("sgd", 1e-4, "poly")
    assert (loss.weight, loss.auxiliary_weight, loss.hard_threshold, loss.hard_pixels) == (1.0, 0.4, 0.7, 100_000)
    assert recipe.model.architecture == "ccnet3d_resnet101"


def test_recipes_of_instance_segmentation_name_their_command() -> None:
    with pytest.raises(UserError, match=r"run: ccnet3d-instances train coco_maskrcnn$"):
        read_recipe(REPOSITORY / "pipelines" / "coco_maskrcnn.toml")


def test_overrides_and_errors() -> None:
    path = REPOSITORY / "pipelines" / "camvid_lite.toml"
    recipe = read_recipe(path, ["epochs=3", "data.clip_lengths=[5]", "model.overrides.loops=2"])
    assert (recipe.epochs, recipe.data.clip_lengths) == (3, (5,))
    assert recipe.model.build_config(4).loops == 2
    recipe = read_recipe(path, ["losses.category_consistent.weight=1", "model.overrides.embedding_channels=16"])
    assert recipe.model.build_config(4).embedding_channels == 16
    assert recipe.model.build_config(4).context == "criss_cross"
    assert read_recipe(path, ["model.context=aspp"]).model.build_config(4).context == "aspp"
    assert read_recipe(path, ["model.overrides.context=aspp"]).model.build_config(4).context == "aspp"
    # Another backbone implies the normalization of its weights.
    own = read_recipe(path, ["model.overrides.backbone=resnet50"]).model.build_config(4)
    assert own.input_std == (0.229, 0.224, 0.225)
    for override, message in [
        ("data.frames_per_batch=0", "must be at least 1"),
        ("data.input_size=[0, 480]", "must be at least 1"),
        ("data.augmentation.crop_area=[0.5, 1.5]", "crop_area must be a range"),
        ("data.augmentation.crop_size=[0, 5]", "crop_size must be at least 1"),
        ("data.augmentation.crop_size=[8, 20000]", "crop_size must be in 1 to 16384, got"),
        ("data.frames_per_batch=1000000000", "data.frames_per_batch must be in 1 to 16384, got 1000000000"),
        ("data.workers=100000", "data.workers must be in 0 to 1024, got 100000"),
        ("compute.accumulate_steps=100000", "compute.accumulate_steps must be in 1 to 16384, got 100000"),
        ("data.augmentation.flip=2.0", "flip must be a probability"),
        ("data.augmentation.class_crops=-0.1", "class_crops must be a probability"),
        ("data.augmentation.blur=1.5", "blur must be a probability"),
        ("data.high_resolution_share=2.0", "high_resolution_share must be a probability"),
        ("data.clip_strides=[0]", "at least one stride of 1 or more"),
        ("data.unlabelled.teachers=[]", "must name at least one model file, or 'default'"),
        ("data.unlabelled.smoothing=-1", "smoothing must be at least 0 and frame_stride at least 1, got -1 and 1"),
        ("data.unlabelled.frame_stride=0", "smoothing must be at least 0 and frame_stride at least 1, got 2 and 0"),
        ("data.unlabelled.threshold=1.5", "data.unlabelled.threshold must be a probability, got 1.5"),
        ("data.unlabelled.share=0", "data.unlabelled.share must be above 0 and at most 1, got 0"),
        ("data.unlabelled.videos=[]", "unknown key 'videos' in data.unlabelled; it has sources, teachers, smoothing"),
        ("epochz=3", "unknown key 'epochz'"),
        ("data.clip_lengths=[3]", "must divide frames_per_batch = 10, got 3"),
        ("data.clip_lengths=[]", "at least one length"),
        ("optimizer.name=lion", "'adamw' or 'sgd', got 'lion'"),
        ("optimizer.schedule=step", "'poly' or 'cosine'"),
        ("precision=fp8", "'bf16', 'fp16' or 'fp32', got 'fp8'"),
        ("compute.accumulate_steps=0", "accumulate_steps must be at least 1"),
        ("compute.backbone_gradients=none", "'all' or 'anchor', got 'none'"),
        ("compute={sync_batch_norm=true,freeze_batch_norm=true}", "synchronized or frozen"),
        (
            "model={context='aspp',overrides={context='ppm'}}",
            "model.context is 'aspp' and model.overrides.context 'ppm'; set only model.context",
        ),
        ("model.architecture=unet", "unknown architecture 'unet'"),
        ("epochs=0", "must be at least 1"),
        ("data.augmentation.hue=0.6", r"hue in \[0, 0.5\], got 0.4, 0.4, 0.4 and 0.6"),
        ("data.augmentation.contrast=-1", "at least 0 and hue .*, got 0.4, -1.0, 0.4 and 0.0"),
        ("losses.lovasz.weight=-0.5", "losses.lovasz.weight must be at least 0, got -0.5"),
        ("losses.cross_entropy.auxiliary_weight=-1", "auxiliary_weight must be at least 0, got -1.0"),
        (
            "losses.focal.weight=1",
            "unknown key 'focal' in losses; it has cross_entropy, lovasz, category_consistent, dice",
        ),
        ("losses.dice.smooth=1", "unknown key 'smooth' in losses.dice; it has weight"),
        ("losses.dice={}", "losses.dice lacks the key 'weight'"),
        ("losses={cross_entropy={weight=0}}", "every loss has weight 0; give one of cross_entropy, lovasz, .* above 0"),
        ("losses.category_consistent={weight=1,form='linear'}", r"one of \('piecewise', 'quadratic'\), got 'linear'"),
        ("losses.cross_entropy.label_smoothing=1.0", r"label_smoothing must be in \[0, 1\), got 1.0"),
        ("losses.category_consistent.weight=1", "both be above 0 or both be 0, got 1.0 and 0; the paper has 1 and 16"),
        ("model.overrides.embedding_channels=16", "both be above 0 or both be 0, got 0.0 and 16"),
        ("class_balance_offset=0.5", "class_balance_offset must be above 1, or 0, got 0.5"),
        ("optimizer.learning_rate=-1", "must be at least 0, got -1.0 and 0.02"),
        ("ema_decay=1.5", r"ema_decay must be in \[0, 1\], got 1.5"),
        ("seed=-1", "seed must be at least 0, got -1"),
    ]:
        with pytest.raises(UserError, match=message):
            read_recipe(path, [override])


@pytest.mark.parametrize(
    "override", ["loops=-1", "dropout=2.0", "backbone=no_such_model", "depth=3", "channels=4", "context=global"]
)
def test_overrides_that_do_not_make_a_model_are_user_errors(override: str) -> None:
    recipe = read_recipe(REPOSITORY / "pipelines" / "camvid_lite.toml", [f"model.overrides.{override}"])
    with pytest.raises(UserError):
        build_model(recipe.model, ["ground", "box", "rail"])


def test_learning_rate() -> None:
    poly = OptimizerRecipe(schedule="poly", warmup_steps=4)
    assert [learning_rate_factor(s, 104, poly) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert learning_rate_factor(54, 104, poly) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(104, 104, poly) == 0
    cosine = OptimizerRecipe(schedule="cosine")
    assert [learning_rate_factor(s, 4, cosine) for s in range(5)] == pytest.approx(
        [1, 0.853553, 0.5, 0.146447, 0], abs=1e-6
    )
