from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import RECIPE, make_trainer

from ccnet3d.errors import UserError
from ccnet3d.training import OptimizerRecipe

ONE_EPOCH = replace(RECIPE, epochs=1)

State = dict[str, Any]


def first_moment(state: State) -> State:
    moments: State = state["parts"]["optimizer"]["state"][0]
    return moments


def set_moment(name: str, value: Any) -> Callable[[State], object]:
    return lambda state: first_moment(state).update({name: value})


def set_weight(value: Any) -> Callable[[State], object]:
    return lambda state: state["parts"]["model"].update({"classifier.bias": value})


BROKEN: dict[str, tuple[Callable[[State], object], str]] = {
    "a list": (lambda _: [1], "not a readable checkpoint .expected a table, got list"),
    "no parts": (lambda state: state.pop("parts"), "lacks the key 'parts'"),
    "no recipe": (lambda state: state.pop("recipe"), "lacks the key 'recipe'"),
    "recipe is a list": (lambda state: state.update(recipe="[1]"), "expected a JSON object"),
    "recipe is no JSON": (lambda state: state.update(recipe="{"), "not valid JSON"),
    "step is NaN": (lambda state: state.update(step=float("nan")), "step must be int, got nan"),
    "step is text": (lambda state: state.update(step="3"), "step must be int, got '3'"),
    "step is negative": (lambda state: state.update(step=-1), "step must be in 0 to"),
    "step is beyond the end": (lambda state: state.update(step=100), "step 100 of a run of 3"),
    "parts is a list": (lambda state: state.update(parts=[]), "parts must be"),
    "model is a number": (lambda state: state["parts"].update(model=3), "parts.model must be"),
    "no optimizer": (lambda state: state["parts"].pop("optimizer"), "does not fit the model.*lacks 'optimizer'"),
    "optimizer is empty": (lambda state: state["parts"].update(optimizer={}), "does not fit the model"),
    "another optimizer": (
        lambda state: first_moment(state).clear(), "does not fit the model.*optimizer.state.0 has other names",
    ),
    "moments of another shape": (set_moment("exp_avg", torch.zeros(3)), "optimizer.state.0.exp_avg is not a tensor"),
    "moments are text": (set_moment("exp_avg_sq", "x"), "optimizer.state.0.exp_avg_sq is not a tensor"),
    "a learning rate of text": (
        lambda state: state["parts"]["optimizer"]["param_groups"][0].update(lr="fast"), "lr is not a finite number",
    ),
    "other parameters": (
        lambda state: state["parts"]["optimizer"]["param_groups"][0]["params"].reverse(), "has other parameters",
    ),
    "a weight of another shape": (set_weight(torch.zeros(4)), r"model.classifier.bias is not a tensor \[3\]"),
    "a weight of another type": (set_weight(torch.zeros(3, dtype=torch.long)), "model.classifier.bias is torch.int64"),
    "a weight is text": (set_weight("x"), "model.classifier.bias is not a tensor"),
}  # fmt: skip


def test_broken_checkpoints(yard: Path, tmp_path: Path) -> None:
    """Each is refused in one line, before a step is done."""
    make_trainer(yard, tmp_path, ONE_EPOCH).run()
    file = tmp_path / "checkpoint.pt"
    whole = torch.load(file, weights_only=True)
    trainer = make_trainer(yard, tmp_path, ONE_EPOCH)
    for name, (break_it, message) in BROKEN.items():
        state = copy.deepcopy(whole)
        result = break_it(state)
        torch.save(result if isinstance(result, list) else state, file)
        with pytest.raises(UserError, match=message) as error:
            trainer.run(resume=True)
        assert "\n" not in str(error.value), name
    torch.save(whole, file)
    trainer.run(resume=True)


def test_truncated_checkpoints(yard: Path, tmp_path: Path) -> None:
    trainer = make_trainer(yard, tmp_path, ONE_EPOCH)
    file = tmp_path / "checkpoint.pt"
    torch.save({"parts": torch.zeros(100_000)}, file)
    whole = file.read_bytes()
    for size in (0, 10, 1000, 100_000):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a readable checkpoint: it is damaged"):
            trainer.run(resume=True)


def test_the_advice_of_pytorch_to_trust_a_file_is_not_repeated(yard: Path, tmp_path: Path) -> None:
    torch.save({"recipe": Path("an object")}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="contains more than tensors and plain values; remove it") as error:
        make_trainer(yard, tmp_path, ONE_EPOCH).run(resume=True)
    assert "weights_only" not in str(error.value)


def test_the_warnings_of_pytorch_are_not_repeated(yard: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """PyTorch warns of a pickle of another protocol than its own, as damage can make of any file."""
    torch.save({"recipe": "{"}, tmp_path / "checkpoint.pt", pickle_protocol=3)
    torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert "pickle protocol 3" in str(recwarn.pop().message)
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        make_trainer(yard, tmp_path, ONE_EPOCH).run(resume=True)
    assert not [warning for warning in recwarn if "pickle" in str(warning.message)]


def test_checkpoint_of_sgd(yard: Path, tmp_path: Path) -> None:
    recipe = replace(ONE_EPOCH, optimizer=OptimizerRecipe(name="sgd", learning_rate=0.01))
    make_trainer(yard, tmp_path, recipe).run()
    make_trainer(yard, tmp_path, recipe).run(resume=True)
