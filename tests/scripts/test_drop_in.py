"""The examples of docs/drop_in.md, as they are written, and the costs that the page reports."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ccnet3d import RecurrentCrissCrossAttention

_spec = importlib.util.spec_from_file_location(
    "drop_in_cost", REPOSITORY / "scripts" / "benchmarks" / "drop_in_cost.py"
)
assert _spec is not None
assert _spec.loader is not None
drop_in_cost = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drop_in_cost)


@pytest.fixture(scope="module")
def examples() -> dict[str, dict[str, Any]]:
    torch.manual_seed(0)
    return dict(drop_in_cost.examples())


def attention_of(network: nn.Module) -> RecurrentCrissCrossAttention:
    return next(module for module in network.modules() if isinstance(module, RecurrentCrissCrossAttention))


def outputs(network: nn.Module, image: Any) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(network.eval()(image)) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", ["A timm backbone", "A torchvision segmentation network", "A YOLO-style neck"])
def test_an_example(name: str, examples: dict[str, dict[str, Any]]) -> None:
    """The network starts as it was without the module, which then changes it and gets gradients."""
    variables = examples[name]
    network, image = variables["with_attention"], variables["image"]
    if name == "A YOLO-style neck":
        network.load_state_dict(variables["without"].state_dict(), strict=False)
    before = outputs(variables["without"], image)
    torch.testing.assert_close(outputs(network, image), before, rtol=1e-4, atol=1e-5)  # another memory format
    attention = attention_of(network)
    torch.nn.init.constant_(attention.gamma, 0.5)
    after = outputs(network, image)
    assert [x.shape for x in after] == [x.shape for x in before]
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(after, before, strict=True))
    sum(leaf.square().mean() for leaf in tree_leaves(network(image)) if isinstance(leaf, Tensor)).backward()
    assert attention.value_conv.weight.grad.abs().sum() > 0


def test_added_costs(examples: dict[str, dict[str, Any]]) -> None:
    """Parameters and FLOPs of the module by hand: projections, and the cross of 20 + 20 - 1 positions."""
    variables = examples["A YOLO-style neck"]
    networks = [variables["with_attention"], variables["without"]]
    sizes = [drop_in_cost.parameters(network) for network in networks]
    assert sizes[0] - sizes[1] == 256 * (256 + 2 * 32) + 256 + 2 * 32 + 1
    work = [drop_in_cost.flops(network, variables["image"]) for network in networks]
    assert work[0] - work[1] == 2 * 2 * 400 * (256 * (256 + 2 * 32) + (20 + 20 - 1) * (256 + 32))
