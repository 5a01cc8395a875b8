from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import RECIPE, make_trainer

from ccnet3d.data import RequestedSample
from ccnet3d.errors import UserError
from ccnet3d.journal import lock_folder
from ccnet3d.losses import CategoryConsistentLoss, CrossEntropyLoss, Losses
from ccnet3d.models import load_model
from ccnet3d.training import OptimizerRecipe, build_optimizer, check_run_folder

WITH_EMBEDDINGS = Losses(category_consistent=CategoryConsistentLoss(weight=1.0))


class InterruptedRunError(Exception):
    pass


def test_learns_logs_and_resumes_exactly(yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_trainer(yard, tmp_path / "whole")
    assert (whole.steps_per_epoch, whole.total_steps) == (3, 18)
    model_file = whole.run()
    _, info = load_model(model_file)
    assert (info.class_names, info.clip_length, info.input_size) == (("ground", "box", "rail"), 2, (32, 48))
    assert info.recipe["optimizer"]["learning_rate"] == 3e-3

    events = EventAccumulator(str(tmp_path / "whole"), size_guidance={"scalars": 0})
    events.Reload()
    losses = [event.value for event in events.Scalars("loss/total")]
    assert len(losses) == 18
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert {"learning_rate", "loss/cross_entropy", "loss/auxiliary", "loss/lovasz", "val/gamma", "val/miou"} <= set(
        events.Tags()["scalars"]
    )
    waits = [event.value for event in events.Scalars("speed/data_wait_share")]
    assert len(waits) == len(events.Scalars("speed/frames_per_second")) == 18
    assert all(0 < share < 1 for share in waits)
    assert events.Tags()["images"] == ["val/image, label, prediction"]
    assert [event.step for event in events.Scalars("val/miou")] == [9, 18]
    assert info.scores["val_miou"] == pytest.approx(events.Scalars("val/miou")[-1].value)

    # Killed in the fourth epoch, resumed from the checkpoint of the third with new objects.
    killed = make_trainer(yard, tmp_path / "killed")
    step = killed.train_step

    def interrupted_step(number: int, samples: Sequence[RequestedSample]) -> dict[str, float]:
        if number == 11:
            raise InterruptedRunError
        return step(number, samples)

    monkeypatch.setattr(killed, "train_step", interrupted_step)
    with pytest.raises(InterruptedRunError):
        killed.run()
    resumed = make_trainer(yard, tmp_path / "killed")
    torch.manual_seed(99)  # no step depends on the previous random state
    resumed.run(resume=True)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == model_file.read_bytes()
    events = EventAccumulator(str(tmp_path / "killed"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.value for event in events.Scalars("loss/total")] == losses
    assert [event.step for event in events.Scalars("val/miou")] == [9, 18]


def test_trains_with_category_consistency_and_without_attention(yard: Path, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE,
        epochs=1,
        model=replace(RECIPE.model, overrides={**RECIPE.model.overrides, "loops": 0, "embedding_channels": 16}),
        losses=replace(WITH_EMBEDDINGS, cross_entropy=CrossEntropyLoss(label_smoothing=0.1)),
        class_balance_offset=0.0,
    )
    trainer = make_trainer(yard, tmp_path, recipe)
    before = trainer.model.embedding.weight.detach().clone()
    model, info = load_model(trainer.run())
    assert (info.model.loops, info.model.embedding_channels) == (0, 16)
    assert (trainer.model.embedding.weight - before).abs().max() > 1e-4
    assert model.head.attention is None
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    names = {f"loss/category_consistent{term}" for term in ("", "_variance", "_distance", "_norm")}
    assert {*names, "val/miou"} <= tags
    assert "val/gamma" not in tags


def test_resume_refuses_what_does_not_fit(yard: Path, tmp_path: Path) -> None:
    one_epoch = replace(RECIPE, epochs=1)
    with pytest.raises(ValueError, match="no checkpoint at .* to resume from; start without --resume"):
        make_trainer(yard, tmp_path, one_epoch).run(resume=True)
    make_trainer(yard, tmp_path, one_epoch).run()
    with pytest.raises(ValueError, match="contains an earlier run; give --resume"):
        check_run_folder(tmp_path, resume=False)  # before its data is read
    with pytest.raises(ValueError, match="contains an earlier run; give --resume"):
        make_trainer(yard, tmp_path, one_epoch).run()
    with pytest.raises(ValueError, match="belongs to another recipe: epochs, seed differ"):
        make_trainer(yard, tmp_path, replace(RECIPE, seed=1)).run(resume=True)
    for name in (".checkpoint.pt.0123abcd.partial", ".mine.pt.0123abcd.partial"):  # as a kill leaves them
        (tmp_path / name).write_bytes(b"half of")
    (tmp_path / ".ccnet3d-files.jsonl").unlink()  # earlier versions wrote none
    make_trainer(yard, tmp_path, one_epoch).run(resume=True)
    assert [path.name for path in tmp_path.glob("*.partial")] == [".mine.pt.0123abcd.partial"]
    (tmp_path / "checkpoint.pt").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        make_trainer(yard, tmp_path, one_epoch).run(resume=True)


def test_a_model_of_others_is_not_replaced(yard: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with lock_folder(out), pytest.raises(UserError, match=r"another run is writing to .*run; wait until it ends"):
        make_trainer(yard, out).run()
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"model.safetensors exists, and is a file that ccnet3d did not write there"):
        make_trainer(yard, out).run()
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == b"mine"


def test_parameter_groups(yard: Path, tmp_path: Path) -> None:
    trainer = make_trainer(yard, tmp_path)
    recipe = OptimizerRecipe(learning_rate=0.1, backbone_factor=0.5, weight_decay=0.01)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    seen = []
    for group in build_optimizer(trainer.model, recipe).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            assert group["lr"] == (0.05 if name.startswith("backbone.") else 0.1)
            assert group["weight_decay"] == (0.01 if name.endswith("weight") and parameter.dim() > 1 else 0.0)
    assert sorted(seen) == sorted(names.values())
    assert isinstance(build_optimizer(trainer.model, OptimizerRecipe(name="sgd")), torch.optim.SGD)


def test_learning_rates_rise_through_the_backbone(yard: Path, tmp_path: Path) -> None:
    model = make_trainer(yard, tmp_path).model
    recipe = OptimizerRecipe(learning_rate=0.1, backbone_factor=0.5, backbone_first_factor=0.01)
    rates = {id(p): group["lr"] for group in build_optimizer(model, recipe).param_groups for p in group["params"]}
    backbone = [rates[id(parameter)] for parameter in model.backbone.parameters()]
    assert (backbone[0], backbone[-1]) == pytest.approx((0.0005, 0.05))
    ratios = [later / earlier for earlier, later in pairwise(backbone)]
    assert ratios == pytest.approx([100 ** (1 / (len(backbone) - 1))] * len(ratios))
    assert {rates[id(parameter)] for parameter in model.head.parameters()} == {0.1}


def test_a_run_starts_from_a_model_file(yard: Path, tmp_path: Path) -> None:
    first = make_trainer(yard, tmp_path / "first", replace(RECIPE, epochs=1))
    model_file = first.run()
    start = replace(RECIPE, model=replace(RECIPE.model, initial_weights=str(model_file)))
    trainer = make_trainer(yard, tmp_path / "second", start)
    for name, tensor in first.ema.module.state_dict().items():  # the file stores them as float16
        torch.testing.assert_close(trainer.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-6, msg=name)
    # The number of loops may differ, and whether there are embeddings.
    overrides = {**RECIPE.model.overrides, "loops": 0, "embedding_channels": 16}
    other = replace(start, model=replace(start.model, overrides=overrides), losses=WITH_EMBEDDINGS)
    weights = make_trainer(yard, tmp_path / "third", other).model.state_dict()
    assert torch.equal(weights["classifier.weight"], trainer.model.state_dict()["classifier.weight"])
    # The recipe's initial_gamma replaces the trained one.
    stronger = replace(start.model, overrides={**RECIPE.model.overrides, "initial_gamma": 0.75})
    weights = make_trainer(yard, tmp_path / "fourth", replace(start, model=stronger)).model.state_dict()
    assert weights["head.attention.gamma"] == 0.75
    assert trainer.model.state_dict()["head.attention.gamma"] != 0.75
    with pytest.raises(
        ValueError, match=r"initial_weights default are of another architecture .*only the (weights|new)"
    ):
        make_trainer(yard, tmp_path, replace(RECIPE, model=replace(RECIPE.model, initial_weights="default")))


def test_a_recipe_with_high_resolution_needs_the_frames(yard: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="draws 30% of its clips from .* higher resolution; name their folder with --high-res"
    ):
        make_trainer(yard, tmp_path, replace(RECIPE, data=replace(RECIPE.data, high_resolution_share=0.3)))


def test_a_diverged_loss_stops_the_run(yard: Path, tmp_path: Path) -> None:
    trainer = make_trainer(yard, tmp_path)
    torch.nn.init.constant_(trainer.model.classifier.weight, float("inf"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        trainer.run()
    assert not (tmp_path / "model.safetensors").exists()


def test_a_folder_that_cannot_be_written_is_a_user_error(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the output folder .*file is a file; give another name"):
        make_trainer(yard, tmp_path / "file", replace(RECIPE, epochs=1)).run()
    assert (tmp_path / "file").read_text() == ""
