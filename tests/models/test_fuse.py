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
from ccnet3d.models.fuse import fuse_activations, fuse_batch_norms


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Avoid threads that wait for each other at every small layer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomize_norms(model: nn.Module) -> None:
    """Set statistics and weights to values far from the initial ones and from each other."""
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
    """Return the names of the batch norms that inference uses."""
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


def difference(model: CCNet3D, fused: CCNet3D, clip: Tensor) -> float:
    """Return the largest difference of logits relative to the largest logit."""
    original = logits(model, clip)
    return float((logits(fused, clip) - original).abs().max() / original.abs().max())


CLIP = torch.rand(2, 2, 3, 45, 67, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "config",
    [TINY, ModelConfig(), dataclasses.replace(TINY, loops=0)],
    ids=["tiny", "default", "no attention"],
)
def test_fused_models_compute_the_same_logits_without_a_norm(config: ModelConfig) -> None:
    model = build(config)
    assert len(norm_names(model)) > 10
    fused = fuse_batch_norms(model)
    assert norm_names(fused) == []
    # About fifty successive layers round their sums in another order: tens of epsilons of float32.
    assert difference(model, fused, CLIP) < 1e-5
    model.double()
    assert difference(model, fuse_batch_norms(model), CLIP) < 1e-12


def test_original_is_unchanged() -> None:
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


def test_copy_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in fuse_batch_norms(build(TINY).train()).modules())


def test_copy_shares_no_memory_and_needs_no_gradients() -> None:
    model = build(TINY)
    fused = fuse_batch_norms(model)
    truth = logits(fused, CLIP)
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in fused.modules())
    for tensor in model.state_dict().values():
        tensor.zero_()
    assert torch.equal(logits(fused, CLIP), truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    fused = fuse_batch_norms(build(TINY).to(dtype))
    assert {parameter.dtype for parameter in fused.parameters()} == {dtype}


def test_training_outputs_are_equal() -> None:
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
        # Norms before the convolutions, whose outputs shortcuts use too.
        ("xception65p", 1),
    ],
)
def test_other_backbones(backbone: str, left: int) -> None:
    config = ModelConfig(
        num_classes=3, backbone=backbone, channels=8, context_levels=(2, 3), skip_levels=(1,), skip_channels=(8,),
        auxiliary_level=2,
    )  # fmt: skip
    model = build(config).double()
    fused = fuse_batch_norms(model)
    assert difference(model, fused, CLIP) < 1e-10
    assert min(len(norm_names(fused)), 1) == left


def test_backbone_that_needs_large_frames() -> None:
    """Its last convolutions have no padding, so it needs at least 75 pixels, also when fused."""
    config = ModelConfig(
        num_classes=3, backbone="inception_v3", channels=8, context_levels=(4,), skip_levels=(), skip_channels=(),
        auxiliary_level=4,
    )  # fmt: skip
    model = build(config)
    clip = torch.rand(1, 1, 3, 107, 99)
    assert logits(model, clip).shape == (1, 1, 3, 107, 99)
    assert difference(model, fuse_batch_norms(model), clip) < 1e-4


class StandIn(CCNet3D):
    """A model of a few layers, which ``compute`` uses."""

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
        self.circular = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
        self.same = nn.Conv2d(3, 4, 3, padding="same")
        self.register_buffer("input_mean", torch.zeros(3, 1, 1))
        randomize_norms(self)

    def forward(self, clip: Tensor) -> Tensor:
        return self.compute(self, clip.flatten(0, 1).to(self.input_mean.dtype))


CASES: dict[str, tuple[Callable[[StandIn, Tensor], Tensor], set[str]]] = {
    # Name: the computation, and the norms that stay.
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
    # The convolution's output has another use.
    "one convolution, two norms": (lambda m, x: join(m.first(x), m.norm, m.other), {"norm", "other"}),
    "shortcut": (lambda m, x: join(m.first(x), m.norm, nn.Identity()), {"norm"}),
    "convolution and norm": (lambda m, x: join(m.first(x), m.norm, m.second), {"norm"}),
    # The same tensor, but no longer the convolution's output.
    "in-place activation between": (lambda m, x: m.norm(m.relu_in_place(m.first(x))), {"norm"}),
    "in-place arithmetic between": (lambda m, x: m.norm(m.first(x).mul_(3).add_(1)), {"norm"}),
    # Its weight is standardized at each call, even if a norm were fused into it.
    "convolution of another kind": (lambda m, x: m.norm(m.standardized(x)), {"norm"}),
}


def join(x: Tensor, *branches: nn.Module) -> Tensor:
    return torch.cat([branch(x) for branch in branches], dim=1)


