from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import timm.layers
import torch
from conftest import TINY
from torch import Tensor, nn

from ccnet3d.models import CCNet3D, ModelConfig
from ccnet3d.models.fuse import fuse_batch_norms


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine, two threads wait for each other at every small layer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomize_norms(model: nn.Module) -> None:
    """Statistics and weights far from the initial ones, and far from each other."""
    generator = torch.Generator().manual_seed(5)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            if norm.running_mean is not None and norm.running_var is not None:
                uniform(norm.running_mean, -0.5, 0.5)
                uniform(norm.running_var, 0.5, 2)
            if norm.affine:
                uniform(norm.weight, 0.5, 1.5)
                uniform(norm.bias, -0.5, 0.5)


def norm_names(model: nn.Module) -> list[str]:
    """Of the batch norms that inference passes."""
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [name for name in norms if not name.startswith("auxiliary.")]


def build(config: ModelConfig) -> CCNet3D:
    torch.manual_seed(1)
    model = CCNet3D(config).eval()
    randomize_norms(model)
    return model


def logits(model: CCNet3D, clip: Tensor) -> Tensor:
    with torch.no_grad():
        return model(clip.to(model.classifier.weight.dtype))


def difference(model: CCNet3D, folded: CCNet3D, clip: Tensor) -> float:
    """Largest difference of logits, as a share of the largest logit."""
    original = logits(model, clip)
    return float((logits(folded, clip) - original).abs().max() / original.abs().max())


CLIP = torch.rand(2, 2, 3, 45, 67, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "config",
    [TINY, ModelConfig(), dataclasses.replace(TINY, loops=0)],
    ids=["tiny", "default", "no attention"],
)
def test_folded_models_give_the_same_logits_without_a_norm(config: ModelConfig) -> None:
    model = build(config)
    assert len(norm_names(model)) > 10
    folded = fuse_batch_norms(model)
    assert norm_names(folded) == []
    # Sums are rounded in another order, in some fifty layers one behind the other: tens of epsilons of float32.
    assert difference(model, folded, CLIP) < 1e-5
    model.double()
    assert difference(model, fuse_batch_norms(model), CLIP) < 1e-12


def test_the_original_is_untouched() -> None:
    model = build(TINY).train()
    before, modules = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    fuse_batch_norms(model)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [type(module) for module in model.modules()] == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert list(before) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_copy_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in fuse_batch_norms(build(TINY).train()).modules())


