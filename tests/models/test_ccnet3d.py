from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import TINY

from ccnet3d.errors import UserError
from ccnet3d.models import ARCHITECTURES, CCNet3D, ModelConfig
from ccnet3d.models.ccnet3d import FrameFeatures

PAPER_LIKE = ModelConfig(  # the paper's architecture with a small backbone: stride 8, no skips
    num_classes=5,
    backbone="resnet18",
    output_stride=8,
    context_levels=(4,),
    channels=16,
    initial_gamma=0.5,  # at the paper's 0 the projections have no gradient
    skip_levels=(),
    skip_channels=(),
)
NO_ATTENTION = dataclasses.replace(TINY, loops=0)
EMBEDDED = dataclasses.replace(TINY, embedding_channels=16)


@pytest.mark.parametrize("config", [TINY, PAPER_LIKE, NO_ATTENTION], ids=["light", "paper", "no attention"])
@pytest.mark.parametrize("size", [(1, 1, 32, 48), (2, 3, 37, 53), (1, 5, 65, 31)], ids=str)
def test_logits_have_the_size_of_the_input(config: ModelConfig, size: tuple[int, int, int, int]) -> None:
    batch, time, height, width = size
    with torch.no_grad():
        logits = CCNet3D(config).eval()(torch.rand(batch, time, 3, height, width))
    assert logits.shape == (batch, time, config.num_classes, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [TINY, PAPER_LIKE, NO_ATTENTION, EMBEDDED, dataclasses.replace(EMBEDDED, loops=0)],
    ids=["light", "paper", "no attention", "embedded", "no attention, embedded"],
)
def test_every_parameter_gets_a_gradient(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = CCNet3D(config).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm's ResNets start with weight 0 in the last norm of each block
    outputs = model.forward_with_auxiliary(torch.rand(2, 2, 3, 64, 64))
    assert outputs.auxiliary.shape == outputs.logits.shape
    assert (outputs.embeddings is None) == (config.embedding_channels == 0)
    sum(output.square().mean() for output in outputs if output is not None).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The keys' bias adds a constant to all scores of a softmax, so its gradient is zero except for rounding.
    assert [name for name in without if name != "head.attention.key_conv.bias"] == []


def test_frame_sees_only_the_frames_of_its_clip(tiny_model: CCNet3D) -> None:
    tiny_model.double()
    clip = torch.rand(2, 3, 3, 32, 48, dtype=torch.float64)
    changed = clip.clone()
    changed[0, 2] = 1 - changed[0, 2]
    with torch.no_grad():
        before, after = tiny_model(clip), tiny_model(changed)
    assert (before[0, 0] - after[0, 0]).abs().max() > 1e-8  # through the time axis
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=1e-12)  # the other clip of the batch


def test_model_with_0_loops_has_no_attention(tiny_model: CCNet3D) -> None:
    model = CCNet3D(NO_ATTENTION).double().eval()
    tiny_model.double()
    weights = tiny_model.state_dict()
    of_attention = {name for name in weights if name.startswith("head.attention.")}
    assert len(of_attention) == 7
    model.load_state_dict({name: weights[name] for name in weights.keys() - of_attention})
    clip = torch.rand(2, 3, 3, 32, 48, dtype=torch.float64)
    changed = clip.clone()
    changed[0, 2] = 1 - changed[0, 2]
    with torch.no_grad():
        logits = model(clip)
        torch.testing.assert_close(model(changed)[0, :2], logits[0, :2], rtol=0, atol=1e-12)  # frames are independent
        assert (logits - tiny_model(clip)).abs().max() > 1e-6
        tiny_model.head.attention.gamma.zero_()
        torch.testing.assert_close(logits, tiny_model(clip), rtol=1e-12, atol=1e-12)


