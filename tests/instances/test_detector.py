from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

from ccnet3d.errors import UserError
from ccnet3d.instances import (
    DetectorConfig,
    DetectorInfo,
    NonLocalBlock,
    build_detector,
    load_backbone,
    load_detector,
    save_detector,
    start_from,
)
from ccnet3d.models import load_model

TINY = DetectorConfig("resnet18", width=8, channels=8, min_size=32, max_size=64)
IMAGE = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(1))


def detections(model: MaskRCNN) -> dict[str, Tensor]:
    """Return detections of a random network, most of which are hardly confident."""
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        return dict(model.eval()([IMAGE])[0])


def as_pretrained(model: MaskRCNN) -> MaskRCNN:
    """Return torchvision's model with the batch norms that it builds for its COCO weights, with random statistics."""
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            frozen = FrozenBatchNorm2d(module.num_features)
            frozen.running_var.uniform_(0.5, 1.5)
            setattr(model.get_submodule(parent), child, frozen)
    overwrite_eps(model, 0.0)
    return model


def test_outputs_equal_those_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = as_pretrained(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91))
    torch.save(expected.state_dict(), tmp_path / "maskrcnn.pth")
    loaded, info = load_detector(tmp_path / "maskrcnn.pth")
    ends = [(info.category_ids[i], info.class_names[i]) for i in (0, -1)]
    assert ends == [(1, "person"), (90, "toothbrush")]
    own = replace(info, detector=replace(info.detector, context="criss_cross"))
    model = build_detector(own.detector, 90)
    start_from(model, own, loaded, info)
    for one in (expected, loaded, model):
        one.transform.min_size, one.transform.max_size = (64,), 96
        one.roi_heads.detections_per_img = 8
    truth = detections(expected)
    assert truth["masks"].shape == (8, 1, 40, 56)
    assert_equal(detections(loaded), truth)
    assert_equal(detections(model), truth)
    *before, name, last = [name for name, _ in model.backbone.body.layer3.named_children()]
    assert (before, name, last) == (["0", "1", "2", "3", "4"], "context", "5")
    assert (model.backbone.body.layer3.context.loops, model.backbone.body.layer3.context.gamma.item()) == (2, 0)


@pytest.mark.parametrize("context", ["criss_cross", "non_local"])
def test_a_new_context_changes_nothing_and_a_trained_one_does(context: str) -> None:
    torch.manual_seed(0)
    without, info = build_detector(replace(TINY, context="none"), 2), DetectorInfo(TINY, ("cat", "dog"), (17, 18))
    own = replace(info, detector=replace(TINY, context=context))
    model = build_detector(own.detector, 2)
    start_from(model, own, without, replace(info, detector=replace(TINY, context="none")))
    truth = detections(without)
    assert_equal(detections(model), truth)
    with torch.no_grad():
        for parameter in model.backbone.body.layer3.context.parameters():
            parameter.fill_(0.1)
    assert not torch.equal(detections(model)["scores"], truth["scores"])


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def test_the_context_is_trained_when_its_stage_is_frozen() -> None:
    names = [name for name, one in build_detector(TINY, 2, trained_stages=1).named_parameters() if one.requires_grad]
    in_body = {name.removeprefix("backbone.body.").split(".")[0] for name in names if ".body." in name}
    assert in_body == {"layer3", "layer4"}
    assert all(".context." in name for name in names if ".layer3." in name)


def test_non_local_block_against_a_loop() -> None:
    torch.manual_seed(0)
    block = NonLocalBlock(4)
    torch.nn.init.normal_(block.output_conv.weight)
    x = torch.randn(1, 4, 2, 3)
    positions = [x[0, :, row, column] for row in range(2) for column in range(3)]

    def project(convolution: torch.nn.Conv2d, vector: Tensor) -> Tensor:
        return convolution.weight[:, :, 0, 0] @ vector + convolution.bias

    expected = []
    for position in positions:
        query = project(block.query_conv, position)
        weights = torch.stack([torch.exp(query @ project(block.key_conv, other)) for other in positions])
        total = sum(weight * project(block.value_conv, other) for weight, other in zip(weights, positions, strict=True))
        expected.append(position + project(block.output_conv, total / weights.sum()))
    torch.testing.assert_close(block(x)[0].flatten(1).T, torch.stack(expected))


