from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference.inputs import gradient_of
from reference.loops import criss_cross_2d
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ccnet3d.attention import (
    CrissCrossAttention,
    RecurrentCrissCrossAttention,
    criss_cross_attention_reference,
)


def with_attention(module: CrissCrossAttention) -> CrissCrossAttention:
    torch.nn.init.constant_(module.gamma, 0.7)
    return module.double()


def test_module_starts_as_the_identity_with_the_published_names() -> None:
    module = CrissCrossAttention(16)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert shapes == {
        "gamma": (1,),
        "query_conv.weight": (2, 16, 1, 1, 1),
        "query_conv.bias": (2,),
        "key_conv.weight": (2, 16, 1, 1, 1),
        "key_conv.bias": (2,),
        "value_conv.weight": (16, 16, 1, 1, 1),
        "value_conv.bias": (16,),
    }
    x = torch.randn(2, 16, 3, 4, 5)
    torch.testing.assert_close(module(x), x, rtol=0, atol=0)


def published(module: CrissCrossAttention, x: Tensor, loops: int = 1) -> Tensor:
    """The published formulation: three separate convolutions and the definition, in channels-first layout."""
    for _ in range(loops):
        projected = [conv(x).permute(0, 2, 3, 4, 1) for conv in (module.query_conv, module.key_conv, module.value_conv)]
        x = module.gamma * criss_cross_attention_reference(*projected).permute(0, 4, 1, 2, 3) + x
    return x


