"""Streaming of models with class evidence attention: each frame is decoded once, and clips equal the whole model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import TINY, draw_scene

from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo

pytestmark = pytest.mark.usefixtures("one_thread")


def late_model(loops: int) -> CCNet3D:
    """Return a tiny model with class evidence attention, and with attention before the decoder if loops > 0."""
    torch.manual_seed(2)
    model = CCNet3D(dataclasses.replace(TINY, loops=loops, evidence_loops=2, evidence_level=2))
    with torch.no_grad():
        for _ in range(3):
            model.train().forward_with_auxiliary(torch.rand(2, 2, 3, 64, 96))
    return model.eval()


@pytest.mark.parametrize("loops", [0, 1])
def test_a_clip_equals_the_whole_model(loops: int, tiny_info: ModelInfo) -> None:
    model = late_model(loops)
    info = dataclasses.replace(tiny_info, model=model.config, clip_length=4)
    frames = [draw_scene(number, 32, 48)[0] for number in range(4)]
    segmenter = VideoSegmenter(model, info, dtype=torch.float32)
    predictions = list(segmenter.predict(frames))
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)[None].float() / 255
    with torch.no_grad():
        expected = model(clip)[0]  # [T, K, H, W]
    for prediction, logits in zip(predictions, expected, strict=True):
        resized = torch.nn.functional.interpolate(prediction.logits[None], size=(32, 48), mode="bilinear")[0]
        torch.testing.assert_close(resized, logits, rtol=1e-3, atol=1e-3)


def test_each_frame_passes_backbone_and_decoder_once(tiny_info: ModelInfo) -> None:
    model = late_model(0)
    info = dataclasses.replace(tiny_info, model=model.config, clip_length=3)
    segmenter = VideoSegmenter(model, info, dtype=torch.float32, clip_stride=1)
    calls = {"backbone": 0, "decoder": 0}
    for name in calls:
        part = getattr(segmenter._network, name)
        part.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    assert len(list(segmenter.segment([draw_scene(number)[0] for number in range(7)]))) == 7
    assert calls == {"backbone": 7, "decoder": 7}


def test_time_changes_the_prediction(tiny_info: ModelInfo) -> None:
    model = late_model(0)
    info = dataclasses.replace(tiny_info, model=model.config)
    frames = [draw_scene(number)[0] for number in range(5)]
    one, three = (
        [p.logits for p in VideoSegmenter(model, info, clip_length=length, dtype=torch.float32).predict(frames)]
        for length in (1, 3)
    )
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(one, three, strict=True))
