"""The operator in PyTorch: registration, autograd, torch.compile, and tensors saved for the backward pass."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable

import pytest
import torch
from reference.inputs import gradient_of, output_and_gradients, random_inputs
from reference.layouts import LAYOUTS
from reference.loops import cross_of
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_reference
from ccnet3d.attention.custom_op import attention_op, backward_op

SIZES = [(2, 3, 4, 5, 4, 6), (1, 1, 3, 4, 2, 3), (1, 3, 1, 1, 2, 3)]

tiled = functools.partial(criss_cross_attention, backend="tiled")


def scores_of_cross(query: Tensor, key: Tensor) -> Tensor:
    """Return the scores of every position with its cross, ``[B, T, H, W, L]``."""
    size = tuple(query.shape[1:4])
    positions = torch.cartesian_prod(*(torch.arange(n) for n in size)).reshape(-1, 3).tolist()
    rows = [[query[:, t, h, w] * key[:, i, j, k] for i, j, k in cross_of(t, h, w, size)] for t, h, w in positions]
    return torch.stack([torch.stack([x.sum(-1) for x in row], -1) for row in rows], 1).unflatten(1, size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_second_result_is_the_log_sum_exp_of_the_scores(size, dtype: torch.dtype) -> None:
    inputs = random_inputs(size, dtype)
    output, log_sum_exp = attention_op(*inputs, "tiled")
    assert output.dtype == dtype
    assert log_sum_exp.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = scores_of_cross(*(x.detach().double() for x in inputs[:2])).logsumexp(-1)
    # Scores are sums of at most four products in float32 or float64: a few roundings.
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(log_sum_exp.double(), expected, rtol=tolerance, atol=tolerance)


def test_log_sum_exp_is_not_differentiable() -> None:
    output, log_sum_exp = attention_op(*random_inputs(SIZES[0]), "tiled")
    assert output.requires_grad
    assert not log_sum_exp.requires_grad


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_forward_operator_passes_opcheck(size, dtype: torch.dtype, requires_grad: bool) -> None:
    inputs = [x.detach().requires_grad_(requires_grad) for x in random_inputs(size, dtype)]
    torch.library.opcheck(attention_op, (*inputs, "tiled"))


@pytest.mark.parametrize("layout", ["channels first", "slices of one projection", "every second frame"])
def test_operators_pass_opcheck_with_strided_tensors(layout: str) -> None:
    """The fake implementation's memory layout is right for any inputs."""
    inputs = LAYOUTS[layout]([x.detach() for x in random_inputs(SIZES[0])])
    torch.library.opcheck(attention_op, (*inputs, "tiled"))
    output, log_sum_exp = attention_op(*inputs, "tiled")
    grad = LAYOUTS[layout]([gradient_of(output)])[0]
    torch.library.opcheck(backward_op, (grad, *inputs, output, log_sum_exp, "tiled"))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_backward_operator_passes_opcheck(size, requires_grad: bool) -> None:
    inputs = [x.detach().requires_grad_(requires_grad) for x in random_inputs(size)]
    output, log_sum_exp = (x.detach() for x in attention_op(*inputs, "tiled"))
    # With gradients, skip the test that runs a backward pass, which this operator refuses.
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    tests += [] if requires_grad else ["test_aot_dispatch_dynamic"]
    arguments = (gradient_of(output), *inputs, output, log_sum_exp, "tiled")
    torch.library.opcheck(backward_op, arguments, test_utils=tests)


def test_meta_tensors_have_the_right_shapes() -> None:
    query, key, value = (x.detach().to("meta").requires_grad_() for x in random_inputs(SIZES[0]))
    output = criss_cross_attention(query, key, value)
    assert (output.shape, output.dtype, output.device.type) == (value.shape, value.dtype, "meta")
    gradients = torch.autograd.grad(output.sum(), (query, key, value))
    assert [x.shape for x in gradients] == [query.shape, key.shape, value.shape]


def test_flop_count() -> None:
    """Two per multiply-add and pair on a cross: products of scores and values forward, five products backward."""
    *grid, channels, value_channels = SIZES[0]
    batch, *size = grid
    positions = [(t, h, w) for t in range(size[0]) for h in range(size[1]) for w in range(size[2])]
    pairs = batch * sum(len(list(cross_of(*position, tuple(size)))) for position in positions)
    inputs = random_inputs(SIZES[0])
    with FlopCounterMode(display=False) as forward:
        output = tiled(*inputs)
    assert forward.get_total_flops() == 2 * pairs * (channels + value_channels)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    assert backward.get_total_flops() == 2 * pairs * (3 * channels + 2 * value_channels)


@pytest.mark.parametrize("size", [(1, 2, 3, 2, 2, 2), (2, 1, 2, 3, 1, 2), (1, 3, 1, 2, 2, 1)], ids=str)
def test_gradients_by_finite_differences(size) -> None:
    assert torch.autograd.gradcheck(tiled, random_inputs(size))


