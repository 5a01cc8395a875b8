from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import draw_scene

from ccnet3d.errors import UserError
from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo


def frames_of(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [draw_scene(number, height, width)[0] for number in range(count)]


def segmenter_of(model: CCNet3D, info: ModelInfo, **options) -> VideoSegmenter:
    return VideoSegmenter(model, info, **{"dtype": torch.float32, "input_size": (32, 48)} | options)


def logits_of_clip(model: CCNet3D, frames: list[np.ndarray], indices: list[int]) -> torch.Tensor:
    """Return a clip's logits at the decoder's stride by the unmodified model: ``[T, K, h, w]``."""
    clip = torch.stack([torch.from_numpy(frames[i]).permute(2, 0, 1) for i in indices])
    clip = F.interpolate(clip, size=(32, 48), mode="bilinear", antialias=True).float() / 255
    with torch.no_grad():
        features = model.frame_features(model.extract_features(clip))
        return model.frame_logits(features, model.attend(features.reduced, len(indices)))


SCHEDULES = [
    # frames, T, S, and for each frame: from which clips it is predicted, its offset in each and its weight there
    (2, 3, 2, {"clips": [[0, 1, 1]], "parts": [[(0, 0, 1)], [(0, 1, 2)]]}),
    (
        5,
        3,
        2,
        {
            "clips": [[0, 1, 2], [2, 3, 4]],
            "parts": [[(0, 0, 1)], [(0, 1, 2)], [(0, 2, 1), (1, 0, 1)], [(1, 1, 2)], [(1, 2, 1)]],
        },
    ),
    (
        4,
        3,
        1,
        {
            "clips": [[0, 1, 2], [1, 2, 3]],
            "parts": [[(0, 0, 1)], [(0, 1, 2), (1, 0, 1)], [(0, 2, 1), (1, 1, 2)], [(1, 2, 1)]],
        },
    ),
    (
        5,
        3,
        3,
        {
            "clips": [[0, 1, 2], [2, 3, 4]],
            "parts": [[(0, 0, 1)], [(0, 1, 1)], [(0, 2, 1)], [(1, 1, 1)], [(1, 2, 1)]],
        },
    ),
    (2, 1, 1, {"clips": [[0], [1]], "parts": [[(0, 0, 1)], [(1, 0, 1)]]}),
    (0, 3, 2, {"clips": [], "parts": []}),
]


@pytest.mark.parametrize(("count", "length", "stride", "schedule"), SCHEDULES)
def test_blended_clips_by_hand(
    tiny_model: CCNet3D, tiny_info: ModelInfo, count: int, length: int, stride: int, schedule
) -> None:
    frames = frames_of(count)
    clips = [logits_of_clip(tiny_model, frames, indices) for indices in schedule["clips"]]
    segmenter = segmenter_of(tiny_model, tiny_info, clip_length=length, clip_stride=stride)
    predictions = list(segmenter.predict(frames))
    assert [p.frame_index for p in predictions] == list(range(count))
    for prediction, parts in zip(predictions, schedule["parts"], strict=True):
        total = sum(weight for _, _, weight in parts)
        expected = sum(clips[clip][offset] * (weight / total) for clip, offset, weight in parts)
        # Fused batch norms and other batch sizes round differently.
        torch.testing.assert_close(prediction.logits, expected, rtol=1e-4, atol=1e-4)
        assert prediction.size == (48, 64)


def test_masks_are_the_best_class_at_the_frames_size(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    frames = [*frames_of(2), *frames_of(2, 30, 41)]  # a stream whose frames change size
    segmenter = segmenter_of(tiny_model, tiny_info)
    masks = list(segmenter.segment(frames))
    assert [mask.shape for mask in masks] == [(48, 64), (48, 64), (30, 41), (30, 41)]
    for mask, prediction, frame in zip(masks, segmenter.predict(frames), frames, strict=True):
        full = F.interpolate(prediction.logits[None], size=frame.shape[:2], mode="bilinear")[0]
        best = full.topk(2, 0).values
        clear = (best[0] - best[1] > 1e-5).numpy()
        assert mask.dtype == np.uint8
        assert np.array_equal(mask[clear], full.argmax(0).numpy()[clear])
        assert clear.mean() > 0.99


def test_causal_predictions_are_immediate_and_from_the_past(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    frames = frames_of(5)
    requested = iter(range(99))
    stream = segmenter_of(tiny_model, tiny_info, causal=True).predict(frames[next(requested)] for _ in range(5))
    for index in range(5):
        prediction = next(stream)
        assert next(requested) == index + 1  # the next frame was not requested yet
        requested = itertools.chain([index + 1], requested)
        clip = logits_of_clip(tiny_model, frames, [max(0, index - 2), max(0, index - 1), index])
        torch.testing.assert_close(prediction.logits, clip[2], rtol=1e-4, atol=1e-4)


def test_lazy_with_one_clip_in_memory(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    """An endless stream: a mask is yielded once its clips are complete, and no frame is requested early."""
    taken = itertools.count()

    def endless():
        while True:
            yield draw_scene(next(taken))[0]

    masks = segmenter_of(tiny_model, tiny_info, clip_stride=3).segment(endless())
    for _ in range(4):
        next(masks)
    assert next(taken) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_size_changes_nothing(tiny_model: CCNet3D, tiny_info: ModelInfo, dtype: torch.dtype) -> None:
    frames = frames_of(11)
    runs = [
        [p.logits for p in segmenter_of(tiny_model, tiny_info, batch_size=size, dtype=dtype).predict(frames)]
        for size in (1, 2, 3, 5, 8)
    ]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_of_an_accelerator(tiny_model: CCNet3D, tiny_info: ModelInfo, batch_size: int) -> None:
    """The code path of an accelerator, forced on the CPU."""
    frames = frames_of(7)
    together = segmenter_of(tiny_model, tiny_info)
    together.batch_size = batch_size
    for a, b in zip(segmenter_of(tiny_model, tiny_info).predict(frames), together.predict(frames), strict=True):
        torch.testing.assert_close(
            a.logits, b.logits, rtol=1e-4, atol=1e-4
        )  # convolutions of batches round differently


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"smoothing": 2}, {"smoothing": 1, "causal": True}])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_stream_may_begin_anywhere(tiny_model: CCNet3D, tiny_info: ModelInfo, options, batch_size: int) -> None:
    frames = frames_of(12)
    segmenter = segmenter_of(tiny_model, tiny_info, **options)
    segmenter.batch_size = batch_size
    whole = list(segmenter.predict(frames))
    for start in range(12):
        first = max(0, start - segmenter.history())
        first -= first % batch_size
        rest = list(segmenter.predict(frames[first:], first_index=first, emit_from=start))
        assert [p.frame_index for p in rest] == list(range(start, 12))
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(rest, whole[start:], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(tiny_model: CCNet3D, tiny_info: ModelInfo, dtype: torch.dtype) -> None:
    frames = frames_of(4)
    exact = list(segmenter_of(tiny_model, tiny_info).predict(frames))
    half = list(segmenter_of(tiny_model, tiny_info, dtype=dtype).predict(frames))
    for a, b in zip(exact, half, strict=True):
        assert b.logits.dtype == torch.float32
        # bfloat16 has 8 significant bits and there are tens of layers: a few hundredths of the logits' spread.
        assert (a.logits - b.logits).abs().max() < 0.1 * (a.logits.max() - a.logits.min())
        assert (a.mask() == b.mask()).mean() > 0.9


def test_compiled_model_predicts_the_same(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    frames = frames_of(4)
    plain = list(segmenter_of(tiny_model, tiny_info).predict(frames))
    compiled = list(segmenter_of(tiny_model, tiny_info, compile_model=True).predict(frames))
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a.logits, b.logits, rtol=1e-3, atol=1e-3)


def test_bad_arguments(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    for options, message in [
        ({"clip_length": 0}, "must be at least 1, got 0, "),
        ({"batch_size": 0}, "must be at least 1"),
        ({"clip_stride": 4}, "clip_stride must be 1 to clip_length = 3, so that no frame is left out, got 4"),
        ({"clip_stride": 0}, "clip_stride must be 1 to clip_length"),
        ({"smoothing": -1}, "smoothing must be a number of frames, 0 or more, got -1"),
        ({"dtype": torch.float64}, "dtype must be float32, bfloat16 or float16, got torch.float64"),
    ]:
        with pytest.raises(UserError, match=message):
            segmenter_of(tiny_model, tiny_info, **options)
    with pytest.raises(ValueError, match=r"a frame must be uint8 \[H, W, 3\], got float64 \(4, 4, 3\)"):
        list(VideoSegmenter(tiny_model, tiny_info).segment([np.zeros((4, 4, 3))]))
    with pytest.raises(ValueError, match="first_index must be a multiple of batch_size = 2, got 3"):
        accelerated = segmenter_of(tiny_model, tiny_info)
        accelerated.batch_size = 2
        list(accelerated.predict([], first_index=3))


def test_compile_without_a_compiler_is_a_user_error(
    tiny_model: CCNet3D, tiny_info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is that of torch 2.14 where ``CXX`` names nothing."""

    def missing(*_: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (...)")

    monkeypatch.setattr(torch, "compile", lambda _: missing)
    segmenter = segmenter_of(tiny_model, tiny_info, compile_model=True)
    with pytest.raises(UserError, match="--compile needs a C\\+\\+ compiler; install one such as g\\+\\+, or omit"):
        list(segmenter.predict(frames_of(3)))


def test_smoothing_may_differ_per_video(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    """An argument of a call equals the same value of the segmenter, which it leaves unchanged."""
    frames = frames_of(5)
    plain, smoothing = segmenter_of(tiny_model, tiny_info), segmenter_of(tiny_model, tiny_info, smoothing=2)
    for segmenter, argument, expected in ((plain, 2, smoothing), (smoothing, 0, plain), (smoothing, None, smoothing)):
        before = segmenter.smoothing
        got = [p.logits for p in segmenter.predict(frames, smoothing=argument)]
        assert all(torch.equal(a, b.logits) for a, b in zip(got, expected.predict(frames), strict=True))
        masks = list(segmenter.segment(frames, smoothing=argument))
        assert all(np.array_equal(a, b) for a, b in zip(masks, expected.segment(frames), strict=True))
        assert segmenter.smoothing == before
    assert (plain.history(), plain.history(2), smoothing.history(), smoothing.history(0)) == (2, 4, 4, 2)
    with pytest.raises(UserError, match="smoothing must be a number of frames, 0 or more, got -1"):
        list(plain.predict(frames, smoothing=-1))


def test_batch_size_on_a_cpu_is_one(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    assert segmenter_of(tiny_model, tiny_info, batch_size=8).batch_size == 1


def test_out_of_memory_halves_the_batch_until_it_fits(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    frames = frames_of(9)
    expected = segmenter_of(tiny_model, tiny_info)
    expected.batch_size = 2  # as on a GPU
    masks = list(expected.segment(frames))

    said: list[str] = []
    segmenter = segmenter_of(tiny_model, tiny_info, on_warning=said.append)
    segmenter.batch_size = 8
    encode = segmenter._encode_batch
    sizes: list[int] = []

    def small_device(batch: torch.Tensor) -> object:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return encode(batch)

    segmenter._encode_batch = small_device
    for mask, other in zip(segmenter.segment(frames), masks, strict=True):
        np.testing.assert_array_equal(mask, other)
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert said == [
        "out of memory with a batch of 8 frames; going on with --batch 4",
        "out of memory with a batch of 4 frames; going on with --batch 2",
    ]
    segmenter._encode_batch = lambda batch: small_device(torch.cat([batch] * 3))  # not even one frame fits
    with pytest.raises(UserError, match="out of memory"):
        list(segmenter.segment(frames))
    assert segmenter.batch_size == 1


def test_other_errors_do_not_change_the_batch(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    segmenter = segmenter_of(tiny_model, tiny_info)
    segmenter.batch_size = 8

    def broken(_: torch.Tensor) -> object:
        raise RuntimeError("a bug")

    segmenter._encode_batch = broken
    with pytest.raises(RuntimeError, match="a bug"):
        list(segmenter.segment(frames_of(3)))
    assert segmenter.batch_size == 8
