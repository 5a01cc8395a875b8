"""Checkpoints: the state of a training run in one file, from which it resumes bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ccnet3d.config import check_range, from_table, parse_json
from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path, load_tensors

__all__ = ["Progress", "RunRecipe", "Stateful", "load_checkpoint", "save_checkpoint"]


class Stateful(Protocol):
    """A part of a run whose state is saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class RunRecipe(Protocol):
    """A dataclass that describes a run."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def evaluate_every(self) -> int: ...

    @property
    def checkpoint_every(self) -> int: ...


@dataclass(frozen=True)
class _Saved:
    """The contents of the file."""

    recipe: str
    """JSON."""
    step: int
    evaluated: bool
    parts: Mapping[str, Mapping[Any, Any]]
    data: Mapping[str, str] | None = None
    """Fingerprint of each split; checkpoints of earlier versions have none."""

    def __post_init__(self) -> None:
        check_range("step", self.step, 0, 1 << 40)


class Progress(NamedTuple):
    """How much of a run is done."""

    step: int = 0
    """Completed steps."""
    evaluated: bool = True
    """False if an evaluation is due after that step and has not been completed."""


def save_checkpoint(
    path: Path, recipe: RunRecipe, data: Mapping[str, str], progress: Progress, parts: Mapping[str, Stateful]
) -> None:
    """Write the state of a run, atomically; tensors and plain types only.

    It has no random states: each step seeds its own from its index.

    Args:
        path: the file.
        recipe: of the run.
        data: fingerprint of each split.
        progress: how much is done.
        parts: of the run, by name.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # given a path, torch would write its name
        torch.save(
            {
                "recipe": json.dumps(asdict(recipe)),
                "data": dict(data),
                **progress._asdict(),
                "parts": {name: part.state_dict() for name, part in parts.items()},
            },
            file,
        )


def load_checkpoint(path: Path, recipe: RunRecipe, data: Mapping[str, str], parts: Mapping[str, Stateful]) -> Progress:
    """Restore the parts of a run and return its progress. For the arguments see :func:`save_checkpoint`.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another recipe or other data.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path} to resume from; start without --resume")
    saved = _read(path)
    expected = json.loads(json.dumps(asdict(recipe)))
    recipe_table = _with_defaults(parse_json(saved.recipe), type(recipe))
    if recipe_table != expected:
        differing = sorted(key for key in {*recipe_table, *expected} if recipe_table.get(key) != expected.get(key))
        raise UserError(
            f"{path} belongs to another recipe: {', '.join(differing)} differ; give the same recipe, or another --out"
        )
    trained_on = data if saved.data is None else saved.data
    if differing := sorted(key for key in {*trained_on, *data} if trained_on.get(key) != data.get(key)):
        raise UserError(
            f"{path} belongs to other data: files or classes of {', '.join(differing)} differ; give the data that the "
            "run began with, or another --out"
        )
    try:
        for name, part in parts.items():
            state = saved.parts[name]
            _compare(state, part.state_dict(), name)
            if isinstance(part, torch.optim.Optimizer):
                _check_moments(state, part)
            part.load_state_dict(dict(state))
    # PyTorch checks little of what it loads, and fails in many ways at what is wrong.
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(
            f"{path} does not fit the model, perhaps because the classes have changed ({reason}); give another --out"
        ) from error
    return Progress(saved.step, saved.evaluated)


def _with_defaults(table: dict[str, Any], kind: type[RunRecipe]) -> dict[str, Any]:
    """Return the table of a recipe with the keys that earlier versions did not have."""
    try:
        return dict(json.loads(json.dumps(asdict(from_table(kind, table)))))
    except UserError:
        return table


def _read(path: Path) -> _Saved:
    advice = "remove it and start without --resume"
    try:
        state = load_tensors(path)
    except Exception as error:
        raise UserError(
            f"{path} is not a readable checkpoint: it is damaged, or contains more than tensors and plain values; "
            f"{advice}"
        ) from error
    try:
        if not isinstance(state, dict):
            raise UserError(f"expected a table, got {type(state).__name__}")
        saved = from_table(_Saved, state, ignore_unknown=True)
        parse_json(saved.recipe)
    except UserError as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}); {advice}") from error
    return saved


def _compare(saved: Any, fresh: Any, where: str) -> None:
    """Compare a saved state with that of the part it is for, where they have the same keys.

    Raises:
        ValueError: a tensor of another shape, or a value of another type.
    """
    if isinstance(fresh, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != fresh.shape or saved.layout != fresh.layout:
            raise ValueError(f"{where} is not a tensor {list(fresh.shape)}")
        if saved.is_floating_point() != fresh.is_floating_point() or saved.is_complex():
            raise ValueError(f"{where} is {saved.dtype}, not {fresh.dtype}")
    elif isinstance(fresh, Mapping):
        if not isinstance(saved, Mapping):
            raise ValueError(f"{where} is not a table")
        for key in {*saved} & {*fresh}:
            _compare(saved[key], fresh[key], f"{where}.{key}")
    elif isinstance(fresh, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(fresh):
            raise ValueError(f"{where} is not a list of {len(fresh)}")
        for index, value in enumerate(fresh):
            _compare(saved[index], value, f"{where}.{index}")
    elif isinstance(fresh, float) and not (type(saved) in (int, float) and math.isfinite(saved)):
        raise ValueError(f"{where} is not a finite number")
    elif isinstance(fresh, int | str) and type(saved) is not type(fresh):
        raise ValueError(f"{where} is not {type(fresh).__name__}")


_MOMENTS = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}}
"""What an optimizer keeps for each parameter."""


def _check_moments(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check what an optimizer keeps for each parameter, which a new optimizer does not have yet.

    Raises:
        ValueError: other names, shapes or parameters than the optimizer's.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers, expected = (
        [group["params"] for group in state["param_groups"]] for state in (saved, optimizer.state_dict())
    )
    if numbers != expected:
        raise ValueError("optimizer.param_groups has other parameters")
    for index, state in saved["state"].items():
        if set(state) != _MOMENTS[type(optimizer).__name__]:
            raise ValueError(f"optimizer.state.{index} has other names")
        for name, tensor in state.items():
            shape = () if name == "step" else parameters[index].shape
            _compare(tensor, torch.zeros(shape), f"optimizer.state.{index}.{name}")
