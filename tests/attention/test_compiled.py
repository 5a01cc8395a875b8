"""The C kernels, compiled from their sources, against the definition in float64."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator

import pytest
import torch
from reference.inputs import (
    gradient_of,
    output_and_gradients,
    random_inputs,
    relative_errors,
    true_output_and_gradients,
)
from reference.layouts import LAYOUTS, Layout

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_reference
from ccnet3d.attention.backends import compiled

attention = functools.partial(criss_cross_attention, backend="compiled")

# As in test_backends.py.
TOLERANCES = {torch.float32: 4e-6, torch.bfloat16: 2e-2}

# (B, T, H, W, D, Dv): axes of length 1; channels and lines at, below and above the widths of vectors (8, 16), panels
# (64, 128) and tiles (16, 32); lines longer than a block of 132 queries; the default model's D and Dv.
SIZES = [
    (2, 1, 1, 1, 3, 2),
    (1, 5, 1, 1, 2, 3),
    (1, 1, 5, 1, 2, 3),
    (1, 1, 1, 5, 2, 3),
    (2, 3, 4, 5, 4, 6),
    (1, 16, 2, 3, 4, 7),
    (1, 64, 2, 3, 4, 8),
    (1, 5, 13, 17, 8, 24),
    (1, 2, 16, 16, 16, 16),
    (1, 2, 15, 33, 31, 65),
    (1, 1, 35, 40, 32, 32),
    (1, 1, 32, 48, 64, 128),
    (1, 3, 2, 65, 33, 130),
    (1, 1, 133, 3, 5, 40),
    (1, 2, 3, 300, 7, 17),
    (2, 5, 12, 16, 65, 11),
]


@pytest.fixture(scope="module", autouse=True)
def _library(native_library: ctypes.CDLL) -> Iterator[None]:
    """The kernels as hatch_build.py compiles them now."""
    before = compiled._library, compiled._supported
    compiled._library, compiled._supported = native_library, native_library.ccnet3d_supported()
    yield
    compiled._library, compiled._supported = before


@pytest.fixture(params=TOLERANCES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if not compiled._supported & compiled._KERNELS[request.param]:
        pytest.skip(f"this CPU has no kernel for {request.param}")
    return request.param


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_and_all_gradients_equal_the_definition(size, dtype: torch.dtype) -> None:
    inputs = random_inputs(size, dtype)
    results = output_and_gradients(attention, inputs)
    truth = true_output_and_gradients(criss_cross_attention_reference, inputs)
    assert [x.dtype for x in results] == [dtype] * 4
    if size[1:4] == (1, 1, 1):  # the gradients of query and key are 0
        results, truth = results[::3], truth[::3]
    assert max(relative_errors(results, truth)) <= TOLERANCES[dtype]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_strided_inputs_equal_contiguous_ones(layout: Layout, dtype: torch.dtype) -> None:
    inputs = [x.detach() for x in random_inputs((2, 3, 4, 17, 5, 9), dtype)]
    output, log_sum_exp = compiled.compiled_forward(*inputs)
    assert torch.equal(attention(*layout(inputs)), output)
    grad = gradient_of(output)
    strided = compiled.compiled_backward(layout([grad] * 3)[2], *layout(inputs), output, log_sum_exp)
    torch.testing.assert_close(strided, compiled.compiled_backward(grad, *inputs, output, log_sum_exp))


def test_batch_and_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    inputs = [x.detach() for x in random_inputs((3, 4, 17, 19, 9, 21), dtype)]
    together, threads = attention(*inputs), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for b in range(3):
            assert torch.equal(attention(*(x[b : b + 1] for x in inputs))[0], together[b])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_nan_reaches_the_cross_only(which: int, dtype: torch.dtype) -> None:
    inputs = [x.detach() for x in random_inputs((1, 3, 4, 5, 4, 6), dtype)]
    inputs[which][0, 1, 2, 3] = torch.nan
    reached = attention(*inputs).isnan().any(-1)[0]
    coordinates = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5)).view(3, 4, 5, 3)
    differing = (coordinates != torch.tensor([1, 2, 3])).sum(-1)
    assert torch.equal(reached, differing == 0 if which == 0 else differing <= 1)


def test_sharp_and_large_scores(dtype: torch.dtype) -> None:
    query, key, value = (x.detach() for x in random_inputs((1, 3, 6, 7, 8, 4)))
    inputs = [x.to(dtype).requires_grad_() for x in (200 * query, 200 * key, value)]
    scores = inputs[0].detach().double().flatten(1, 3) @ inputs[1].detach().double().flatten(1, 3).transpose(1, 2)
    truth = true_output_and_gradients(criss_cross_attention_reference, inputs)
    error = relative_errors([attention(*inputs)], truth[:1])[0]
    assert error <= TOLERANCES[dtype] + 2 * 2**-24 * scores.abs().max()


def test_under_torch_compile(dtype: torch.dtype) -> None:
    torch.compiler.reset()
    inputs = random_inputs((1, 2, 5, 6, 4, 7), dtype)
    function = torch.compile(lambda q, k, v: attention(q * 1.5, k, v).cos(), fullgraph=True, backend="aot_eager")
    output = function(*inputs)
    gradients = torch.autograd.grad(output, inputs, gradient_of(output))
    expected = output_and_gradients(lambda q, k, v: attention(q * 1.5, k, v).cos(), inputs)
    for mine, eager in zip([output, *gradients], expected, strict=True):
        torch.testing.assert_close(mine, eager)


def test_avx2_kernel_equals_the_avx512_one() -> None:
    """On a CPU with AVX-512 the other kernel is only reached by name."""
    for size in SIZES:
        inputs = [x.detach().float() for x in random_inputs(size)]
        output, log_sum_exp = compiled.compiled_forward(*inputs)
        torch.testing.assert_close(compiled.compiled_forward(*inputs, entry="ccnet3d_attend_avx2")[0], output)
        backward = functools.partial(compiled.compiled_backward, output.cos(), *inputs, output, log_sum_exp)
        torch.testing.assert_close(backward(entry="ccnet3d_time_gradients_avx2"), backward())
