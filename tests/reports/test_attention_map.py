from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, MakeVideo
from PIL import Image
from torch import Tensor

from ccnet3d.attention import attention_influence, queries_and_keys
from ccnet3d.errors import UserError
from ccnet3d.inference.pixels import resize_frame
from ccnet3d.models import CCNet3D
from ccnet3d.reports.attention_map import AttentionMap, compute_attention_map, draw_attention_map, frames_around, reach
from ccnet3d.video import open_video


def test_the_clip_around_a_frame() -> None:
    cases = {
        (0, 5, 100): [0, 1, 2, 3, 4],
        (1, 5, 100): [0, 1, 2, 3, 4],
        (50, 5, 100): [48, 49, 50, 51, 52],
        (50, 4, 100): [48, 49, 50, 51],
        (99, 5, 100): [95, 96, 97, 98, 99],
        (1, 5, 3): [0, 1, 2],
        (7, 1, 100): [7],
    }
    assert {case: list(frames_around(*case)) for case in cases} == cases


def test_the_map_is_the_attention_of_the_models_features(
    make_video: MakeVideo, tiny_model: CCNet3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_video(make_video(frames=7, height=48, width=64)) as reader:
        view = compute_attention_map(tiny_model, reader, 5, (63, 20), clip_length=3, input_size=(64, 96))
        clip = torch.stack([
            resize_frame(torch.from_numpy(frame.image).permute(2, 0, 1), (64, 96)).float() / 255
            for frame in list(reader)[4:7]
        ])  # fmt: skip
    features: list[Tensor] = []
    attention = tiny_model.head.attention
    monkeypatch.setattr(attention, "attend", lambda x: features.append(x) or x)  # [1, T, H, W, C]
    with torch.no_grad():
        tiny_model(clip[None])
    monkeypatch.undo()
    assert features[0].shape == (1, 3, 4, 6, 16)
    pairs = queries_and_keys(attention, features[0].permute(0, 4, 1, 2, 3), 3)
    assert view.position == (1, 1, 5)  # y 20 of 48 in 4 rows, the last x of 64 in 6 columns
    assert list(view.frame_indices) == [4, 5, 6]
    assert view.influence.shape == (3, 3, 4, 6)
    for count, mine in enumerate(view.influence, 1):
        expected = attention_influence(pairs[:count], (1, 1, 5))
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-7)
        assert float(mine.sum()) == pytest.approx(1, abs=1e-5)
        assert not mine[~reach(view.position, (3, 4, 6))[count - 1]].any()


