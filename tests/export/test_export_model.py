"""Exported models predict what PyTorch does, in every way of streaming; bad files are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_scene

from ccnet3d.cli import export, infer
from ccnet3d.errors import UserError
from ccnet3d.export import export_model
from ccnet3d.inference import (
    ExportedModel,
    ExportedSegmenter,
    RunOptions,
    VideoSegmenter,
    fastest_runtime,
    segment_video,
)
from ccnet3d.models import CCNet3D, ModelConfig, ModelInfo, kept_names, load_model, network_parts, save_model
from ccnet3d.video import VideoWriter, open_video

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TINY = ModelConfig(num_classes=3, backbone="test_efficientnet", channels=16, skip_channels=(12, 10, 8))
MODELS = {
    "before the decoder": TINY,
    "over evidence": replace(TINY, loops=0, evidence_loops=2),
    "both": replace(TINY, evidence_loops=1),
    "none": replace(TINY, loops=0),
    "same padding": replace(TINY, backbone="tf_efficientnet_lite0", loops=0, evidence_loops=2),
}
FRAMES = [draw_scene(number, 64, 96)[0] for number in range(7)]


def make_model(config: ModelConfig) -> CCNet3D:
    torch.manual_seed(0)
    model = CCNet3D(config)
    with torch.no_grad():
        for _ in range(2):
            model.forward_with_auxiliary(torch.rand(2, 2, 3, 64, 96))
    if model.evidence is not None:
        torch.nn.init.normal_(model.evidence.reliability[-1].weight)
        model.evidence.position_weight.data.fill_(0.7)
    return model.eval()


def make_info(config: ModelConfig) -> ModelInfo:
    return ModelInfo(config, ("ground", "box", "rail"), ((90, 140, 60), (200, 40, 40), (40, 40, 220)), 3, (64, 96))


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


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model, beside the model file."""
    root = tmp_path_factory.mktemp("exported")
    config = MODELS["over evidence"]
    save_model(root / "tiny.safetensors", make_model(config), make_info(config), dtype=torch.float32)
    info = export_model(root / "tiny.safetensors", root / "onnx", "onnx", FRAMES[:2])
    assert info.parity["onnxruntime"]["equal_pixels"] >= 0.999
    return root