@pytest.mark.parametrize("case", CASES)
def test_only_norms_that_are_the_only_use_of_a_convolution_are_fused(case: str) -> None:
    compute, left = CASES[case]
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
    fused = fuse_batch_norms(model)
    torch.testing.assert_close(fused(CLIP), model(CLIP), rtol=1e-12, atol=1e-12)
    assert used & set(norm_names(fused)) == left


def twice(m: StandIn, x: Tensor) -> Tensor:
    before = m.first(x)
    return before.mul(2) + m.relu_in_place(before)


ACTIVATION_CASES: dict[str, tuple[Callable[[StandIn, Tensor], Tensor], set[str]]] = {
    # Name: the computation, and the activations that stay.
    "chain": (lambda m, x: m.second(m.relu(m.first(x))), set()),
    "in place": (lambda m, x: m.second(m.relu_in_place(m.first(x))), set()),
    "groups, stride, dilation": (lambda m, x: m.relu(m.grouped(m.second(m.first(x)))), set()),
    "result used twice": (lambda m, x: join(m.relu(m.first(x)), m.second, nn.Identity()), set()),
    "result used twice, in place": (lambda m, x: join(m.relu_in_place(m.first(x)), m.second, nn.Identity()), set()),
    "shortcut": (lambda m, x: join(m.first(x), m.relu, nn.Identity()), {"relu"}),
    "shortcut, in place": (twice, {"relu_in_place"}),
    "sum first": (lambda m, x: m.relu(m.first(x).add_(1)), {"relu"}),
    "activation used twice": (lambda m, x: m.relu(m.second(m.relu(m.first(x)))), {"relu"}),
    "convolution used twice": (lambda m, x: m.relu(m.second(m.second(m.first(x)))), {"relu"}),
    "convolution of another kind": (lambda m, x: m.relu(m.standardized(x)), {"relu"}),
    "other padding": (lambda m, x: m.relu(m.circular(x)) + m.relu_in_place(m.same(x)), {"relu", "relu_in_place"}),
}
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")


@needs_onednn
@pytest.mark.parametrize("case", ACTIVATION_CASES)
def test_only_activations_that_are_the_only_use_of_a_convolution_are_fused(case: str) -> None:
    compute, left = ACTIVATION_CASES[case]
    model = StandIn(compute).eval()
    with torch.no_grad():
        truth = model(CLIP)
        used = {name for name in ("relu", "relu_in_place") if name in compute.__code__.co_names}
        fuse_activations(model)
        torch.testing.assert_close(model(CLIP), truth, rtol=1e-5, atol=1e-5)
    assert {name for name in used if isinstance(model.get_submodule(name), nn.ReLU)} == left


@needs_onednn
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardswish, nn.SiLU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_activations_have_the_values_of_pytorch(activation: type[nn.Module], dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this CPU")
    model = StandIn(lambda m, x: m.relu(m.first(x.to(m.first.weight.dtype)))).eval()
    model.relu = activation()
    model.first.weight.data.mul_(20)  # so that every piece of the activation is reached
    model.first.to(dtype)
    frames = CLIP.to(dtype).double().flatten(0, 1)
    with torch.no_grad():
        exact = activation()(copy.deepcopy(model.first).double()(frames))
        fuse_activations(model)
        got = model(CLIP)
    assert isinstance(model.relu, nn.Identity)
    assert got.dtype == dtype
    step = torch.finfo(dtype).eps  # a rounding is half of it
    torch.testing.assert_close(got.double(), exact, rtol=step, atol=40 * step if dtype == torch.float32 else step)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_keep_weights_for_a_size_and_give_the_bits_of_those_that_do_not(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this CPU")
    convolution = nn.Conv2d(3, 32, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    model = StandIn(lambda m, x: m.first(x.to(m.first.weight.dtype))).eval()
    model.first = copy.deepcopy(convolution)
    with torch.no_grad():
        fuse_activations(model)
        for size in ((2, 3, 40, 56), (1, 3, 40, 56), (1, 3, 40, 56), (1, 3, 7, 5), (2, 3, 40, 56)):
            x = torch.randn(size).to(dtype, memory_format=torch.channels_last)
            once = torch.ops.mkldnn._convolution_pointwise(
                x, convolution.weight, convolution.bias, [1, 1], [1, 1], [1, 1], 1, "none", [], ""
            )
            assert torch.equal(model.first(x), once)


@needs_onednn
@pytest.mark.parametrize("config", [TINY, ModelConfig()], ids=["tiny", "default"])
def test_models_with_fused_activations_compute_the_same_logits(config: ModelConfig) -> None:
    model = build(config)
    fused = fuse_batch_norms(model)
    before = sum(isinstance(module, nn.ReLU | nn.Hardswish | nn.SiLU) for module in fused.modules())
    fuse_activations(fused)
    assert difference(model, fused, CLIP) < 1e-5
    assert sum(isinstance(module, nn.ReLU | nn.Hardswish | nn.SiLU) for module in fused.modules()) < before