def test_a_file_is_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, info = build_detector(TINY, 2), DetectorInfo(TINY, ("cat", "dog"), (17, 18), scores={"box_ap": 0.5})
    save_detector(tmp_path / "model.safetensors", model, info)
    loaded, read = load_detector(tmp_path / "model.safetensors")
    assert read == info
    assert_equal(detections(loaded), detections(model))
    with pytest.raises(UserError, match="is of an instance segmentation model, which ccnet3d-instances runs"):
        load_model(tmp_path / "model.safetensors")


def test_other_classes_start_from_those_of_the_same_name() -> None:
    torch.manual_seed(0)
    other = DetectorInfo(TINY, ("cat", "dog"), (17, 18))
    info = DetectorInfo(replace(TINY, context="none"), ("bird", "dog", "cat"), (1, 2, 3))
    trained, model = build_detector(TINY, 2), build_detector(info.detector, 3)
    fresh = model.roi_heads.box_predictor.cls_score.weight[1].clone()
    start_from(model, info, trained, other)
    for old, new in ((0, 0), (1, 3), (2, 2)):
        for head in ("box_predictor.cls_score", "mask_predictor.mask_fcn_logits"):
            weights = (one.roi_heads.get_submodule(head).weight for one in (trained, model))
            assert torch.equal(next(weights)[old], next(weights)[new])
        boxes = (one.roi_heads.box_predictor.bbox_pred.bias.unflatten(0, (-1, 4)) for one in (trained, model))
        assert torch.equal(next(boxes)[old], next(boxes)[new])
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight[1], fresh)
    with pytest.raises(UserError, match=r"^old.pth is of another architecture"):
        start_from(build_detector(replace(TINY, channels=16), 2), other, trained, other, source="old.pth")


def test_backbone_weights(tmp_path: Path) -> None:
    config = replace(TINY, width=64)
    model, classifier = build_detector(config, 2), resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    load_backbone(model, "resnet18", str(tmp_path / "resnet18.pth"))
    assert torch.equal(model.backbone.body.layer3[2].conv2.weight, classifier.layer3[1].conv2.weight)
    with pytest.raises(UserError, match="does not contain the weights of torchvision's resnet18"):
        load_backbone(build_detector(TINY, 2), "resnet18", str(tmp_path / "resnet18.pth"))
    with pytest.raises(
        UserError, match=r"there are no weights at none.pth; give the weights of torchvision's resnet18"
    ):
        load_backbone(model, "resnet18", "none.pth")


def test_invalid_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="there is no model file at"):
        load_detector(path)
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match="is not a ccnet3d detector"):
        load_detector(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="its header lacks the key 'ccnet3d_detector'"):
        load_detector(path)
    save_detector(path, build_detector(TINY, 2), DetectorInfo(TINY, ("cat", "dog", "cow"), (1, 2, 3)))
    with pytest.raises(UserError, match=r"box_predictor.bbox_pred.bias does not fit the architecture"):
        load_detector(path)
    save_file(load_file(path), tmp_path / "other.pth")
    with pytest.raises(UserError, match="cannot be read as a file with only tensors; give torchvision's COCO weights"):
        load_detector(tmp_path / "other.pth")
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="is of another model, or of other classes; give torchvision's COCO weights"):
        load_detector(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg"}, "detector.backbone must be one of resnet18, resnet50, resnet101, got 'vgg'"),
        ({"context": "ppm"}, "detector.context must be one of criss_cross, non_local, none, got 'ppm'"),
        ({"loops": 0}, "detector.loops must be in 1 to 16, got 0"),
        ({"max_size": 16}, "detector.max_size must be in 32 to 16384, got 16"),
        ({"anchor_sizes": (8, 16)}, "detector.anchor_sizes must be five, one per level, got 2"),
    ],
)
def test_invalid_configurations(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]
