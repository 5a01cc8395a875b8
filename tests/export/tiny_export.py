"""Tiny models to export, and frames for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from conftest import draw_scene

from ccnet3d.models import CCNet3D, ModelConfig, ModelInfo
from ccnet3d.video import VideoWriter

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


def write_video(folder: Path) -> Path:
    with VideoWriter(folder / "scene.mp4", 25) as writer:
        for index, frame in enumerate(FRAMES):
            writer.write(frame, index / 25)
    return folder / "scene.mp4"


def masks_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}
