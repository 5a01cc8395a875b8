"""Published CCNets: outputs of converted files against networks written from the public descriptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.public_networks import Authors, OpenMMLab, randomize
from torch import Tensor, nn

from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D, load_published

NAMES = ("road", "sidewalk", "sky")
PALETTE = [[128, 64, 128], [244, 35, 232], [70, 130, 180]]
META = {
    "mmseg_version": "0.5.0+b57fb2b",
    "config": "model = dict(decode_head=dict(type='CCHead', recurrence=2, align_corners=True))",
    "CLASSES": NAMES,
    "PALETTE": PALETTE,
    "iter": 40000,
}


def public(kind: type[nn.Module], **options: Any) -> nn.Module:
    with torch.device("meta"):
        network = kind(len(NAMES), **options)
    network.to_empty(device="cpu")
    randomize(network)
    return network.eval()


def check(model: CCNet3D, size: tuple[int, int], expected: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """Compare logits and auxiliary logits for two noisy images with those of RGB images from 0 to 255."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (2, 3, *size)).float()
    with torch.no_grad():
        outputs = model.forward_with_auxiliary(images[:, None] / 255)
        logits, auxiliary = expected(images)
    for found, wanted in ((outputs.logits[:, 0], logits), (outputs.auxiliary[:, 0], auxiliary)):
        assert 0.01 < wanted.std() < 100
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_mmsegmentation(tmp_path: Path) -> None:
    network = public(OpenMMLab)
    torch.save({"meta": META, "state_dict": network.state_dict()}, tmp_path / "ccnet_r50.pth")
    published = load_published(tmp_path / "ccnet_r50.pth")
    assert published.source == "mmsegmentation"
    assert (published.class_names, published.palette) == (NAMES, tuple(map(tuple, PALETTE)))
    assert (published.notes, published.model.config.loops) == ((), 2)
    check(published.model, (41, 65), lambda images: network(images, 2, align_corners=True))
    published.model.config = replace(published.model.config, align_corners=False)
    check(published.model, (40, 64), lambda images: network(images, 2, align_corners=False))


def test_authors(tmp_path: Path) -> None:
    """Saved by DataParallel, without anything else; norms have negative weights."""
    network = public(Authors)
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "CS_scenes.pth")
    published = load_published(tmp_path / "CS_scenes.pth", loops=1)
    assert (published.source, published.class_names) == ("CCNet's authors", ())
    assert published.notes == ("the file does not say how logits are enlarged; assumed align_corners=True",)
    check(published.model, (38, 61), lambda images: network(images.flip(1), 1))


def test_authors_with_batch_norms_and_old_names(tmp_path: Path) -> None:
    network = public(Authors, in_place=False, old_names=True)
    torch.save({"model": network.state_dict() | {"criterion.weight": torch.ones(3)}}, tmp_path / "model.pth")
    published = load_published(tmp_path / "model.pth")
    assert len(published.notes) == 2
    check(published.model, (40, 64), lambda images: network(images.flip(1)))


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"

    def refuse(content: Any, message: str) -> None:
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            load_published(path)

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in OpenMMLab(3).state_dict().items()}
    state = {key: torch.ones(()).expand(shape) for key, shape in shapes.items()}  # files of one number per weight
    with pytest.raises(UserError, match=r"there is no file .*absent.pth"):
        load_published(tmp_path / "absent.pth")
    refuse({"state_dict": state, "history": Path()}, "cannot be read as tensors and plain values alone; .* can run")
    refuse([1, 2], "contains a list, expected weights by name")
    refuse({}, "not a CCNet of a known kind, it has no weights; mmsegmentation has backbone.stem")
    refuse({"fc.bias": torch.ones(1)}, r"it has fc.bias, ...; mmsegmentation has .*; CCNet's authors has conv1")
    refuse(
        state | {"neck.bias": torch.ones(1)}, "it has 1 weight of other parts, such as neck.bias; mmsegmentation has"
    )
    without = {key: value for key, value in state.items() if key != "backbone.layer2.1.bn2.bias"}
    refuse(without, "1 weight missing, such as backbone.layer2.1.bn2.bias; mmsegmentation has backbone.stem")
    refuse(state | {"decode_head.conv_seg.bias": torch.ones(4)}, r"classifier.bias has the shape \[4\], not \[3\]")
    refuse(state | {"decode_head.cca.gamma.scale": torch.tensor(torch.nan)}, "gamma has values that are not finite")
    refuse(state | {"backbone.layer1.0.downsample.2.weight": torch.ones(1)}, "pools in its shortcuts")
    refuse({key: value for key, value in state.items() if "layer4.2" not in key}, r"stages have \(3, 4, 6, 2\) blocks")
