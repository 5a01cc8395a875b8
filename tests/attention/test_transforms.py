"""torch.func and forward-mode autograd, compared with Jacobians of the definition by reverse-mode autograd.

They have no rules for a custom operator, so ``"auto"`` must choose another backend.
"""

from __future__ import annotations

import functools

import pytest
import torch
from reference.inputs import random_inputs
from torch import Tensor
from torch.autograd import forward_ad

from ccnet3d.attention import (
    RecurrentCrissCrossAttention,
    criss_cross_attention,
    criss_cross_attention_reference,
)

SIZE = (2, 2, 3, 2, 2, 3)


@pytest.fixture(scope="module")
def inputs() -> list[Tensor]:
    return [x.detach() for x in random_inputs(SIZE)]


@pytest.fixture(scope="module")
def jacobians(inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Jacobians with respect to query, key and value, ``[*output, *input]``."""
    return torch.autograd.functional.jacobian(criss_cross_attention_reference, tuple(inputs))


@pytest.fixture(scope="module")
def tangents() -> list[Tensor]:
    return [x.detach() for x in random_inputs(SIZE, seed=5)]


def assert_close(mine: Tensor, truth: Tensor) -> None:
    torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-13)


def weighted_sum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (criss_cross_attention(query, key, value) * value.cos()).sum()


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_func_grad(inputs, argument: int) -> None:
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(weighted_sum(*leaves), leaves)[argument]
    assert_close(torch.func.grad(weighted_sum, argnums=argument)(*inputs), expected)


def test_vmap(inputs) -> None:
    clips = [torch.stack([x, 2 * x, -x]) for x in inputs]
    expected = torch.stack([criss_cross_attention_reference(*clip) for clip in zip(*clips, strict=True)])
    assert_close(torch.func.vmap(criss_cross_attention)(*clips), expected)


def test_vmap_of_grad_returns_gradients_of_every_clip(inputs) -> None:
    clips = [x[:, None] for x in inputs]  # a batch of batches of one
    gradients = torch.func.vmap(torch.func.grad(weighted_sum, argnums=(0, 1, 2)))(*clips)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(weighted_sum(*leaves), leaves)  # clips of a batch are independent
    for mine, truth in zip(gradients, expected, strict=True):
        assert_close(mine[:, 0], truth)


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd], ids=["jacrev", "jacfwd"])
def test_jacobians(inputs, jacobians, transform) -> None:
    for mine, truth in zip(transform(criss_cross_attention, argnums=(0, 1, 2))(*inputs), jacobians, strict=True):
        assert_close(mine, truth)


def times_tangents(jacobians: tuple[Tensor, ...], tangents: list[Tensor]) -> Tensor:
    return sum(torch.tensordot(j, t, dims=t.dim()) for j, t in zip(jacobians, tangents, strict=True))


def test_jvp(inputs, jacobians, tangents) -> None:
    output, derivative = torch.func.jvp(criss_cross_attention, tuple(inputs), tuple(tangents))
    assert_close(output, criss_cross_attention_reference(*inputs))
    assert_close(derivative, times_tangents(jacobians, tangents))


def test_dual_numbers(inputs, jacobians, tangents) -> None:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
        derivative = forward_ad.unpack_dual(criss_cross_attention(*duals)).tangent
    assert_close(derivative, times_tangents(jacobians, tangents))


def test_jvp_by_finite_differences(inputs, tangents) -> None:
    """The only truth here without autograd; steps of 1e-5 leave an error of 1e-10 times the third derivative."""
    step = 1e-5
    moved = [[x + sign * step * t for x, t in zip(inputs, tangents, strict=True)] for sign in (1, -1)]
    ahead, behind = (criss_cross_attention_reference(*x) for x in moved)
    derivative = torch.func.jvp(criss_cross_attention, tuple(inputs), tuple(tangents))[1]
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-7, atol=1e-7)


@pytest.fixture(scope="module")
def module() -> RecurrentCrissCrossAttention:
    torch.manual_seed(0)
    return RecurrentCrissCrossAttention(8, loops=2, initial_gamma=0.5).double()


@pytest.mark.parametrize("grad", [True, False])
def test_vmap_of_a_module(module, grad: bool) -> None:
    """Without gradients the module works in place, but not under vmap, which does not support it."""
    x = torch.randn(2, 8, 2, 3, 4, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        assert_close(torch.func.vmap(module)(x[:, None])[:, 0], module(x))


@pytest.mark.parametrize("grad", [True, False])
def test_dual_numbers_through_a_module(module, grad: bool) -> None:
    x, tangent = torch.randn(2, 1, 8, 2, 2, 3, dtype=torch.float64)
    expected = torch.tensordot(torch.autograd.functional.jacobian(module, x), tangent, dims=5)
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent))).tangent
    assert_close(derivative, expected)


@pytest.mark.parametrize("transform", ["jvp", "grad", "dual numbers"])
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_fused_backend_by_name_refuses_instead_of_dropping_tangents(
    inputs, tangents, by: str, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = criss_cross_attention
    if by == "argument":
        attention = functools.partial(criss_cross_attention, backend="tiled")
    else:
        monkeypatch.setenv("CCNET3D_ATTENTION_BACKEND", "tiled")
    source = {"argument": "backend", "variable": "CCNET3D_ATTENTION_BACKEND"}[by]
    with pytest.raises(NotImplementedError, match=f"{source} 'tiled' has no rules for torch.func.*'axial'"):
        if transform == "jvp":
            torch.func.jvp(attention, tuple(inputs), tuple(tangents))
        elif transform == "grad":
            torch.func.grad(lambda *x: attention(*x).sum())(*inputs)
        else:
            with forward_ad.dual_level():
                attention(forward_ad.make_dual(inputs[0], tangents[0]), *inputs[1:])
