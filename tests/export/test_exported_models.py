"""Exported models predict what PyTorch does, in every way of streaming; bad files are refused."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import timm
import torch
from export.tiny_export import FRAMES, masks_of, write_video
from models.public_networks import OpenMMLab, randomize
from PIL import Image

from ccnet3d.cli import convert, export, infer
from ccnet3d.errors import UserError
from ccnet3d.inference import (
    ExportedModel,
    ExportedSegmenter,
    RunOptions,
    TestTimeAugmentation,
    VideoSegmenter,
    fastest_runtime,
    segment_video,
)
from ccnet3d.models import load_model, published
from ccnet3d.video import open_video

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

OPTIONS = [{}, {"causal": True}, {"smoothing": 1}, {"clip_length": 4, "clip_stride": 2}, {"input_size": (96, 64)}]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_streams_as_pytorch_does(exported: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    files = ExportedModel(exported / "onnx")
    for options in OPTIONS if runtime == "onnxruntime" else OPTIONS[:2]:  # streaming is the same code
        expected = VideoSegmenter(*load_model(exported / "tiny.safetensors"), dtype=torch.float32, **options)
        segmenter = ExportedSegmenter(files, runtime, **options)  # in float32, also where bfloat16 is faster
        assert segmenter.settings()["dtype"] == "float32"
        predictions = list(segmenter.predict(FRAMES))
        assert [prediction.frame_index for prediction in predictions] == list(range(len(FRAMES)))
        for one, other in zip(predictions, expected.predict(FRAMES), strict=True):
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-3)


def test_variants_share_the_network(exported: Path) -> None:
    """As ccnet3d-serve makes them, from what a request asks for."""
    segmenter = ExportedSegmenter(ExportedModel(exported / "onnx"), "onnxruntime")
    variant = segmenter.with_causal(True).with_input_size((32, 64))
    model = load_model(exported / "tiny.safetensors")
    expected = VideoSegmenter(*model, dtype=torch.float32, causal=True, input_size=(32, 64))
    assert variant.settings()["input_size"] == [32, 64]
    for one, other in zip(variant.predict(FRAMES), expected.predict(FRAMES), strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="multiples of 32 pixels, got 40x64"):
        segmenter.with_input_size((40, 64))


class Rounded(VideoSegmenter):
    """PyTorch at the sizes of exported models."""

    def allowed_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return ExportedSegmenter.allowed_size(self, size)


@pytest.mark.parametrize("views", [{"scales": [1.0, 0.6], "flip": True}, {"window": (40, 70)}])
def test_views_have_sizes_of_the_graphs(exported: Path, views: dict) -> None:
    segmenter = ExportedSegmenter(ExportedModel(exported / "onnx"), "onnxruntime")
    expected = Rounded(*load_model(exported / "tiny.safetensors"), dtype=torch.float32)
    for one, other in zip(
        TestTimeAugmentation(segmenter, **views).predict(FRAMES[:3]),
        TestTimeAugmentation(expected, **views).predict(FRAMES[:3]),
        strict=True,
    ):
        assert one.total.shape == (3, 64, 96)
        torch.testing.assert_close(one.total, other.total, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_threads_share_a_model(exported: Path, runtime: str) -> None:
    """As live sources do, each with a thread of its own."""
    pytest.importorskip(runtime)
    segmenter = ExportedSegmenter(ExportedModel(exported / "onnx"), runtime)
    expected = [prediction.logits for prediction in segmenter.predict(FRAMES)]
    with ThreadPoolExecutor(3) as threads:
        streams = threads.map(lambda _: [prediction.logits for prediction in segmenter.predict(FRAMES)], range(6))
        for found in streams:
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_predictions_do_not_depend_on_the_number_of_threads(exported: Path, runtime: str, set_threads) -> None:
    pytest.importorskip(runtime)
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        segmenter = ExportedSegmenter(ExportedModel(exported / "onnx"), runtime)
        found.append([prediction.logits for prediction in segmenter.predict(FRAMES)])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_threads_compute_frames_at_the_same_time_each_with_the_whole_frame(exported: Path, set_threads) -> None:
    set_threads(2)
    segmenter = ExportedSegmenter(ExportedModel(exported / "onnx"), "onnxruntime")
    both_there, graph = Barrier(2), segmenter._frame_parts[2]

    def meet(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        both_there.wait(timeout=30)
        return graph(arrays)

    segmenter._frame_parts[2] = meet
    frames = FRAMES[: len(FRAMES) // 2 * 2]
    assert len(list(segmenter.segment(frames))) == len(frames)


def test_variants_are_prepared_once(exported: Path, set_threads, monkeypatch) -> None:
    """A server makes one for each request."""
    set_threads(2)
    segmenter = ExportedSegmenter(ExportedModel(exported / "onnx"), "onnxruntime")
    prepared: list[int] = []
    open_part = ExportedModel.open_part

    def count(self: ExportedModel, part: str, runtime: str, **options: Any) -> Any:
        prepared.append(options["streams"])
        return open_part(self, part, runtime, **options)

    monkeypatch.setattr(ExportedModel, "open_part", count)
    for causal in (True, False, True):
        assert len(list(segmenter.with_causal(causal).segment(FRAMES))) == len(FRAMES)
    assert prepared == [1]


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> int | None:
    """Return the address of the stack on which this thread handles signals."""
    stack = _SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.address


@pytest.mark.skipif(sys.platform != "linux", reason="the structure is that of Linux")
def test_models_that_are_freed_leave_no_freed_stack_for_signals(exported: Path) -> None:
    """OpenVINO's do, if each has a Core of its own: the next signal ends the process."""
    pytest.importorskip("openvino")
    files = ExportedModel(exported / "onnx")
    first = ExportedSegmenter(files, "openvino")
    stack = signal_stack()
    second = ExportedSegmenter(files, "openvino")
    del first
    gc.collect()
    assert signal_stack() == stack
    del second
    gc.collect()
    assert signal_stack() == stack


