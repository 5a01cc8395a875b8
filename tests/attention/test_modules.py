from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference.loops import criss_cross_2d

from ccnet3d.attention import (
    CrissCrossAttention,
    RecurrentCrissCrossAttention,
    criss_cross_attention_reference,
)


def switched_on(module: CrissCrossAttention) -> CrissCrossAttention:
    torch.nn.init.constant_(module.gamma, 0.7)
    return module.double()


def test_starts_as_the_identity_with_the_published_names() -> None:
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


def test_is_gamma_times_attention_plus_input() -> None:
    """Projections through the convolutions themselves, attention through the reference."""
    torch.manual_seed(0)
    module = switched_on(CrissCrossAttention(16, reduction=4))
    x = torch.randn(2, 16, 3, 4, 5, dtype=torch.float64)
    projected = [conv(x).permute(0, 2, 3, 4, 1) for conv in (module.query_conv, module.key_conv, module.value_conv)]
    expected = module.gamma * criss_cross_attention_reference(*projected).permute(0, 4, 1, 2, 3) + x
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_recurrence_applies_one_module_again() -> None:
    torch.manual_seed(0)
    looped = switched_on(RecurrentCrissCrossAttention(8, loops=3))
    single = switched_on(CrissCrossAttention(8))
    single.load_state_dict(looped.state_dict())
    x = torch.randn(1, 8, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(looped(x), single(single(single(x))), rtol=1e-12, atol=1e-12)


def test_loads_2d_weights_and_equals_the_2d_module_on_one_frame() -> None:
    """Weights as the published 2D code names and shapes them, against a 2D module built from its parts."""
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
    assert {name: tensor.shape for name, tensor in state.items()} == before  # the caller's dict is left alone

    x = torch.randn(2, 16, 5, 7, generator=generator, dtype=torch.float64)
    expected = x
    for _ in range(2):
        q, k, v = (F.conv2d(expected, state[f"{n}.weight"], state[f"{n}.bias"]) for n in shapes)
        expected = 0.25 * criss_cross_2d(q, k, v) + expected
    torch.testing.assert_close(module(x[:, :, None])[:, :, 0], expected, rtol=1e-11, atol=1e-11)


# Share of pairs of a 3x4x5 grid that R loops connect: R=1 is the cross, (3+4+5-2)/60; R=2 leaves those that differ in
# all three coordinates; R=3 all.
@pytest.mark.parametrize(("loops", "share"), [(1, 10 / 60), (2, 1 - 2 * 3 * 4 / 60), (3, 1.0)])
def test_receptive_field_through_gradients(loops: int, share: float) -> None:
    torch.manual_seed(0)
    size = (3, 4, 5)
    module = switched_on(RecurrentCrissCrossAttention(8, loops=loops))
    x = torch.randn(1, 8, *size, dtype=torch.float64, requires_grad=True)
    output = module(x).sum(1).flatten()
    coordinates = torch.cartesian_prod(*(torch.arange(n) for n in size))
    reached = torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0].abs().sum(1).flatten() > 0 for y in output])
    differing = (coordinates[:, None] != coordinates[None]).sum(-1)
    assert torch.equal(reached, differing <= loops)
    assert reached.double().mean().item() == pytest.approx(share)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least 1, got channels=4, reduction=8"):
        CrissCrossAttention(4, reduction=8)
    with pytest.raises(ValueError, match="loops must be at least 1, got 0"):
        RecurrentCrissCrossAttention(8, loops=0)