# Among them sizes whose memory formats are identical: one frame, one row, one column, one position.
SIZES = [(2, 3, 4, 5), (1, 1, 4, 5), (2, 3, 1, 5), (1, 3, 4, 1), (2, 1, 1, 1)]
FORMATS = [torch.contiguous_format, torch.channels_last_3d]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("backend", ["auto", "axial", "reference"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_equals_the_published_formulation(
    size, backend: str, grad: bool, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    module = with_attention(RecurrentCrissCrossAttention(16, reduction=4, backend=backend))
    batch, *grid = size
    x = torch.randn(batch, 16, *grid, dtype=torch.float64).contiguous(memory_format=memory_format)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        output = module(x)
    torch.testing.assert_close(output, published(module, x, loops=3), rtol=1e-11, atol=1e-11)
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(x, before)  # the caller's tensor is not changed in place


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("loops", [1, 3])
def test_all_gradients_equal_the_published_formulation(loops: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = with_attention(RecurrentCrissCrossAttention(16, loops=loops, reduction=4))
    x = torch.randn(2, 16, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    names, parameters = zip(("input", x), *module.named_parameters(), strict=True)

    def gradients(output: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, parameters, gradient_of(output))

    expected = gradients(published(module, x, loops))
    assert len(expected) == 8  # of the input, gamma, three weights, three biases
    for name, mine, truth in zip(names, gradients(module(x)), expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


class Copies(TorchDispatchMode):
    """Count copies of tensors with at least so many elements."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        copies = {torch.ops.aten.clone, torch.ops.aten.copy_, torch.ops.aten._to_copy, torch.ops.aten.contiguous}
        if func.overloadpacket in copies and args[0].numel() >= self.elements:
            self.names.append(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("memory_format", "copies"), [(FORMATS[0], 1), (FORMATS[1], 0)], ids=str)
def test_layout_changes_at_most_once(memory_format: torch.memory_format, copies: int, grad: bool) -> None:
    """Of all tensors as large as the values, three loops copy only the input of the first."""
    module = with_attention(RecurrentCrissCrossAttention(16, loops=3))
    x = torch.randn(2, 16, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
    with torch.set_grad_enabled(grad), Copies(x.numel()) as seen:
        module(x)
    assert len(seen.names) == copies, seen.names


def test_autocast() -> None:
    """Convolutions and attention run in bfloat16, the residual stays in float32."""
    torch.manual_seed(0)
    module = with_attention(RecurrentCrissCrossAttention(16)).float()
    x = torch.randn(2, 16, 3, 4, 5)
    expected = published(module, x, loops=3)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
            output = module(x)
        assert output.dtype == torch.float32
        # Roundings of 3.9e-3 in three loops, small compared with the residual; the largest over ten seeds was 1.5e-3.
        assert (output - expected).norm() <= 5e-3 * expected.norm()


def test_recurrence_repeats_one_module() -> None:
    torch.manual_seed(0)
    looped = with_attention(RecurrentCrissCrossAttention(8, loops=3))
    single = with_attention(CrissCrossAttention(8))
    single.load_state_dict(looped.state_dict())
    x = torch.randn(1, 8, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(looped(x), single(single(single(x))), rtol=1e-12, atol=1e-12)


def test_loads_2d_weights_and_equals_the_2d_module_on_one_frame() -> None:
    """Weights with the names and shapes of the published 2D code, compared with a 2D module built from functions."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"query_conv": (2, 16), "key_conv": (2, 16), "value_conv": (16, 16)}
    state = {}
    for name, (out_channels, in_channels) in shapes.items():
        weight = torch.randn(out_channels, in_channels, 1, 1, generator=generator, dtype=torch.float64)
        state[f"{name}.weight"] = weight
        state[f"{name}.bias"] = torch.randn(out_channels, generator=generator, dtype=torch.float64)
    state["gamma"] = torch.tensor([0.25], dtype=torch.float64)
    before = {name: tensor.shape for name, tensor in state.items()}
    module = RecurrentCrissCrossAttention(16, loops=2).double()
    module.load_state_dict(state)
    assert {name: tensor.shape for name, tensor in state.items()} == before  # the caller's dict is unchanged

    x = torch.randn(2, 16, 5, 7, generator=generator, dtype=torch.float64)
    expected = x
    for _ in range(2):
        q, k, v = (F.conv2d(expected, state[f"{n}.weight"], state[f"{n}.bias"]) for n in shapes)
        expected = 0.25 * criss_cross_2d(q, k, v) + expected
    torch.testing.assert_close(module(x[:, :, None])[:, :, 0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("module", [CrissCrossAttention(16), RecurrentCrissCrossAttention(16, loops=2)])
def test_images_equal_clips_of_one_frame(module: CrissCrossAttention, memory_format: torch.memory_format) -> None:
    module = with_attention(module)
    image = torch.randn(2, 16, 5, 7, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    clip = image.detach().unsqueeze(2).requires_grad_()
    output, expected = module(image), module(clip)
    assert torch.equal(output, expected.squeeze(2))
    assert output.is_contiguous(memory_format=torch.channels_last)
    gradient = gradient_of(expected)
    (expected_grad,) = torch.autograd.grad(expected, clip, gradient)
    assert torch.equal(torch.autograd.grad(output, image, gradient.squeeze(2))[0], expected_grad.squeeze(2))


# Share of the pairs of a 3x4x5 grid that R loops connect: R=1 the cross, (3+4+5-2)/60; R=2 all but the pairs that
# differ in all three coordinates; R=3 all.
@pytest.mark.parametrize(("loops", "share"), [(1, 10 / 60), (2, 1 - 2 * 3 * 4 / 60), (3, 1.0)])
def test_receptive_field_by_gradients(loops: int, share: float) -> None:
    torch.manual_seed(0)
    size = (3, 4, 5)
    module = with_attention(RecurrentCrissCrossAttention(8, loops=loops))
    x = torch.randn(1, 8, *size, dtype=torch.float64, requires_grad=True)
    output = module(x).sum(1).flatten()
    coordinates = torch.cartesian_prod(*(torch.arange(n) for n in size))
    reached = torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0].abs().sum(1).flatten() > 0 for y in output])
    differing = (coordinates[:, None] != coordinates[None]).sum(-1)
    assert torch.equal(reached, differing <= loops)
    assert reached.double().mean().item() == pytest.approx(share)


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="at least 1, got channels=4, reduction=8"):
        CrissCrossAttention(4, reduction=8)
    with pytest.raises(ValueError, match=r"clips \[B, C, T, H, W\] or images \[B, C, H, W\], got \(8, 4, 5\); add"):
        CrissCrossAttention(8)(torch.zeros(8, 4, 5))
    with pytest.raises(ValueError, match="loops must be at least 1, got 0"):
        RecurrentCrissCrossAttention(8, loops=0)
