"""The operator's FLOPs for PyTorch's FlopCounterMode.

Its module imports Triton, which takes a quarter of a second that inference does not need, so the formulas are
registered when somebody else imports it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch

__all__ = ["register_flops", "when_imported"]


def _products(query_shape: tuple[int, ...], value_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the FLOPs of one product of all scores and of one with all values, two per multiply-add."""
    batch, time, height, width, channels = query_shape
    pairs = batch * time * height * width * (time + height + width - 2)
    return 2 * pairs * channels, 2 * pairs * value_shape[-1]


def _forward_flops(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any) -> int:  # noqa: ARG001
    scores, values = _products(query, value)
    return scores + values


def _backward_flops(
    grad: tuple[int, ...],  # noqa: ARG001
    query: tuple[int, ...],
    key: tuple[int, ...],  # noqa: ARG001
    value: tuple[int, ...],
    *_: Any,
    **__: Any,
) -> int:
    """Count the minimum of any backend: scores again, and the gradients of query, key, weights and value."""
    scores, values = _products(query, value)
    return 3 * scores + 2 * values


def register_flops() -> None:
    """Register the formulas of the operator and its gradient."""
    register = importlib.import_module("torch.utils.flop_counter").register_flop_formula
    register(torch.ops.ccnet3d.criss_cross_attention)(_forward_flops)
    register(torch.ops.ccnet3d.criss_cross_attention_backward)(_backward_flops)


def when_imported(name: str, action: Callable[[], None]) -> None:
    """Call a function after a module is imported, at once if it is."""
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Once(name, action))


class _Once(MetaPathFinder):
    """Import one module as ever, and call a function after it."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name, self._action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == self._name else None
        if spec is None or spec.loader is None:
            return None
        sys.meta_path.remove(self)
        execute = spec.loader.exec_module

        def execute_then_act(module: ModuleType) -> None:
            execute(module)
            self._action()

        spec.loader.exec_module = execute_then_act  # type: ignore[method-assign]
        return spec
