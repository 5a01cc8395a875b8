"""CCNets written from their published descriptions, with the names of weights of the public files, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def parent(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def convolution(in_channels: int, out_channels: int, kernel: int = 3, **options: int) -> nn.Conv2d:
    padding = options.get("dilation", 1) * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False, **options)


class InPlaceNorm(nn.Module):
    """In-Place ABN in evaluation: scale |weight| + epsilon, then a leaky ReLU with slope 0.01, or none."""

    def __init__(self, channels: int, slope: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            v[:, None, None] for v in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * (weight.abs() + 1e-5) + bias
        return torch.where(x > 0, x, x * self.slope)


class Block(nn.Module):
    """A bottleneck whose stride is in the 3x3 convolution."""

    def __init__(self, inside: int, planes: int, stride: int, dilation: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inside, planes, 1), norm(planes)
        self.conv2, self.bn2 = convolution(planes, planes, stride=stride, dilation=dilation), norm(planes)
        self.conv3, self.bn3 = convolution(planes, 4 * planes, 1), norm(4 * planes)
        self.downsample = None
        if stride > 1 or inside != 4 * planes:
            self.downsample = nn.Sequential(convolution(inside, 4 * planes, 1, stride=stride), norm(4 * planes))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


def stages(
    inside: int, blocks: Sequence[int], dilations: Sequence[Sequence[int]], norm: type[nn.Module]
) -> dict[str, nn.Module]:
    """Return layer1 to layer4; ``dilations`` has that of the first block and of the others of each stage."""
    found = {}
    for stage, (count, (first, others)) in enumerate(zip(blocks, dilations, strict=True)):
        planes, layers = 64 * 2**stage, []
        for place in range(count):
            stride = 2 if stage == 1 and place == 0 else 1
            layers.append(Block(inside, planes, stride, others if place else first, norm))
            inside = 4 * planes
        found[f"layer{stage + 1}"] = nn.Sequential(*layers)
    return found


def criss_cross(x: Tensor, attention: nn.Module, gamma: Tensor) -> Tensor:
    """CCNet, equations 1 and 2: a softmax over the H + W - 1 positions of each cross, the center once."""
    query, key, value = attention.query_conv(x), attention.key_conv(x), attention.value_conv(x)
    along_width = torch.einsum("bchw,bchj->bhwj", query, key)
    along_height = torch.einsum("bchw,bciw->bhwi", query, key)
    height = x.shape[-2]
    along_height[:, torch.arange(height), :, torch.arange(height)] = -torch.inf
    weights = torch.cat([along_height, along_width], -1).softmax(-1)
    mixed = torch.einsum("bhwi,bciw->bchw", weights[..., :height], value)
    return gamma * (mixed + torch.einsum("bhwj,bchj->bchw", weights[..., height:], value)) + x


def attention_layers(channels: int) -> dict[str, nn.Module]:
    return {
        "query_conv": nn.Conv2d(channels, channels // 8, 1),
        "key_conv": nn.Conv2d(channels, channels // 8, 1),
        "value_conv": nn.Conv2d(channels, channels, 1),
    }


class OpenMMLab(nn.Module):
    """mmsegmentation's CCNet: ResNetV1c-50 at stride 8, CCHead, FCNHead; ``images`` are RGB from 0 to 255."""

    def __init__(self, classes: int, channels: int = 16, blocks: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        stem = []
        for inside, outside, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
            stem += [convolution(inside, outside, stride=stride), nn.BatchNorm2d(outside), nn.ReLU()]
        layers = stages(64, blocks, [(1, 1), (1, 1), (1, 2), (2, 4)], nn.BatchNorm2d)  # contract_dilation
        self.backbone = parent(stem=nn.Sequential(*stem), **layers)

        def module(inside: int, outside: int) -> nn.Module:
            return parent(conv=convolution(inside, outside), bn=nn.BatchNorm2d(outside))

        cca = parent(**attention_layers(channels), gamma=nn.Module())
        cca.gamma.scale = nn.Parameter(torch.tensor(0.0))
        self.decode_head = parent(
            conv_seg=nn.Conv2d(channels, classes, 1),
            convs=nn.Sequential(module(2048, channels), module(channels, channels)),
            conv_cat=module(2048 + channels, channels),
            cca=cca,
        )
        self.auxiliary_head = parent(conv_seg=nn.Conv2d(256, classes, 1), convs=nn.Sequential(module(1024, 256)))

    def forward(self, images: Tensor, loops: int = 2, align_corners: bool = False) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        x = (images - mean.to(images)[:, None, None]) / std.to(images)[:, None, None]
        backbone, head, auxiliary = self.backbone, self.decode_head, self.auxiliary_head
        x = F.max_pool2d(backbone.stem(x), 3, 2, 1)
        third = backbone.layer3(backbone.layer2(backbone.layer1(x)))
        last = backbone.layer4(third)

        def apply(module: nn.Module, x: Tensor) -> Tensor:
            return F.relu(module.bn(module.conv(x)))

        out = apply(head.convs[0], last)
        for _ in range(loops):
            out = criss_cross(out, head.cca, head.cca.gamma.scale)
        out = apply(head.conv_cat, torch.cat([last, apply(head.convs[1], out)], 1))
        logits = head.conv_seg(out), auxiliary.conv_seg(apply(auxiliary.convs[0], third))
        size = images.shape[-2:]
        return tuple(F.interpolate(y, size=size, mode="bilinear", align_corners=align_corners) for y in logits)


class Authors(nn.Module):
    """The network of CCNet's authors; ``images`` are BGR from 0 to 255.

    Args:
        classes: K.
        channels: of the attention and of ``dsn``.
        blocks: of each stage.
        in_place: with In-Place ABN, which includes its activation, instead of batch norms and ReLUs.
        old_names: those of the first version.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 16,
        blocks: Sequence[int] = (3, 4, 6, 3),
        *,
        in_place: bool = True,
        old_names: bool = False,
    ) -> None:
        super().__init__()
        norm: type[nn.Module] = InPlaceNorm if in_place else nn.BatchNorm2d
        for place, (inside, outside, stride) in enumerate(((3, 64, 2), (64, 64, 1), (64, 128, 1)), 1):
            self.add_module(f"conv{place}", convolution(inside, outside, stride=stride))
            self.add_module(f"bn{place}", norm(outside))
        for name, stage in stages(128, blocks, [(1, 1), (1, 1), (2, 2), (4, 4)], norm).items():
            self.add_module(name, stage)

        def activated(width: int) -> list[nn.Module]:
            return [InPlaceNorm(width, 0.01)] if in_place else [nn.BatchNorm2d(width), nn.ReLU()]

        def classifier(width: int) -> list[nn.Module]:
            return [*activated(width), nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1)]

        cca = parent(**attention_layers(channels))
        cca.gamma = nn.Parameter(torch.zeros(1))
        parts = [
            nn.Sequential(convolution(2048, channels), *activated(channels)),
            cca,
            nn.Sequential(convolution(channels, channels), *activated(channels)),
        ]
        self.names = ("conv1a", "pc", "conv1b") if old_names else ("conva", "cca", "convb")
        bottleneck = nn.Sequential(convolution(2048 + channels, channels), *classifier(channels))
        self.head = parent(**dict(zip(self.names, parts, strict=True)), bottleneck=bottleneck)
        self.dsn = nn.Sequential(nn.Conv2d(1024, channels, 3, padding=1), *classifier(channels))

    def forward(self, images: Tensor, loops: int = 2) -> tuple[Tensor, Tensor]:
        mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])
        x = images - mean.to(images)[:, None, None]
        for place in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{place}")(getattr(self, f"conv{place}")(x)))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        third = self.layer3(self.layer2(self.layer1(x)))
        last = self.layer4(third)
        first, attention, second = (getattr(self.head, name) for name in self.names)
        out = first(last)
        for _ in range(loops):
            out = criss_cross(out, attention, attention.gamma)
        logits = self.head.bottleneck(torch.cat([last, second(out)], 1)), self.dsn(third)
        size = images.shape[-2:]
        return tuple(F.interpolate(y, size=size, mode="bilinear", align_corners=True) for y in logits)


@torch.no_grad()
def randomize(network: nn.Module) -> None:
    """Draw weights, statistics and gamma such that every layer changes the outputs, which stay of order 1."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.uniform_(-1, 1).mul_((3 / fan) ** 0.5)
            if module.bias is not None:
                module.bias.uniform_(-0.5, 0.5)
        elif hasattr(module, "running_var"):
            sign = -1 if isinstance(module, InPlaceNorm) else 1  # it takes the absolute value
            module.weight.uniform_(0.3, 0.6).mul_(sign)
            module.bias.uniform_(-0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.3, 1.5)
            if hasattr(module, "num_batches_tracked"):
                module.num_batches_tracked.fill_(7)
    for name, parameter in network.named_parameters():
        if "gamma" in name:
            parameter.fill_(0.7)
    # The first norm sees images of order 100.
    first = next(module for module in network.modules() if hasattr(module, "running_var"))
    if isinstance(network, Authors):
        first.running_var.mul_(1e4)
