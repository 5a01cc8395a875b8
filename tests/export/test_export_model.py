"""Exported models equal PyTorch; what cannot be exported is refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export.tiny_export import FRAMES, MODELS, TINY, make_info, make_model, write_video
from torch import nn

from ccnet3d.cli import export
from ccnet3d.errors import UserError
from ccnet3d.export import export_model
from ccnet3d.export.graphs import quantize
from ccnet3d.inference import (
    ExportedModel,
    ExportedSegmenter,
)
from ccnet3d.models import kept_names, load_model, network_parts, save_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_parts_equal_the_network(name: str) -> None:
    model = make_model(MODELS[name])
    frame_part, clip_part = network_parts(model)
    for length, height, width in ((1, 64, 96), (4, 96, 64)):
        frames = torch.rand(length, 3, height, width)
        features = model.frame_features(model.extract_features(frames))
        expected = model.settle(model.decode(features, model.attend(features.reduced, length)), length)
        kept = frame_part(frames)
        assert len(kept) == len(kept_names(model))
        offsets = torch.tensor([length - 1, 0])
        torch.testing.assert_close(clip_part(offsets, *kept), expected[offsets], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", ["axial", "aspp"])
def test_other_context_modules(context: str, tmp_path: Path) -> None:
    """One that mixes frames, and one that is part of the frame part."""
    config = replace(TINY, context=context)
    save_model(tmp_path / "tiny.safetensors", make_model(config), make_info(config), dtype=torch.float32)
    info = export_model(tmp_path / "tiny.safetensors", tmp_path / "out", "onnx", FRAMES[:4], min_equal=1.0)
    assert info.parity["onnxruntime"]["largest_difference"] < 1e-3


def test_context_modules_without_a_form(tmp_path: Path) -> None:
    config = replace(TINY, context="ppm")
    save_model(tmp_path / "tiny.safetensors", make_model(config), make_info(config), dtype=torch.float32)
    with pytest.raises(UserError, match="model.context ppm .* one of criss_cross, non_local, axial, aspp, gcn, none"):
        export_model(tmp_path / "tiny.safetensors", tmp_path / "out", "onnx", FRAMES[:1])


def test_export_before_the_decoder(tmp_path: Path) -> None:
    config = MODELS["before the decoder"]
    save_model(tmp_path / "tiny.safetensors", make_model(config), make_info(config), dtype=torch.float32)
    info = export_model(tmp_path / "tiny.safetensors", tmp_path / "out", "onnx", FRAMES[:4], min_equal=1.0)
    assert info.parity["onnxruntime"]["largest_difference"] < 1e-3


def test_metadata_is_that_of_the_model_file(exported: Path) -> None:
    import onnx

    table = json.loads((exported / "onnx" / "model.json").read_text())
    assert table["info"]["class_names"] == ["ground", "box", "rail"]
    assert table["info"]["input_size"] == [64, 96]
    assert table["info"]["model"]["input_mean"] == [0.5, 0.5, 0.5]
    for name, digest in table["files"].items():
        assert hashlib.sha256((exported / "onnx" / name).read_bytes()).hexdigest() == digest
    properties = {item.key: item.value for item in onnx.load(exported / "onnx" / "frame.onnx").metadata_props}
    assert json.loads(properties["ccnet3d"])["clip_length"] == 3
    domains = {
        node.domain for part in ("frame", "clip") for node in onnx.load(exported / f"onnx/{part}.onnx").graph.node
    }
    assert domains <= {"", "ai.onnx"}  # standard operators only


def test_int8_is_calibrated_on_frames(exported: Path, tmp_path: Path) -> None:
    info = export_model(
        exported / "tiny.safetensors", tmp_path, "onnx", FRAMES[:3], precision="int8", calibration=FRAMES, min_equal=0.5
    )
    assert info.parity["onnxruntime"]["largest_difference"] > 1e-4
    assert b"QuantizeLinear" in (tmp_path / "frame.onnx").read_bytes()


def test_int8_leaves_activations_whole(tmp_path: Path) -> None:
    """In pieces, they cost runtimes more time than convolutions of 8 bits save."""
    import onnx

    layers = [nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Conv2d(4, 4, 1), nn.Hardswish(), nn.Conv2d(4, 2, 1)]
    path = tmp_path / "frame.onnx"
    options = {"dynamo": False, "opset_version": 18, "input_names": ["frames"]}
    torch.onnx.export(nn.Sequential(*layers), (torch.rand(1, 3, 16, 24),), str(path), **options)
    before = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert before == {"Conv": 3, "HardSwish": 2}
    quantize(path, lambda: iter([torch.rand(1, 3, 16, 24).numpy()]))
    after = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert before <= after
    assert after["QuantizeLinear"] == 2  # inputs of the convolutions after the first


def test_torch_export_is_written_and_never_loaded(exported: Path, tmp_path: Path) -> None:
    info = export_model(exported / "tiny.safetensors", tmp_path, "torch", FRAMES[:2], min_equal=1.0)
    assert set(info.files) == {"frame.pt2", "clip.pt2"}
    with pytest.raises(UserError, match=r"can execute code in it; give --runtime torch"):
        ExportedSegmenter(ExportedModel(tmp_path), "onnxruntime")


def test_too_different_predictions_fail_and_write_nothing(exported: Path, tmp_path: Path, capsys) -> None:
    out, video = tmp_path / "out", write_video(tmp_path)
    torch.manual_seed(1)
    model, info = load_model(exported / "tiny.safetensors")
    model.classifier.weight.data.div_(1e3)  # near ties, which 8 bits do not tell apart
    model.classifier.bias.data.zero_()
    save_model(tmp_path / "near.safetensors", model, info, dtype=torch.float32)
    options = ["--precision", "int8", "--calibrate", str(video), "--check-frames", "2", "--min-equal", "1"]
    assert export.main([str(tmp_path / "near.safetensors"), "-o", str(out), *options]) == 2
    assert "of pixels have the same class as in PyTorch" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "int8 needs frames of your own"),
        (["--calibrate", "x.mp4"], "int8 needs frames of your own"),
        (["--input-size", "65x96", "--check-frames", "1"], "multiples of 32 pixels, got (65, 96)"),
    ],
)
def test_invalid_options(exported: Path, tmp_path: Path, arguments: list[str], message: str, capsys) -> None:
    assert export.main([str(exported / "tiny.safetensors"), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