def test_the_map_of_attention_over_class_evidence(make_video: MakeVideo) -> None:
    """What other cells contribute to the revised evidence of one: the gradient of its logits, with gamma 1."""
    torch.manual_seed(0)
    model = CCNet3D(dataclasses.replace(TINY, loops=0, evidence_loops=2)).eval()
    with open_video(make_video(frames=3, height=48, width=64)) as reader:
        view = compute_attention_map(model, reader, 1, (40, 30), clip_length=3, input_size=(64, 96), loops=2)
        frames = [torch.from_numpy(frame.image).permute(2, 0, 1) for frame in reader]
    clip = torch.stack([resize_frame(frame, (64, 96)).float() / 255 for frame in frames])
    with torch.no_grad():
        features = model.frame_features(model.extract_features(clip))
        decoded = model.decode(features, features.reduced)
    assert decoded.evidence is not None
    rows, columns = decoded.evidence.evidence.shape[-2:]
    t, h, w = view.position
    assert (t, h, w) == (1, 30 * rows // 48, 40 * columns // 64)
    evidence = decoded.evidence.evidence.clone().requires_grad_()
    revised = model.evidence(torch.zeros(3, 3, rows, columns), decoded.evidence._replace(evidence=evidence), 3)
    (gradient,) = torch.autograd.grad(revised[t, 0, h, w], evidence)
    expected = gradient[:, 0]
    expected[t, h, w] += 1  # the change is relative to the evidence itself
    torch.testing.assert_close(view.influence[1], expected, rtol=1e-4, atol=1e-6)


def test_invalid_frames_and_points(make_video: MakeVideo, tiny_model: CCNet3D) -> None:
    with open_video(make_video(frames=4, height=48, width=64)) as reader:
        settings = {"clip_length": 3, "input_size": (32, 48)}
        with pytest.raises(ValueError, match=r"clip.mp4 has no frame 4; it has 4 frames, numbered from 0"):
            compute_attention_map(tiny_model, reader, 4, (0, 0), **settings)
        for point in ((64, 0), (0, 48), (-1, 5)):
            with pytest.raises(
                ValueError, match=r"is not in a picture of 64x48 pixels; give x from 0 to 63 and y from"
            ):
                compute_attention_map(tiny_model, reader, 0, point, **settings)


def test_pictures_of_two_sizes(tmp_path: Path, tiny_model: CCNet3D) -> None:
    for number, size in enumerate(((64, 48), (64, 48), (48, 48))):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    with (
        open_video(tmp_path) as reader,
        pytest.raises(ValueError, match="size of the picture changes in frames 0 to 2"),
    ):
        compute_attention_map(tiny_model, reader, 0, (0, 0), clip_length=3, input_size=(32, 48))


def drawn(tmp_path: Path, influence: Tensor) -> np.ndarray:
    pytest.importorskip("matplotlib", reason="matplotlib is an optional extra")
    black = np.zeros((40, 60, 3), np.uint8)
    view = AttentionMap([black, black], [8, 9], (31, 21), (1, 2, 3), influence)
    draw_attention_map(view, tmp_path / "view.png", "a title")
    with Image.open(tmp_path / "view.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"drawing needs matplotlib; pip install 'ccnet3d\[plot\]'"):
        empty = AttentionMap([], [], (0, 0), (0, 0, 0), torch.zeros(3, 1, 1, 1))
        draw_attention_map(empty, tmp_path / "view.png")


def test_a_model_without_attention(make_video: MakeVideo, tiny_model: CCNet3D) -> None:
    tiny_model.head.attention = None
    with (
        open_video(make_video(frames=4)) as reader,
        pytest.raises(UserError, match=r"no attention to show \(loops = 0\); give weights of a model with attention"),
    ):
        compute_attention_map(tiny_model, reader, 0, (0, 0), clip_length=3, input_size=(32, 48))


def test_a_model_with_another_context(make_video: MakeVideo) -> None:
    model = CCNet3D(dataclasses.replace(TINY, context="ppm")).eval()
    with (
        open_video(make_video(frames=4)) as reader,
        pytest.raises(
            UserError, match=r"no attention to show \(context = ppm\); give weights of a model with attention"
        ),
    ):
        compute_attention_map(model, reader, 0, (0, 0), clip_length=3, input_size=(32, 48))


def test_the_heaviest_cell_is_the_brightest(tmp_path: Path) -> None:
    """All weight in one cell of 48, in the upper left of the first frame, which only three loops reach."""
    influence = torch.zeros(3, 2, 4, 6)
    influence[:2, 1, 2, 3] = 1
    influence[2, 0, 0, 0] = 1
    picture = drawn(tmp_path, influence)
    height, width = picture.shape[:2]
    panel = (slice(height * 2 // 3, height - height // 8), slice(width // 45, width * 3 // 10))  # R = 3, first frame
    brightest = np.array([252, 255, 164]) * 0.8  # of inferno, over a black frame
    ys, xs = np.nonzero(np.abs(picture[panel] - brightest).max(-1) < 6)
    assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1) > 300  # a rectangle, nearly a square
    assert np.ptp(ys) == pytest.approx(np.ptp(xs), abs=1)
    influence[2, 0, 0, 0] = 1e-7  # below the least weight that is drawn
    picture = drawn(tmp_path, influence)
    assert not (np.abs(picture[panel] - brightest).max(-1) < 6).any()


def test_more_loops_than_axes(tmp_path: Path) -> None:
    assert drawn(tmp_path, torch.full((4, 2, 4, 6), 1 / 48)).shape[0] > drawn(tmp_path, torch.ones(1, 2, 4, 6)).shape[0]
