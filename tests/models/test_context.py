"""Context modules against their definitions, written as slow loops, dense equivalents or another library's module."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, draw_scene
from torch import Tensor, nn

from ccnet3d.attention import RecurrentCrissCrossAttention
from ccnet3d.errors import UserError
from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import (
    CONTEXTS,
    AtrousPyramid,
    AxialAttention,
    CCNet3D,
    GlobalConvolution,
    LocalWindowAttention,
    ModelInfo,
    NonLocalAttention,
    PyramidPooling,
    build_context,
    describe_file,
    fuse_batch_norms,
    load_model,
    model_card,
    save_model,
    transfer_weights,
)

CLIP = (2, 8, 3, 5, 4)
"""B, C, T, H, W."""


@pytest.fixture
def clip() -> Tensor:
    return torch.randn(CLIP, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


Position = tuple[int, int, int]


def attention_loop(
    projection: nn.Conv2d, x: Tensor, keys_of: Callable[[Position], Sequence[Position]], scale: float
) -> Tensor:
    """Attend from each position to the ones that ``keys_of`` lists, one position after another: the clip's shape."""
    projected = torch.einsum("oc,bcthw->bthwo", projection.weight[:, :, 0, 0], x) + projection.bias
    query, key, value = projected.split([2, 2, 8], dim=-1)
    output = torch.zeros_like(x)
    for b, t, h, w in product(range(x.shape[0]), *map(range, x.shape[2:])):
        places = keys_of((t, h, w))
        scores = torch.stack([scale * (query[b, t, h, w] @ key[b, i, j, k]) for i, j, k in places])
        output[b, :, t, h, w] = scores.softmax(0) @ torch.stack([value[b, i, j, k] for i, j, k in places])
    return output


def everywhere(_: Position) -> list[Position]:
    return list(product(*map(range, CLIP[2:])))


def along(axis: int) -> Callable[[Position], list[Position]]:
    return lambda u: [(*u[:axis], i, *u[axis + 1 :]) for i in range(CLIP[2 + axis])]


