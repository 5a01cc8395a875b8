"""The segmentation head of EfficientViT against a network written from the structure of its public file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ccnet3d.errors import UserError
from ccnet3d.models import ARCHITECTURES, CCNet3D, fuse_batch_norms, load_backbone_weights, load_head_weights

CONFIG = replace(ARCHITECTURES["ccnet3d_b0"], evidence_loops=0)
CITYSCAPES_CLASSES = 19


class Layer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.hardswish(x) if self.act else x


def named(**children: nn.Module) -> nn.Module:
    parent = nn.Module()
    for name, child in children.items():
        parent.add_module(name, child)
    return parent


class PublicHead(nn.Module):
    """EfficientViT-B0's head with the public file's names; levels are bilinearly resized, as ours are."""

    def __init__(self) -> None:
        super().__init__()
        self.input_ops = nn.ModuleList([
            named(op_list=nn.ModuleList([Layer(128, 32, act=False)])),
            named(op_list=nn.ModuleList([Layer(64, 32, act=False)])),
            Layer(32, 32, act=False),
        ])  # fmt: skip
        bottleneck = named(
            inverted_conv=Layer(32, 128),
            depth_conv=Layer(128, 128, 3, groups=128),
            point_conv=Layer(128, 32, act=False),
        )
        self.middle = named(op_list=nn.ModuleList([named(main=bottleneck)]))
        classifier = named(conv=nn.Conv2d(128, CITYSCAPES_CLASSES, 1))
        self.output_ops = nn.ModuleList([named(op_list=nn.ModuleList([Layer(32, 128), classifier]))])

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        stride_8, stride_16, stride_32 = levels
        size = stride_8.shape[-2:]
        x = self.input_ops[2](stride_8)
        for op, level in zip(self.input_ops[:2], (stride_32, stride_16), strict=True):
            x = x + F.interpolate(op.op_list[0](level), size=size, mode="bilinear", align_corners=False)
        main = self.middle.op_list[0].main
        x = x + main.point_conv(main.depth_conv(main.inverted_conv(x)))
        last = self.output_ops[0].op_list
        return last[1].conv(last[0](x))


@pytest.fixture
def public(tmp_path: Path) -> tuple[PublicHead, str]:
    """A head with random weights and statistics, and a file with them."""
    torch.manual_seed(0)
    head = PublicHead().eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    torch.save({"state_dict": {f"head.{key}": value for key, value in head.state_dict().items()}}, tmp_path / "b0.pt")
    return head, str(tmp_path / "b0.pt")


def test_logits_are_those_of_the_public_head(public: tuple[PublicHead, str]) -> None:
    head, path = public
    config = replace(CONFIG, skip_levels=(), skip_channels=(), num_classes=3)
    model = CCNet3D(config).eval()
    load_head_weights(model, path, [10, 0, 13])
    levels = [torch.randn(2, channels, 24 // 2**i, 32 // 2**i) for i, channels in enumerate((16, 32, 64, 128))]
    with torch.no_grad():
        features = model.frame_features(levels)
        logits = model.frame_logits(features, features.reduced)
        torch.testing.assert_close(logits, head(levels[1:])[:, [10, 0, 13]], rtol=1e-4, atol=1e-4)


def test_detail_starts_at_zero(public: tuple[PublicHead, str]) -> None:
    """Levels that the public head does not have change nothing before training, and something after it."""
    head, path = public
    model = CCNet3D(replace(CONFIG, skip_levels=(0,), skip_channels=(8,), num_classes=CITYSCAPES_CLASSES)).eval()
    load_head_weights(model, path, range(CITYSCAPES_CLASSES))
    levels = [torch.randn(1, channels, 24 // 2**i, 32 // 2**i) for i, channels in enumerate((16, 32, 64, 128))]
    with torch.no_grad():
        features = model.frame_features(levels)
        logits = model.frame_logits(features, features.reduced)
        assert logits.shape[-2:] == (24, 32)
        expected = F.interpolate(head(levels[1:]), size=(24, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        assert model.detail is not None
        nn.init.ones_(model.detail.weight)
        assert (model.frame_logits(features, features.reduced) - logits).abs().max() > 0.1


@pytest.mark.parametrize("loops", [0, 2])
def test_attention_mixes_frames_of_the_sum(loops: int) -> None:
    """The paper's placement in this head: with attention a frame depends on its clip, without it does not."""
    torch.manual_seed(0)
    model = CCNet3D(replace(CONFIG, loops=loops, initial_gamma=1.0)).eval()
    clip = torch.rand(1, 2, 3, 64, 64)
    other = clip.clone()
    other[:, 1] = torch.rand(3, 64, 64)
    with torch.no_grad():
        changed = not torch.equal(model(clip)[:, 0], model(other)[:, 0])
        torch.testing.assert_close(fuse_batch_norms(model)(clip), model(clip), rtol=1e-3, atol=1e-3)
    assert changed == bool(loops)


def test_refused_files_and_classes(public: tuple[PublicHead, str], tmp_path: Path) -> None:
    _, path = public
    model = CCNet3D(replace(CONFIG, num_classes=2))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for classes in ([1], [1, 2, 3], [0, 19], [-1, 0]):
        with pytest.raises(UserError, match=r"must name a class from 0 to 18 of .* for each of the 2 classes, got \["):
            load_head_weights(model, path, classes)
    with pytest.raises(UserError, match=r"no backbone weights at .*absent"):
        load_head_weights(model, str(tmp_path / "absent.pt"), [0, 1])
    torch.save({"weight": torch.rand(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"does not contain the segmentation head .*or leave model.head_classes empty"):
        load_head_weights(model, str(tmp_path / "other.pt"), [0, 1])
    with pytest.raises(UserError, match="does not contain the segmentation head"):  # of a head with other layers
        load_head_weights(CCNet3D(replace(CONFIG, num_classes=2, channels=16)), path, [0, 1])
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.real_data
def test_public_weights_segment_frames_they_have_not_seen(camvid: Path) -> None:
    """Cityscapes' classes in place of CamVid's, on every 25th val frame; no frame of CamVid was trained on."""
    path = os.environ.get("CCNET3D_CITYSCAPES_WEIGHTS", "")
    if not Path(path).is_file():
        pytest.skip("CCNET3D_CITYSCAPES_WEIGHTS does not name MIT HAN Lab's efficientvit_seg_b0_cityscapes.pt")
    model = CCNet3D(replace(CONFIG, num_classes=CITYSCAPES_CLASSES)).eval()
    load_backbone_weights(model.backbone, "efficientvit_b0", path)
    load_head_weights(model, path, range(CITYSCAPES_CLASSES))
    to_camvid = np.array([3, 4, 1, 1, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10])
    right = labeled = 0
    for image in sorted((camvid / "val").glob("*.png"))[::25]:
        frame = torch.from_numpy(np.array(Image.open(image).convert("RGB"))).permute(2, 0, 1)[None] / 255
        enlarged = F.interpolate(frame, scale_factor=2, mode="bilinear", align_corners=False)
        with torch.no_grad():
            logits = F.interpolate(model(enlarged[:, None])[0], size=frame.shape[-2:], mode="bilinear")
        label = np.array(Image.open(camvid / "valannot" / image.name))
        right += int((to_camvid[logits[0].argmax(0).numpy()] == label)[label < 11].sum())
        labeled += int((label < 11).sum())
    assert right / labeled > 0.88