def test_embedding_branch_does_not_change_the_rest_of_the_model(tiny_model: CCNet3D) -> None:
    torch.manual_seed(7)
    plain = CCNet3D(TINY).state_dict()
    torch.manual_seed(7)
    embedded = CCNet3D(EMBEDDED)
    shapes = {name: tuple(tensor.shape) for name, tensor in embedded.state_dict().items() if name not in plain}
    assert shapes == {"embedding.weight": (16, 16, 1, 1), "embedding.bias": (16,)}
    assert all(torch.equal(embedded.state_dict()[name], tensor) for name, tensor in plain.items())

    embedded.load_state_dict(tiny_model.state_dict(), strict=False)
    embedded.eval()
    clip = torch.rand(2, 3, 3, 40, 56)
    with torch.no_grad():
        outputs = embedded.forward_with_auxiliary(clip)
        expected = tiny_model(clip)
        assert torch.equal(embedded(clip), expected)
        assert torch.equal(outputs.logits, expected)
        reduced = embedded.frame_features(embedded.extract_features(clip.flatten(0, 1))).reduced
        attended = embedded.attend(reduced, clip_length=3)
        embedding = embedded.embedding
        expected = torch.einsum("ec,nchw->nehw", embedding.weight[:, :, 0, 0], attended) + embedding.bias[:, None, None]
    assert outputs.embeddings.shape == (2, 3, 16, 3, 4)
    torch.testing.assert_close(outputs.embeddings.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_separate_features_and_head_equal_the_model(tiny_model: CCNet3D) -> None:
    clip = torch.rand(1, 3, 3, 40, 56)
    with torch.no_grad():
        frames = [tiny_model.frame_features(tiny_model.extract_features(clip[:, t])) for t in range(3)]
        joined = FrameFeatures.join(frames)
        coarse = tiny_model.frame_logits(joined, tiny_model.attend(joined.reduced, clip_length=3))
        expected = tiny_model(clip)
    full = torch.nn.functional.interpolate(coarse, size=(40, 56), mode="bilinear")
    torch.testing.assert_close(full[None], expected, rtol=1e-4, atol=1e-5)


def test_model_normalizes_its_input() -> None:
    torch.manual_seed(0)
    plain = CCNet3D(dataclasses.replace(TINY, input_mean=(0.0, 0.0, 0.0), input_std=(1.0, 1.0, 1.0))).eval()
    shifted = CCNet3D(dataclasses.replace(TINY, input_mean=(0.1, 0.2, 0.3), input_std=(0.5, 0.4, 0.3))).eval()
    shifted.load_state_dict(plain.state_dict())
    clip = torch.rand(1, 1, 3, 32, 32)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(shifted(clip), plain((clip - mean) / std))


def test_channels_last_backbones_work() -> None:
    config = dataclasses.replace(
        TINY, backbone="swin_tiny_patch4_window7_224", context_levels=(3,), skip_levels=(1, 0), skip_channels=(12, 8),
        auxiliary_level=2,
    )  # fmt: skip
    model = CCNet3D(config).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 2, 3, 96, 128)).shape == (1, 2, 3, 96, 128)
        levels = model.extract_features(torch.rand(2, 3, 96, 128))
    assert [tuple(level.shape[1:]) for level in levels] == [(96, 24, 32), (192, 12, 16), (384, 6, 8), (768, 3, 4)]


def test_named_architectures() -> None:
    light, paper = ARCHITECTURES["ccnet3d_lite"], ARCHITECTURES["ccnet3d_resnet101"]
    assert light == ModelConfig()
    assert (paper.backbone, paper.output_stride, paper.channels, paper.reduction) == ("resnet101", 8, 512, 8)
    assert (paper.loops, paper.skip_levels, paper.dropout, paper.initial_gamma) == (3, (), 0.1, 0.0)
    model = CCNet3D(paper).eval()
    assert tuple(model.head.attention.query_conv.weight.shape) == (64, 512, 1, 1, 1)
    assert tuple(model.head.fuse[0][0].weight.shape) == (512, 2048 + 512, 3, 3)
    with torch.no_grad():
        assert model(torch.rand(1, 2, 3, 33, 48)).shape == (1, 2, 11, 33, 48)


def test_invalid_configurations() -> None:
    with pytest.raises(UserError, match=r"timm does not know the model 'no_such_net'.*list_models"):
        CCNet3D(dataclasses.replace(TINY, backbone="no_such_net"))
    with pytest.raises(UserError, match="output_stride must be 8, 16 or 32, got 7"):
        CCNet3D(dataclasses.replace(TINY, backbone="resnet18", output_stride=7))
    with pytest.raises(UserError, match="timm cannot build 'test_vit' .* at output stride 8 .*list_models"):
        CCNet3D(dataclasses.replace(TINY, backbone="test_vit", output_stride=8))
    with pytest.raises(UserError, match="has levels 0 to 4"):
        CCNet3D(dataclasses.replace(TINY, auxiliary_level=5))
    with pytest.raises(UserError, match="num_classes must be in 2 to 16384, got 1"):
        ModelConfig(num_classes=1)
    with pytest.raises(UserError, match="equally long"):
        ModelConfig(skip_levels=(2,), skip_channels=(8, 8))
    with pytest.raises(UserError, match="context_levels"):
        ModelConfig(context_levels=())
    with pytest.raises(UserError, match="loops must be in 0 to 64, got -1"):
        ModelConfig(loops=-1)
    with pytest.raises(UserError, match="embedding_channels must be in 0 to 16384, got -16"):
        ModelConfig(embedding_channels=-16)
    with pytest.raises(UserError, match="dropout must be in 0 to 0.99, got 1.0"):
        ModelConfig(dropout=1.0)


@pytest.mark.parametrize(
    "clip", [torch.rand(1, 3, 32, 32), torch.rand(1, 2, 4, 32, 32), torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)]
)
def test_invalid_clips(tiny_model: CCNet3D, clip: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a clip \[B, T, 3, H, W\] of floats"):
        tiny_model(clip)
