from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ccnet3d.errors import UserError
from ccnet3d.models import (
    ARCHITECTURES,
    CCNet3D,
    ModelInfo,
    feature_channels,
    input_normalization,
    load_model,
    save_model,
)
from ccnet3d.resources import DEFAULT_WEIGHTS, shipped_weights
from ccnet3d.video import draw_sample_frame


def test_model_file_restores_model_and_info(tmp_path: Path, tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    info = dataclasses.replace(tiny_info, recipe={"epochs": 2, "model": {"name": "x"}}, scores={"val_miou": 0.5})
    path = tmp_path / "model.safetensors"
    save_model(path, tiny_model, info, dtype=torch.float32)
    loaded, loaded_info = load_model(path)
    assert loaded_info == info
    assert not loaded.training
    clip = torch.rand(1, 2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(clip), tiny_model(clip), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"loops": 0}, {"embedding_channels": 16}], ids=str)
def test_models_without_attention_or_with_embeddings(tmp_path: Path, tiny_info: ModelInfo, changes) -> None:
    config = dataclasses.replace(tiny_info.model, **changes)
    model = CCNet3D(config).eval()
    save_model(tmp_path / "model.safetensors", model, dataclasses.replace(tiny_info, model=config), dtype=torch.float32)
    loaded, info = load_model(tmp_path / "model.safetensors")
    assert info.model == config
    clip = torch.rand(1, 2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.forward_with_auxiliary(clip), model.forward_with_auxiliary(clip), rtol=0, atol=0
        )


def test_half_precision_storage_rounds_weights_only_once(tiny_checkpoint: Path, tiny_model: CCNet3D) -> None:
    loaded, _ = load_model(tiny_checkpoint)
    for name, tensor in loaded.state_dict().items():
        expected = tiny_model.state_dict()[name]
        rounded = expected.half().to(expected.dtype) if expected.is_floating_point() else expected
        assert tensor.dtype == expected.dtype
        torch.testing.assert_close(tensor, rounded, rtol=0, atol=0)


def test_files_that_are_not_models(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(
        UserError, match="no model file at .*absent.*or the name of weights in the package: .*ccnet3d_lite_camvid"
    ):
        load_model(tmp_path / "absent.safetensors")
    for content in (b"", b"not safetensors at all", tiny_checkpoint.read_bytes()[:-1000]):
        (tmp_path / "broken.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="is not a ccnet3d model file"):
            load_model(tmp_path / "broken.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="is not a ccnet3d model file"):
        load_model(tmp_path / "foreign.safetensors")


def test_info_must_match_the_model(tiny_info: ModelInfo) -> None:
    with pytest.raises(UserError, match="3 classes, but there are 2 names"):
        dataclasses.replace(tiny_info, class_names=("a", "b"))
    with pytest.raises(UserError, match="clip_length must be in 1 to 1000, got 0"):
        dataclasses.replace(tiny_info, clip_length=0)


def test_default_weights() -> None:
    files = shipped_weights()
    assert DEFAULT_WEIGHTS in files
    assert sum(file.stat().st_size for file in files.values()) < 30_000_000
    model, info = load_model()
    assert load_model("default")[1] == info
    assert len(info.class_names) == 11
    assert info.input_size == (608, 800)
    assert info.recipe["seed"] == 0
    # The model uses its attention: without it the prediction differs, and it depends on the other frames.
    frames = np.stack([draw_sample_frame(index) for index in range(2)])
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
    with torch.no_grad():
        with_attention = model(clip)
        assert (model(clip[:, :1]) - with_attention[:, :1]).abs().max() > 0.1
        model.evidence.gamma.zero_()
        assert (model(clip) - with_attention).abs().max() > 0.1


def test_weights_are_loaded_by_name() -> None:
    model, info = load_model("ccnet3d_lite_camvid")
    assert info.input_size == (480, 640)
    assert model.head.attention is not None
    assert load_model()[1] == load_model(DEFAULT_WEIGHTS)[1]


def test_architecture_with_class_evidence(tmp_path: Path) -> None:
    config = ARCHITECTURES["ccnet3d_b0"]
    assert (config.backbone, config.channels, config.loops) == ("efficientvit_b0", 32, 0)
    assert (config.evidence_loops, config.evidence_level, config.evidence_temperature) == (2, 1, 14.0)
    # The input normalization is the one of the backbone's weights.
    assert (config.input_mean, config.input_std) == input_normalization("efficientvit_b0")
    model = CCNet3D(config).eval()
    assert feature_channels(model.backbone) == [16, 32, 64, 128]
    frames = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        levels = model.extract_features(frames)
        assert [64 // level.shape[2] for level in levels] == [4, 8, 16, 32]
        logits = model(frames[None])
    assert logits.shape == (1, 2, 11, 64, 96)
    names = tuple(f"class {index}" for index in range(11))
    info = ModelInfo(config, names, ((0, 0, 0),) * 11, clip_length=5, input_size=(64, 96))
    save_model(tmp_path / "model.safetensors", model, info, dtype=torch.float32)
    loaded, loaded_info = load_model(tmp_path / "model.safetensors")
    assert loaded_info == info
    with torch.no_grad():
        torch.testing.assert_close(loaded(frames[None]), logits, rtol=0, atol=0)
