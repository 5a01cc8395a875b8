"""Exported graphs contain only standard operators and equal the module, on clips of any size."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ccnet3d.attention import RecurrentCrissCrossAttention

SIZES = [(2, 3, 4), (5, 7, 6), (2, 2, 9), (7, 3, 2)]
DYNAMIC = {"x": dict.fromkeys((2, 3, 4), torch.export.Dim.DYNAMIC)}  # T, H, W


@pytest.fixture
def module() -> RecurrentCrissCrossAttention:
    torch.manual_seed(0)
    return RecurrentCrissCrossAttention(8, initial_gamma=0.5).eval()


def clip(size: tuple[int, ...]) -> Tensor:
    return torch.randn(1, 8, *size, generator=torch.Generator().manual_seed(1))


def assert_equals_module(exported, module: torch.nn.Module, size: tuple[int, ...]) -> None:
    x = clip(size)
    assert (module(x) - x).abs().max() > 0.1  # the attention changes something
    # The module uses the tiled backend, the graph the axial one: float32 roundings in three loops.
    torch.testing.assert_close(exported(x), module(x), rtol=1e-5, atol=1e-5)


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("grad", [False, True])
def test_export(module, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        program = torch.export.export(module, (clip(SIZES[0]),))
        assert "aten.addcmul.default" in operators(program)
        assert not any("ccnet3d" in name for name in operators(program))
        assert_equals_module(program.module(), module, SIZES[0])


def test_export_with_dynamic_length_height_and_width(module, tmp_path: Path) -> None:
    program = torch.export.export(module, (clip(SIZES[0]),), dynamic_shapes=DYNAMIC)
    assert not any("ccnet3d" in name for name in operators(program))
    torch.export.save(program, tmp_path / "module.pt2")
    loaded = torch.export.load(tmp_path / "module.pt2").module()
    for size in SIZES:
        assert_equals_module(loaded, module, size)


def test_backend_requested_by_name_is_exported_unchanged(module) -> None:
    module.backend = "tiled"
    program = torch.export.export(module, (clip(SIZES[0]),))
    assert "ccnet3d.criss_cross_attention.default" in operators(program)
    assert_equals_module(program.module(), module, SIZES[0])


def test_trace(module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shape checks become constants; PyTorch prefers torch.export
        traced = torch.jit.trace(module, (clip(SIZES[0]),))
    assert "ccnet3d::" not in str(traced.inlined_graph)
    assert_equals_module(traced, module, SIZES[0])


@pytest.fixture
def onnx_file(module, tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path / "module.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        torch.onnx.export(module, (clip(SIZES[0]),), path, dynamo=True, dynamic_shapes=DYNAMIC, verbose=False)
    return path


def test_onnx(module, onnx_file: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    for size in SIZES:
        assert_equals_module(run, module, size)