@pytest.mark.parametrize("options", [["--causal"], ["--smooth", "2", "--clip-stride", "3"]])
def test_stopped_runs_resume_to_the_byte(exported: Path, tmp_path: Path, options: list[str], monkeypatch) -> None:
    arguments = [str(write_video(tmp_path)), "--checkpoint", str(exported / "onnx"), "-q", *options, "-o"]
    assert infer.main([*arguments, str(tmp_path / "whole"), "--batch", "4"]) == 0
    whole = masks_of(tmp_path / "whole")
    predict, left = ExportedSegmenter._predict_clip, 2

    def stop(self: ExportedSegmenter, *clip: Any) -> list[torch.Tensor]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return predict(self, *clip)

    with monkeypatch.context() as patch:
        patch.setattr(ExportedSegmenter, "_predict_clip", stop)
        assert infer.main([*arguments, str(tmp_path / "part")]) == 130
    assert 0 < len(masks_of(tmp_path / "part")) < len(whole)
    assert infer.main([*arguments, str(tmp_path / "part"), "--resume"]) == 0
    assert masks_of(tmp_path / "part") == whole


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


@pytest.mark.parametrize("location", ["../weights", "/etc/passwd", "weights"])
def test_weights_in_other_files_are_refused(exported: Path, tmp_path: Path, location: str) -> None:
    import onnx

    folder = shutil.copytree(exported / "onnx", tmp_path / "copy")
    graph = onnx.load(folder / "clip.onnx")
    tensor = graph.graph.initializer[0] if graph.graph.initializer else graph.graph.node[0].attribute[0].t
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (folder / "clip.onnx").write_bytes(graph.SerializeToString())
    table = json.loads((folder / "model.json").read_text())
    table["files"]["clip.onnx"] = hashlib.sha256((folder / "clip.onnx").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match="names other files"):
        ExportedSegmenter(ExportedModel(folder), "onnxruntime")


def test_sizes_that_the_graphs_do_not_have(exported: Path) -> None:
    with pytest.raises(UserError, match="multiples of 32 pixels, got 65x96"):
        ExportedSegmenter(ExportedModel(exported / "onnx"), "onnxruntime", input_size=(65, 96))
    assert np.array(FRAMES[0]).shape == (64, 96, 3)


def test_converted_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published CCNet of aligned corners, with one block per stage instead of a ResNet-50's: the same masks."""
    monkeypatch.setattr(published, "_RESNETS", {(1, 1, 1, 1): "resnet50"})
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, layers=(1, 1, 1, 1)))
    network = OpenMMLab(3, blocks=(1, 1, 1, 1)).eval()
    randomize(network)
    with torch.no_grad():  # no class is the largest everywhere
        logits, _ = network(torch.from_numpy(np.stack(FRAMES[:2])).permute(0, 3, 1, 2).float())
        network.decode_head.conv_seg.bias -= logits.transpose(0, 1).flatten(1).median(1).values
    torch.save(network.state_dict(), tmp_path / "public.pth")
    model, video = str(tmp_path / "model.safetensors"), str(write_video(tmp_path))
    options = ["--classes", "a,b,c", "--input-size", "64x96", "--align-corners"]
    assert convert.main([str(tmp_path / "public.pth"), "-o", model, *options]) == 0
    assert export.main([model, "-o", str(tmp_path / "onnx"), "--check", video, "--check-frames", "2"]) == 0
    parity = json.loads((tmp_path / "onnx" / "model.json").read_text())["parity"]
    assert all(found["equal_pixels"] >= 0.999 for found in parity.values())
    common = [video, "-q", "--dtype", "fp32", "-o"]
    assert infer.main([*common, str(tmp_path / "a"), "--checkpoint", model]) == 0
    runtime = ["--checkpoint", str(tmp_path / "onnx"), "--runtime", "onnxruntime"]
    assert infer.main([*common, str(tmp_path / "b"), *runtime]) == 0
    expected, found = masks_of(tmp_path / "a"), masks_of(tmp_path / "b")
    assert expected.keys() == found.keys()
    for name in expected:
        masks = [np.array(Image.open(tmp_path / folder / name)) for folder in "ab"]
        assert len(np.unique(masks[0])) == 3
        assert (masks[0] == masks[1]).mean() >= 0.999