def window_of(sides: Position) -> Callable[[Position], list[Position]]:
    def same(u: Position) -> list[Position]:
        return [v for v in everywhere(u) if all(a // n == b // n for a, b, n in zip(u, v, sides, strict=True))]

    return same


@torch.no_grad()
def test_non_local_attends_to_every_position(clip: Tensor) -> None:
    module = NonLocalAttention(8, 4, initial_gamma=0.5).double()
    expected = clip + 0.5 * attention_loop(module.project, clip, everywhere, 1.0)
    torch.testing.assert_close(module(clip), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("axes", [2, 3])
@torch.no_grad()
def test_axial_attends_along_one_axis_after_another(clip: Tensor, axes: int) -> None:
    module = AxialAttention(8, 4, axes=axes, initial_gamma=0.5).double()
    expected = clip
    for projection, axis in zip(module.projections, (1, 2, 0)[:axes], strict=True):
        expected = expected + 0.5 * attention_loop(projection, expected, along(axis), 1 / math.sqrt(2))
    torch.testing.assert_close(module(clip), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [(2, 2, 3), (8, 7, 7), (1, 5, 2), (3, 5, 4)], ids=str)
@torch.no_grad()
def test_local_window_attends_within_windows(clip: Tensor, window: Position) -> None:
    """Sides that divide the grid, that do not, and that are longer."""
    module = LocalWindowAttention(8, 4, window=window, initial_gamma=0.5).double()
    expected = clip + 0.5 * attention_loop(module.project, clip, window_of(window), 1 / math.sqrt(2))
    torch.testing.assert_close(module(clip), expected, rtol=1e-10, atol=1e-10)


def randomize(module: nn.Module) -> None:
    """Give batch norms weights and statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)


def norm_relu(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, variance, weight, bias = (
        v[None, :, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return ((x - mean) / (variance + norm.eps).sqrt() * weight + bias).clamp(min=0)


def bilinear(grid: Tensor, height: int, width: int) -> Tensor:
    """Enlarge ``[N, C, n, n]``, position by position, cells centered and the outermost ones extended to the edge."""
    output = grid.new_zeros(*grid.shape[:2], height, width)
    for y, x in product(range(height), range(width)):
        rows, columns = (
            min(max((i + 0.5) * grid.shape[axis] / length - 0.5, 0), grid.shape[axis] - 1)
            for i, length, axis in ((y, height, 2), (x, width, 3))
        )
        top, left = int(rows), int(columns)
        bottom, right = min(top + 1, grid.shape[2] - 1), min(left + 1, grid.shape[3] - 1)
        dy, dx = rows - top, columns - left
        output[:, :, y, x] = (1 - dy) * ((1 - dx) * grid[:, :, top, left] + dx * grid[:, :, top, right]) + dy * (
            (1 - dx) * grid[:, :, bottom, left] + dx * grid[:, :, bottom, right]
        )
    return output


@torch.no_grad()
def test_pyramid_pooling_is_that_of_pspnet() -> None:
    """Means over cells, 1x1 convolution, norm, ReLU, bilinear; joined with the input by a 3x3 convolution."""
    module = PyramidPooling(8).double().eval()
    randomize(module)
    frames = torch.randn(2, 8, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = [frames]
    for bins, (_, convolution, norm, _) in zip((1, 2, 3, 6), module.branches, strict=True):
        cells = torch.zeros(2, 8, bins, bins, dtype=torch.float64)
        for i, j in product(range(bins), repeat=2):
            rows = slice(7 * i // bins, -(-7 * (i + 1) // bins))
            columns = slice(9 * j // bins, -(-9 * (j + 1) // bins))
            cells[:, :, i, j] = frames[:, :, rows, columns].mean(dim=(2, 3))
        projected = torch.einsum("oc,ncij->noij", convolution.weight[:, :, 0, 0], cells)
        parts.append(bilinear(norm_relu(projected, norm), 7, 9))
    convolution, norm, _ = module.fuse
    expected = norm_relu(F.conv2d(torch.cat(parts, 1), convolution.weight, padding=1), norm)
    torch.testing.assert_close(module(frames), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_atrous_pyramid_is_that_of_torchvision() -> None:
    from torchvision.models.segmentation.deeplabv3 import ASPP

    theirs = ASPP(8, [12, 24, 36], 8).double().eval()
    randomize(theirs)
    mine = AtrousPyramid(8, width=8).double().eval()
    weights = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in {"convs.4": "average", "convs": "branches", "project": "fuse"}.items():
            if name.startswith(old):
                weights[new + name.removeprefix(old)] = tensor
                break
    mine.load_state_dict(weights)
    frames = torch.randn(2, 8, 40, 43, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(mine(frames), theirs(frames), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
def test_rates_follow_the_stride(stride: int, rates: tuple[int, ...]) -> None:
    """DeepLabv3 doubles its rates 6, 12 and 18 of stride 16 at stride 8."""
    module = build_context("aspp", 16, stride=stride)
    assert tuple(branch[0].dilation[0] for branch in module.branches) == (1, *rates)
    assert tuple(branch[0].padding[0] for branch in module.branches) == (0, *rates)


@torch.no_grad()
def test_global_convolution_is_one_dense_convolution() -> None:
    """The two halves equal a k x k convolution, whose kernel is the sum of two products of a column and a row."""
    module = GlobalConvolution(8, kernel_size=5).double().eval()
    randomize(module)
    (column, row), (first_row, last_column) = module.halves
    kernel = torch.einsum("mcy,omx->ocyx", column.weight[..., 0], row.weight[:, :, 0])
    kernel = kernel + torch.einsum("mcx,omy->ocyx", first_row.weight[:, :, 0], last_column.weight[..., 0])
    frames = torch.randn(2, 8, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    convolution, norm, _ = module.expand
    expected = norm_relu(F.conv2d(F.conv2d(frames, kernel, padding=2), convolution.weight), norm)
    torch.testing.assert_close(module(frames), expected, rtol=1e-10, atol=1e-10)
    halves = build_context("gcn", 8).halves
    assert [tuple(conv.weight.shape[2:]) for half in halves for conv in half] == [(15, 1), (1, 15), (1, 15), (15, 1)]


WITH_MODULE = [name for name in CONTEXTS if name != "none"]
PER_FRAME = ["ppm", "aspp", "gcn"]


@pytest.mark.parametrize("name", WITH_MODULE)
@torch.no_grad()
def test_images_equal_clips_of_one_frame(name: str, clip: Tensor) -> None:
    module = build_context(name, 8, reduction=4, initial_gamma=0.5).double().eval()
    image = clip[:, :, 0]
    torch.testing.assert_close(module(image), module(image.unsqueeze(2)).squeeze(2), rtol=0, atol=0)
    assert module(image).shape == image.shape
    assert (module(image) - image).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"expected clips .*or images .*got \(5, 4\); add the missing axes"):
        module(clip[0, 0, 0])


@pytest.mark.parametrize("name", WITH_MODULE)
@torch.no_grad()
def test_which_modules_mix_frames(name: str, clip: Tensor) -> None:
    module = build_context(name, 8, reduction=4, initial_gamma=0.5).double().eval()
    changed = clip.clone()
    changed[0, :, 2] += 1
    difference = (module(changed) - module(clip)).abs().amax(dim=(1, 3, 4))  # [B, T]
    assert difference[0, 2] > 1e-3
    assert (difference[0, :2] > 1e-6).all() == (name not in PER_FRAME)
    assert difference[1].max() < 1e-12
    if name in PER_FRAME:
        assert difference[0, :2].max() < 1e-12


def test_none_and_criss_cross() -> None:
    assert build_context("none", 8) is None
    assert build_context("criss_cross", 8, loops=0) is None
    module = build_context("criss_cross", 8, loops=2, reduction=4, initial_gamma=0.25)
    assert isinstance(module, RecurrentCrissCrossAttention)
    assert (module.loops, module.gamma.item()) == (2, 0.25)


def test_invalid_arguments() -> None:
    with pytest.raises(UserError, match="context must be one of criss_cross, .*, none, got 'global'"):
        build_context("global", 8)
    with pytest.raises(UserError, match="context must be one of criss_cross, .*, none, got 'global'"):
        dataclasses.replace(TINY, context="global")
    for name in ("non_local", "axial", "local_window"):
        with pytest.raises(ValueError, match="at least 1, got channels=8, reduction=9"):
            build_context(name, 8, reduction=9)
    with pytest.raises(ValueError, match=r"axes must be 2 \(height and width\) or 3 \(and time\), got 1"):
        AxialAttention(8, axes=1)


def model_with(name: str) -> CCNet3D:
    """Return a tiny model with a context module, whose norms have seen some frames."""
    torch.manual_seed(0)
    model = CCNet3D(dataclasses.replace(TINY, context=name, reduction=4, initial_gamma=0.5))
    with torch.no_grad():
        model.train().forward_with_auxiliary(torch.rand(2, 2, 3, 64, 96))
    return model.eval()


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_model_file_keeps_the_context(name: str, tmp_path: Path, tiny_info: ModelInfo) -> None:
    """Saved, loaded and with fused batch norms it is the same model; the module has its weights in the file."""
    model = model_with(name)
    path = tmp_path / "model.safetensors"
    save_model(path, model, dataclasses.replace(tiny_info, model=model.config), dtype=torch.float32)
    loaded, info = load_model(path)
    assert info.model.context == describe_file(path)["context"] == name
    in_words = {"criss_cross": "3 loops of criss-cross attention", "none": "no context module"}
    assert f"test_efficientnet, {in_words.get(name, f'context module {name}')}, clips of 3" in model_card(path)
    assert any(key.startswith("head.attention.") for key in loaded.state_dict()) == (name != "none")
    x = torch.rand(1, 3, 3, 37, 53)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(loaded(x), expected, rtol=0, atol=0)
        torch.testing.assert_close(fuse_batch_norms(model)(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", WITH_MODULE)
def test_a_single_frame_trains_every_parameter(name: str) -> None:
    """Pooled averages of one frame have no variance, which a batch norm must survive."""
    model = model_with(name).train()
    model(torch.rand(1, 1, 3, 64, 96)).square().mean().backward()
    gradients = {key: p.grad for key, p in model.head.attention.named_parameters() if "key_conv.bias" not in key}
    assert [key for key, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert sum(grad.abs().sum() > 0 for grad in gradients.values()) > len(gradients) // 2


@pytest.mark.parametrize("name", CONTEXTS)
def test_streaming_equals_the_whole_clip(name: str, tiny_info: ModelInfo) -> None:
    model = model_with(name)
    info = dataclasses.replace(tiny_info, model=model.config, clip_length=4)
    frames = [draw_scene(number, 32, 48)[0] for number in range(4)]
    x = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)[None].float() / 255
    with torch.no_grad():
        expected = model(x)[0]  # [T, K, H, W]
    streams = []
    for batch_size in (1, 3):
        segmenter = VideoSegmenter(model, info, dtype=torch.float32, batch_size=batch_size)
        streams.append([prediction.logits for prediction in segmenter.predict(frames)])
    for one, three, logits in zip(*streams, expected, strict=True):
        assert torch.equal(one, three)  # the same bytes for any batch size
        resized = F.interpolate(one[None], size=(32, 48), mode="bilinear")[0]
        torch.testing.assert_close(resized, logits, rtol=1e-3, atol=1e-3)


def test_per_frame_contexts_run_once_per_frame(tiny_info: ModelInfo) -> None:
    model = model_with("ppm")
    info = dataclasses.replace(tiny_info, model=model.config, clip_length=3)
    segmenter = VideoSegmenter(model, info, dtype=torch.float32, clip_stride=1)
    calls = {"head.attention": 0, "decoder": 0}
    for name in calls:
        part = segmenter._network.get_submodule(name)
        part.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    assert len(list(segmenter.segment([draw_scene(number)[0] for number in range(7)]))) == 7
    assert calls == {"head.attention": 7, "decoder": 7}


@pytest.mark.parametrize(("old", "new"), [("criss_cross", "aspp"), ("non_local", "local_window"), ("ppm", "none")])
def test_another_context_starts_anew(old: str, new: str) -> None:
    """Everything but the module is copied, also where two modules have weights of one name and shape."""
    trained, model = model_with(old), model_with(new)
    with torch.no_grad():
        for parameter in model.head.attention.parameters() if model.head.attention else ():
            parameter.fill_(3.0)
    transfer = transfer_weights(model, ["a", "b", "c"], trained, ["a", "b", "c"])
    assert set(transfer.new_parts) == ({"head.attention"} if new != "none" else set())
    for name, tensor in model.state_dict().items():
        if name.startswith("head.attention."):
            assert name not in dict(model.named_parameters()) or (tensor == 3.0).all()
        else:
            assert torch.equal(tensor, trained.state_dict()[name])