@pytest.mark.parametrize("arguments", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_gradients_of_some_inputs_only(arguments: tuple[int, ...]) -> None:
    inputs = random_inputs(SIZES[0])
    expected = output_and_gradients(criss_cross_attention_reference, inputs)[1:]
    some = [x.detach().requires_grad_(i in arguments) for i, x in enumerate(inputs)]
    output = tiled(*some)
    gradients = torch.autograd.grad(output, [some[i] for i in arguments], gradient_of(output))
    for i, mine in zip(arguments, gradients, strict=True):
        torch.testing.assert_close(mine, expected[i], rtol=1e-12, atol=1e-12)


def test_output_may_be_changed_in_place() -> None:
    """The tiled backward pass does not read it."""
    inputs, plain = random_inputs(SIZES[0]), random_inputs(SIZES[0])
    (2 * tiled(*plain)).sum().backward()
    tiled(*inputs).mul_(2).sum().backward()
    assert all(torch.equal(x.grad, y.grad) for x, y in zip(inputs, plain, strict=True))


def test_second_derivatives_of_a_fused_backend_are_refused() -> None:
    inputs = random_inputs((1, 2, 2, 2, 2, 2))
    first = torch.autograd.grad(tiled(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match="'tiled'.*no second derivatives.*backend='axial'"):
        torch.autograd.grad(sum(x.square().sum() for x in first), inputs)


@pytest.mark.parametrize("size", [(1, 2, 2, 2, 2, 2), (1, 1, 2, 3, 1, 2)], ids=str)
def test_second_derivatives_of_the_axial_backend(size) -> None:
    assert torch.autograd.gradgradcheck(functools.partial(criss_cross_attention, backend="axial"), random_inputs(size))


def saved_for_backward(backend: str, inputs: list[Tensor]) -> list[int]:
    """Return the number of elements of each tensor that is saved for the backward pass."""
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        criss_cross_attention(*inputs, backend=backend)
    return sizes


def test_nothing_as_large_as_the_weights_is_saved() -> None:
    """Only inputs and log-sum-exp are; the axial backend's N x L weights show that the test would detect them."""
    batch, *grid, channels, value_channels = 1, 5, 12, 14, 2, 3
    positions, cross = batch * 5 * 12 * 14, 5 + 12 + 14 - 2
    inputs = random_inputs((batch, *grid, channels, value_channels))
    saved = saved_for_backward("tiled", inputs)
    assert sorted(saved) == sorted(positions * n for n in (channels, channels, value_channels, 1))
    assert max(saved_for_backward("axial", inputs)) >= positions * cross


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_results(use_reentrant: bool) -> None:
    plain, inputs = random_inputs(SIZES[0]), random_inputs(SIZES[0])
    expected = tiled(*plain)
    expected.backward(gradient_of(expected))
    output = checkpoint(tiled, *inputs, use_reentrant=use_reentrant)
    output.backward(gradient_of(output))
    assert torch.equal(output, expected)
    assert all(torch.equal(x.grad, y.grad) for x, y in zip(inputs, plain, strict=True))


def around_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with operations on both sides that a compiler can fuse."""
    return criss_cross_attention(query * 1.5, key, value.sin()).cos()


@pytest.fixture
def compiled() -> Callable[..., Callable[..., Tensor]]:
    """torch.compile from a clean state, without fallback to eager."""
    torch.compiler.reset()
    return functools.partial(torch.compile, fullgraph=True)


def assert_close_to_eager(function: Callable[..., Tensor], inputs: list[Tensor], tolerance: float) -> None:
    expected = output_and_gradients(around_attention, inputs)
    for mine, eager in zip(output_and_gradients(function, inputs), expected, strict=True):
        torch.testing.assert_close(mine, eager, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's CPU backend needs a C++ compiler")
def test_compiled_by_inductor(compiled) -> None:
    # The compiler's sine and cosine may differ in the last digit.
    assert_close_to_eager(compiled(around_attention), random_inputs(SIZES[0]), 1e-12)


@pytest.mark.parametrize("backend", ["tiled", "axial"])
def test_compiled_with_each_backend(compiled, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCNET3D_ATTENTION_BACKEND", backend)
    assert_close_to_eager(compiled(around_attention, backend="aot_eager"), random_inputs(SIZES[0]), 1e-12)


def test_compiled_once_for_all_shapes(compiled) -> None:
    function = compiled(around_attention, backend="aot_eager", dynamic=True)
    # The first clip has no two equal axes, because torch.compile would assume that they are always equal.
    sizes = [(2, 3, 5, 7, 4, 6), (3, 2, 7, 6, 4, 6), (2, 5, 3, 8, 4, 6)]
    assert_close_to_eager(function, random_inputs(sizes[0]), 1e-12)
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in sizes[1:]:
            assert_close_to_eager(function, random_inputs(size), 1e-12)


def test_compiled_under_autocast(compiled) -> None:
    inputs = random_inputs(SIZES[0], torch.float32)
    function = compiled(around_attention, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        mine, eager = function(*inputs), around_attention(*inputs)
    assert mine.dtype == eager.dtype == torch.bfloat16
    assert torch.equal(mine, eager)
    grad = gradient_of(mine)
    pairs = zip(torch.autograd.grad(mine, inputs, grad), torch.autograd.grad(eager, inputs, grad), strict=True)
    assert all(x.dtype == torch.float32 and torch.equal(x, y) for x, y in pairs)
