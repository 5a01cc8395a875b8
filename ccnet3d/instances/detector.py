"""Mask R-CNN of torchvision with criss-cross attention, or a non-local block, in its backbone."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from ccnet3d.attention import RecurrentCrissCrossAttention
from ccnet3d.config import check_range
from ccnet3d.errors import UserError

__all__ = ["CONTEXT_PREFIX", "DetectorConfig", "ImageCrissCrossAttention", "NonLocalBlock", "build_detector"]

CONTEXT_PREFIX = "backbone.body.layer3.context."
"""How the names of the context module's weights begin; all others are named as in torchvision."""

_BACKBONES: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
"""Kind and number of residual blocks in each stage, by torchvision's name."""
_CONTEXTS = ("criss_cross", "non_local", "none")
_STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class DetectorConfig:
    """Section ``[detector]``: the network. The defaults are those of the paper's R-50 with RCCA.

    >>> DetectorConfig(backbone="resnet101", context="non_local").loops
    2
    """

    backbone: str = "resnet50"
    """``resnet18``, ``resnet50`` or ``resnet101``, as torchvision names them."""
    width: int = 64
    """Channels of the backbone's first residual blocks, from which all others follow; ImageNet weights are for 64."""
    context: str = "criss_cross"
    """The module right before the last residual block of the third stage (res4): ``criss_cross``, ``non_local`` or
    ``none``."""
    loops: int = 2
    """R, how often criss-cross attention is applied."""
    channels: int = 256
    """Channels of the feature pyramid and of the mask head; the box head has four times as many."""
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Sides of the anchors in pixels, for strides 4, 8, 16, 32 and 64."""
    min_size: int = 800
    """Pixels of the shorter side to which images are resized, ..."""
    max_size: int = 1333
    """... unless the longer side would be longer than this."""
    frozen_batch_norm: bool = True
    """Batch norms keep the statistics and weights of the pretrained backbone; false to train from random weights."""
    batch_norm_epsilon: float = 1e-5
    """Of frozen batch norms; torchvision's COCO weights have 0."""
    regions_per_image: int = 512
    """Regions of an image on which the box head is trained."""
    detections_per_image: int = 100
    """The most confident detections of an image are kept."""

    def __post_init__(self) -> None:
        if self.backbone not in _BACKBONES:
            raise UserError(f"detector.backbone must be one of {', '.join(_BACKBONES)}, got {self.backbone[:80]!r}")
        if self.context not in _CONTEXTS:
            raise UserError(f"detector.context must be one of {', '.join(_CONTEXTS)}, got {self.context[:80]!r}")
        if len(self.anchor_sizes) != 5:
            raise UserError(f"detector.anchor_sizes must be five, one per level, got {len(self.anchor_sizes)}")
        check_range("detector.width", self.width, 8, 256)
        check_range("detector.loops", self.loops, 1, 16)
        check_range("detector.channels", self.channels, 8, 1024)
        check_range("detector.anchor_sizes", self.anchor_sizes, 1, 1 << 14)
        check_range("detector.min_size", self.min_size, 32, 1 << 13)
        check_range("detector.max_size", self.max_size, self.min_size, 1 << 14)
        check_range("detector.batch_norm_epsilon", self.batch_norm_epsilon, 0, 1)
        check_range("detector.regions_per_image", self.regions_per_image, 1, 1 << 14)
        check_range("detector.detections_per_image", self.detections_per_image, 1, 1 << 14)


class ImageCrissCrossAttention(RecurrentCrissCrossAttention):
    """Recurrent criss-cross attention over images (T = 1), which keeps their memory format.

    Convolutions round differently in another one, and a new model must have the outputs of its initial weights.

    >>> import torch
    >>> features = torch.rand(1, 16, 5, 7)
    >>> torch.equal(ImageCrissCrossAttention(16, loops=2)(features), features)  # gamma starts at 0
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]``, contiguous, to the same shape."""
        return super().forward(x).contiguous()


