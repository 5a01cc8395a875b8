from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export.tiny_export import FRAMES, MODELS, make_info, make_model

from ccnet3d.models import save_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model, beside the model file."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from ccnet3d.export import export_model

    root = tmp_path_factory.mktemp("exported")
    config = MODELS["over evidence"]
    save_model(root / "tiny.safetensors", make_model(config), make_info(config), dtype=torch.float32)
    info = export_model(root / "tiny.safetensors", root / "onnx", "onnx", FRAMES[:2])
    assert info.parity["onnxruntime"]["equal_pixels"] >= 0.999
    return root