def test_the_copy_shares_nothing_and_is_for_inference() -> None:
    model = build(TINY)
    folded = fuse_batch_norms(model)
    truth = logits(folded, CLIP)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in folded.modules())
    for tensor in model.state_dict().values():
        tensor.zero_()
    assert torch.equal(logits(folded, CLIP), truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    folded = fuse_batch_norms(build(TINY).to(dtype))
    assert {parameter.dtype for parameter in folded.parameters()} == {dtype}


def test_what_training_needs_still_works() -> None:
    model = build(dataclasses.replace(TINY, embedding_channels=16)).double()
    with torch.no_grad():
        truth = model.forward_with_auxiliary(CLIP.double())
        got = fuse_batch_norms(model).forward_with_auxiliary(CLIP.double())
    torch.testing.assert_close(got, truth)


@pytest.mark.parametrize(
    ("backbone", "left"),
    [
        ("resnet18", 0),
        ("mobilenetv3_small_050", 0),
        ("convnext_atto", 0),
        ("repvgg_a0", 1),  # some norms have no convolution before them
        # Norms before the convolutions, where shortcuts take what a convolution gave as well.
        ("xception65p", 1),
    ],
)
def test_other_backbones(backbone: str, left: int) -> None:
    config = ModelConfig(
        num_classes=3, backbone=backbone, channels=8, context_levels=(2, 3), skip_levels=(1,), skip_channels=(8,),
        auxiliary_level=2,
    )  # fmt: skip
    model = build(config).double()
    folded = fuse_batch_norms(model)
    assert difference(model, folded, CLIP) < 1e-10
    assert min(len(norm_names(folded)), 1) == left


def test_a_backbone_that_takes_no_small_frames() -> None:
    """Its last convolutions have no padding: it works from 75 pixels on, and so it does when folded."""
    config = ModelConfig(
        num_classes=3, backbone="inception_v3", channels=8, context_levels=(4,), skip_levels=(), skip_channels=(),
        auxiliary_level=4,
    )  # fmt: skip
    model = build(config)
    clip = torch.rand(1, 1, 3, 107, 99)
    assert logits(model, clip).shape == (1, 1, 3, 107, 99)
    assert difference(model, fuse_batch_norms(model), clip) < 1e-4


class StandIn(CCNet3D):
    """A model of nothing but a few layers, all of which ``compute`` may use."""

    def __init__(self, compute: Callable[[StandIn, Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(3)
        self.compute = compute
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.unmeasured = nn.BatchNorm2d(4, track_running_stats=False)
        self.active = timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU)
        self.relu = nn.ReLU()
        self.relu_in_place = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2, stride=2, dilation=2)
        self.standardized = timm.layers.StdConv2d(3, 4, 3, padding=1)
        self.register_buffer("input_mean", torch.zeros(3, 1, 1))
        randomize_norms(self)

    def forward(self, clip: Tensor) -> Tensor:
        return self.compute(self, clip.flatten(0, 1).to(self.input_mean.dtype))


FOLDED: dict[str, tuple[Callable[[StandIn, Tensor], Tensor], set[str]]] = {
    # Layers, and the norms that stay.
    "chain": (lambda m, x: m.other(m.second(m.relu(m.norm(m.first(x))))), set()),
    "in-place activation behind": (lambda m, x: m.other(m.second(m.relu_in_place(m.norm(m.first(x))))), set()),
    "activation inside": (lambda m, x: m.norm(m.second(m.active(m.first(x)))), set()),
    "groups, stride, dilation": (lambda m, x: m.other(m.grouped(m.norm(m.first(x)))), set()),
    "no weights": (lambda m, x: m.plain(m.first(x)), set()),
    "no statistics": (lambda m, x: m.unmeasured(m.first(x)), {"unmeasured"}),
    "norm first": (lambda m, x: m.second(m.norm(m.relu(m.first(x)))), {"norm"}),
    "pre-activation": (lambda m, x: m.first(x).tanh() + m.second(m.relu(m.norm(m.first(x).tanh()))), {"norm"}),
    "two norms": (lambda m, x: m.other(m.norm(m.first(x))), {"other"}),
    "convolution used twice": (lambda m, x: m.norm(m.second(m.second(m.first(x)))), {"norm"}),
    "norm used twice": (lambda m, x: m.norm(m.second(m.norm(m.first(x)))), {"norm"}),
    # The convolution's output is also needed as it is.
    "one convolution, two norms": (lambda m, x: join(m.first(x), m.norm, m.other), {"norm", "other"}),
    "shortcut": (lambda m, x: join(m.first(x), m.norm, nn.Identity()), {"norm"}),
    "convolution and norm": (lambda m, x: join(m.first(x), m.norm, m.second), {"norm"}),
    # The same tensor, but no longer what the convolution gave.
    "in-place activation between": (lambda m, x: m.norm(m.relu_in_place(m.first(x))), {"norm"}),
    "in-place arithmetic between": (lambda m, x: m.norm(m.first(x).mul_(3).add_(1)), {"norm"}),
    # Its weight is standardized at each call, whatever is folded into it.
    "convolution of another kind": (lambda m, x: m.norm(m.standardized(x)), {"norm"}),
}


def join(x: Tensor, *branches: nn.Module) -> Tensor:
    return torch.cat([branch(x) for branch in branches], dim=1)


@pytest.mark.parametrize("case", FOLDED)
def test_only_norms_that_alone_take_a_convolutions_output_are_folded(case: str) -> None:
    compute, left = FOLDED[case]
    model = StandIn(compute).double().eval()
    used: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: used.add(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    model(CLIP)
    for hook in hooks:
        hook.remove()
    folded = fuse_batch_norms(model)
    torch.testing.assert_close(folded(CLIP), model(CLIP), rtol=1e-12, atol=1e-12)
    assert used & set(norm_names(folded)) == left
