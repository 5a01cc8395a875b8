"""The state of a training run in one file, from which it goes on as if it had not stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path
from ccnet3d.training.recipe import Recipe


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Progress(NamedTuple):
    """How far a run has come."""

    step: int = 0
    """Steps done."""
    evaluated: bool = True
    """False where the evaluation that is due after that step has not been done."""


def save_checkpoint(path: Path, recipe: Recipe, progress: Progress, parts: Mapping[str, Stateful]) -> None:
    """Write the run's state, atomically; tensors and plain types only.

    Random states are no part of it: a step seeds its own from its number.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # torch writes the name of a path into it
        torch.save(
            {
                "recipe": json.dumps(asdict(recipe)),
                **progress._asdict(),
                "parts": {name: part.state_dict() for name, part in parts.items()},
            },
            file,
        )


def load_checkpoint(path: Path, recipe: Recipe, parts: Mapping[str, Stateful]) -> Progress:
    """Restore the parts of a run; gives how far it had come.

    Raises:
        ValueError: no checkpoint, a damaged one, or one of another recipe.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path} to resume from; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(state["recipe"])
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise UserError(f"{path} is not a readable checkpoint ({error}); start without --resume") from error
    wanted = json.loads(json.dumps(asdict(recipe)))
    if saved != wanted:
        differing = sorted(key for key in wanted if saved.get(key) != wanted[key])
        raise UserError(
            f"{path} belongs to another recipe: {', '.join(differing)} differ; give the same recipe, or another --out"
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the model, as after other classes; give another --out") from error
    return Progress(int(state["step"]), bool(state["evaluated"]))