class NonLocalBlock(nn.Module):
    """The non-local block, embedded Gaussian, of Wang et al. (CVPR 2018): every position attends to every other.

    As in their bottleneck, the embeddings have half of the channels. Their batch norm after the last convolution is
    left out, because Mask R-CNN's are frozen: instead of its weight, that of the convolution starts at 0, so that the
    block also starts as the identity.

    Args:
        channels: C, channels of the input and the output.

    >>> import torch
    >>> features = torch.rand(1, 16, 5, 7)
    >>> torch.equal(NonLocalBlock(16)(features), features)
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 2, 1)
        self.key_conv = nn.Conv2d(channels, channels // 2, 1)
        self.value_conv = nn.Conv2d(channels, channels // 2, 1)
        self.output_conv = nn.Conv2d(channels // 2, channels, 1)
        for parameter in self.output_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        convolutions = (self.query_conv, self.key_conv, self.value_conv)
        query, key, value = (conv(x).flatten(2).transpose(1, 2) for conv in convolutions)  # [B, HW, C/2]
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.output_conv(attended.transpose(1, 2).unflatten(2, x.shape[2:]))


def build_detector(config: DetectorConfig, num_classes: int, *, trained_stages: int = 5) -> MaskRCNN:
    """Build Mask R-CNN with random weights.

    Names of weights and outputs are those of torchvision's ``maskrcnn_resnet50_fpn``; the names of the context module's
    weights begin with :data:`CONTEXT_PREFIX`.

    Args:
        config: the network.
        num_classes: number of classes without the background, which is class 0.
        trained_stages: how many of the backbone's five stages (the stem and four of residual blocks), from the last,
            are trained; the context module always is.

    >>> config = DetectorConfig("resnet18", channels=8, min_size=32, max_size=64)
    >>> model = build_detector(config, num_classes=3).eval()
    >>> import torch
    >>> sorted(model([torch.rand(3, 40, 50)])[0])
    ['boxes', 'labels', 'masks', 'scores']
    """
    resnet = _ScaledResNet(config)
    if trained_stages < len(_STAGES):
        frozen = ("bn1", *_STAGES[: len(_STAGES) - trained_stages])
        for name, parameter in resnet.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
    widths = [getattr(resnet, stage)[0].downsample for stage in _STAGES[2:]]
    widths = [widths[0][0].in_channels, *(downsample[0].out_channels for downsample in widths)]
    _insert_context(resnet, config)
    channels = config.channels
    levels = {stage: str(level) for level, stage in enumerate(_STAGES[1:])}
    backbone = BackboneWithFPN(resnet, levels, widths, channels)
    anchors = AnchorGenerator(tuple((size,) for size in config.anchor_sizes), ((0.5, 1.0, 2.0),) * 5)
    return MaskRCNN(
        backbone,
        min_size=config.min_size,
        max_size=config.max_size,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0]),
        box_head=TwoMLPHead(channels * 7**2, 4 * channels),
        box_predictor=FastRCNNPredictor(4 * channels, num_classes + 1),
        box_batch_size_per_image=config.regions_per_image,
        box_detections_per_img=config.detections_per_image,
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
    )


class _ScaledResNet(ResNet):  # type: ignore[misc]
    """torchvision's ResNet with any width."""

    def __init__(self, config: DetectorConfig) -> None:
        self._width = config.width
        block, depths = _BACKBONES[config.backbone]
        norm = partial(FrozenBatchNorm2d, eps=config.batch_norm_epsilon) if config.frozen_batch_norm else nn.BatchNorm2d
        super().__init__(block, depths, norm_layer=norm)

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        return super()._make_layer(block, planes * self._width // 64, blocks, stride, dilate)


def _insert_context(resnet: ResNet, config: DetectorConfig) -> None:
    """Insert the context module right before the last residual block of res4, which torchvision calls layer3."""
    if config.context == "none":
        return
    *blocks, last = resnet.layer3.named_children()
    channels: int = last[1].conv1.in_channels
    context = (
        ImageCrissCrossAttention(channels, config.loops) if config.context == "criss_cross" else NonLocalBlock(channels)
    )
    resnet.layer3 = nn.Sequential(OrderedDict([*blocks, ("context", context), last]))