OPTIONS = [{}, {"causal": True}, {"smoothing": 1}, {"clip_length": 4, "clip_stride": 2}, {"input_size": (96, 64)}]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_streams_as_pytorch_does(exported: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    files = ExportedModel(exported / "onnx")
    for options in OPTIONS:
        expected = VideoSegmenter(*load_model(exported / "tiny.safetensors"), dtype=torch.float32, **options)
        segmenter = ExportedSegmenter(files, runtime, dtype=torch.float32, **options)
        predictions = list(segmenter.predict(FRAMES))
        assert [prediction.frame_index for prediction in predictions] == list(range(len(FRAMES)))
        for one, other in zip(predictions, expected.predict(FRAMES), strict=True):
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-3)


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
        (["--input-size", "65x96"], "multiples of 32 pixels, got (65, 96)"),
    ],
)
def test_invalid_options(exported: Path, tmp_path: Path, arguments: list[str], message: str, capsys) -> None:
    assert export.main([str(exported / "tiny.safetensors"), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def write_video(folder: Path) -> Path:
    with VideoWriter(folder / "scene.mp4", 25) as writer:
        for index, frame in enumerate(FRAMES):
            writer.write(frame, index / 25)
    return folder / "scene.mp4"


def masks_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_command_resumes_and_refuses_to_mix_runtimes(exported: Path, tmp_path: Path, capsys) -> None:
    video, folder = str(write_video(tmp_path)), tmp_path / "masks"
    options = ["--checkpoint", str(exported / "onnx"), "-q", "--dtype", "fp32"]
    assert infer.main([video, "-o", str(folder), *options]) == 0
    whole = masks_of(folder)
    assert len(whole) == len(FRAMES)
    settings = json.loads((folder / "summary.json").read_text())["settings"]
    assert (settings["runtime"], settings["precision"]) == ("onnxruntime", "fp32")
    assert infer.main([video, "-o", str(folder), *options, "--resume", "--runtime", "torch"]) == 2
    assert "had runtime" in capsys.readouterr().err
    assert infer.main([video, "-o", str(tmp_path / "torch"), *options, "--runtime", "torch"]) == 0
    assert "runtime" not in json.loads((tmp_path / "torch" / "summary.json").read_text())["settings"]
    part = tmp_path / "part"
    stop_after(4, video, part, options)
    assert len(masks_of(part)) < len(whole)
    assert infer.main([video, "-o", str(part), *options, "--resume", "--runtime", "torch"]) == 2
    assert infer.main([video, "-o", str(part), *options, "--resume"]) == 0
    assert masks_of(part) == whole


def stop_after(count: int, video: str, folder: Path, options: list[str]) -> None:
    """Segment a video until a number of masks is written."""
    frames = 0

    def on_frame(_: dict) -> None:
        nonlocal frames
        frames += 1
        if frames == count:
            raise KeyboardInterrupt

    segmenter = ExportedSegmenter(ExportedModel(options[1]), "onnxruntime", dtype=torch.float32)
    with open_video(video) as reader, pytest.raises(KeyboardInterrupt):
        segment_video(reader, segmenter, folder, RunOptions(smoothing=1), on_frame=on_frame)


def test_auto_measures_and_says_so(exported: Path, tmp_path: Path, capsys) -> None:
    options = ["--checkpoint", str(exported / "onnx"), "-q", "--runtime", "auto"]
    assert infer.main([str(write_video(tmp_path)), "-o", str(tmp_path / "masks"), *options]) == 0
    said = capsys.readouterr().err
    assert "the fastest here (per frame: " in said
    assert "torch" in said
    assert "onnxruntime" in said


def test_fastest_leaves_out_what_cannot_run(exported: Path) -> None:
    def broken() -> VideoSegmenter:
        raise UserError("no")

    segmenter = VideoSegmenter(*load_model(exported / "tiny.safetensors"))
    assert fastest_runtime({"a": broken, "b": lambda: segmenter})[0] is segmenter
    with pytest.raises(UserError, match="no"):
        fastest_runtime({"a": broken})


def damage(folder: Path, kind: str) -> None:
    table = json.loads((folder / "model.json").read_text())
    if kind == "changed":
        (folder / "clip.onnx").write_bytes(b"\0" * 100)
    elif kind == "missing":
        (folder / "clip.onnx").unlink()
    elif kind == "not ONNX":
        for name in table["files"]:
            (folder / name).write_bytes(b"\x80\x04K\x00.")
            table["files"][name] = hashlib.sha256(b"\x80\x04K\x00.").hexdigest()
    elif kind == "other version":
        table["format"] = 9
    elif kind == "unknown key":
        table["code"] = "print()"
    (folder / "model.json").write_text("[" if kind == "not JSON" else json.dumps(table))


@pytest.mark.parametrize("kind", ["changed", "missing", "not ONNX", "other version", "unknown key", "not JSON"])
def test_files_of_unknown_origin(exported: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(exported / "onnx", tmp_path / "copy")
    damage(folder, kind)
    with pytest.raises(UserError, match=r"export|cannot read"):
        ExportedSegmenter(ExportedModel(folder), "onnxruntime")


def test_sizes_that_the_graphs_do_not_have(exported: Path) -> None:
    with pytest.raises(UserError, match=r"multiples of 32, got \(65, 96\)"):
        ExportedSegmenter(ExportedModel(exported / "onnx"), "onnxruntime", input_size=(65, 96))
    assert np.array(FRAMES[0]).shape == (64, 96, 3)
