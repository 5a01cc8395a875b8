"""Checkpoints: the state of a training run in one file, from which it resumes bit for bit."""

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

__all__ = ["Progress", "Stateful", "load_checkpoint", "save_checkpoint"]


class Stateful(Protocol):
    """A part of a run whose state is saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Progress(NamedTuple):
    """How much of a run is done."""

    step: int = 0
    """Completed steps."""
    evaluated: bool = True
    """False if an evaluation is due after that step and has not been completed."""


def save_checkpoint(
    path: Path, recipe: Recipe, data: Mapping[str, str], progress: Progress, parts: Mapping[str, Stateful]
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


def load_checkpoint(path: Path, recipe: Recipe, data: Mapping[str, str], parts: Mapping[str, Stateful]) -> Progress:
    """Restore the parts of a run and return its progress. For the arguments see :func:`save_checkpoint`.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another recipe or other data.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path} to resume from; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(state["recipe"])
        progress = Progress(int(state["step"]), bool(state["evaluated"]))
        states = {name: state["parts"][name] for name in parts}
        trained_on = dict(state.get("data", data))  # absent in checkpoints of earlier versions
    except Exception as error:  # depending on the damage, torch.load raises almost anything
        raise UserError(f"{path} is not a readable checkpoint ({error}); start without --resume") from error
    expected = json.loads(json.dumps(asdict(recipe)))
    if saved != expected:
        differing = sorted(key for key in {*saved, *expected} if saved.get(key) != expected.get(key))
        raise UserError(
            f"{path} belongs to another recipe: {', '.join(differing)} differ; give the same recipe, or another --out"
        )
    if differing := sorted(key for key in {*trained_on, *data} if trained_on.get(key) != data.get(key)):
        raise UserError(
            f"{path} belongs to other data: files or classes of {', '.join(differing)} differ; give the data that the "
            "run began with, or another --out"
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(states[name])
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit the model, perhaps because the classes have changed; give another --out"
        ) from error
    return progress
