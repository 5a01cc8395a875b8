from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import draw_scene

from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo


def frames_of(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [draw_scene(number, height, width)[0] for number in range(count)]


def segmenter_of(model: CCNet3D, info: ModelInfo, **options) -> VideoSegmenter:
    return VideoSegmenter(model, info, **{"dtype": torch.float32, "input_size": (32, 48)} | options)


def logits_of_clip(model: CCNet3D, frames: list[np.ndarray], indices: list[int]) -> torch.Tensor:
    """Logits at the decoder's stride of a clip by the model itself, batch norms and all: ``[T, K, h, w]``."""
    clip = torch.stack([torch.from_numpy(frames[i]).permute(2, 0, 1) for i in indices])
    clip = F.interpolate(clip, size=(32, 48), mode="bilinear", antialias=True).float() / 255
    with torch.no_grad():
        features = model.frame_features(model.extract_features(clip))
        return model.frame_logits(features, model.attend(features.reduced, len(indices)))


SCHEDULES = [
    # frames, T, S, and for each frame: which clips it is answered from, its place in each and its weight there
    (2, 3, 2, {"clips": [[0, 1, 1]], "answers": [[(0, 0, 1)], [(0, 1, 2)]]}),
    (
        5,
        3,
        2,
        {
            "clips": [[0, 1, 2], [2, 3, 4]],
            "answers": [[(0, 0, 1)], [(0, 1, 2)], [(0, 2, 1), (1, 0, 1)], [(1, 1, 2)], [(1, 2, 1)]],
        },
    ),
    (
        4,
        3,
        1,
        {
            "clips": [[0, 1, 2], [1, 2, 3]],
            "answers": [[(0, 0, 1)], [(0, 1, 2), (1, 0, 1)], [(0, 2, 1), (1, 1, 2)], [(1, 2, 1)]],
        },
    ),
    (
        5,
        3,
        3,
        {
            "clips": [[0, 1, 2], [2, 3, 4]],
            "answers": [[(0, 0, 1)], [(0, 1, 1)], [(0, 2, 1)], [(1, 1, 1)], [(1, 2, 1)]],
        },
    ),
    (2, 1, 1, {"clips": [[0], [1]], "answers": [[(0, 0, 1)], [(1, 0, 1)]]}),
    (0, 3, 2, {"clips": [], "answers": []}),
]


@pytest.mark.parametrize(("count", "length", "stride", "schedule"), SCHEDULES)
def test_blended_clips_by_hand(
    tiny_model: CCNet3D, tiny_info: ModelInfo, count: int, length: int, stride: int, schedule
) -> None:
    frames = frames_of(count)
    clips = [logits_of_clip(tiny_model, frames, indices) for indices in schedule["clips"]]
    segmenter = segmenter_of(tiny_model, tiny_info, clip_length=length, clip_stride=stride)
    predictions = list(segmenter.predict(frames))
    assert [p.number for p in predictions] == list(range(count))
    for prediction, parts in zip(predictions, schedule["answers"], strict=True):
        total = sum(weight for _, _, weight in parts)
        expected = sum(clips[clip][place] * (weight / total) for clip, place, weight in parts)
        # Folding batch norms into float32 weights, and other batch sizes, round differently.
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


def test_causal_answers_at_once_from_the_past(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    frames = frames_of(5)
    asked = iter(range(99))
    stream = segmenter_of(tiny_model, tiny_info, causal=True).predict(frames[next(asked)] for _ in range(5))
    for number in range(5):
        prediction = next(stream)
        assert next(asked) == number + 1  # frame number + 1 was not asked for yet
        asked = itertools.chain([number + 1], asked)
        clip = logits_of_clip(tiny_model, frames, [max(0, number - 2), max(0, number - 1), number])
        torch.testing.assert_close(prediction.logits, clip[2], rtol=1e-4, atol=1e-4)


def test_lazy_with_one_clip_in_hand(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    """An endless stream: a mask comes as soon as its clips are there, and no frame is asked for before it is needed."""
    taken = itertools.count()

    def endless():
        while True:
            yield draw_scene(next(taken))[0]

    masks = segmenter_of(tiny_model, tiny_info, clip_stride=3).segment(endless())
    for _ in range(4):
        next(masks)
    assert next(taken) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_do_not_depend_on_the_batch_size(tiny_model: CCNet3D, tiny_info: ModelInfo, dtype: torch.dtype) -> None:
    frames = frames_of(11)
    runs = [
        [p.logits for p in segmenter_of(tiny_model, tiny_info, batch_size=size, dtype=dtype).predict(frames)]
        for size in (1, 2, 3, 5, 8)
    ]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_of_an_accelerator(tiny_model: CCNet3D, tiny_info: ModelInfo, batch_size: int) -> None:
    """The way of an accelerator, walked on the CPU, where the class would not take it."""
    frames = frames_of(7)
    together = segmenter_of(tiny_model, tiny_info)
    together.batch_size = batch_size
    for a, b in zip(segmenter_of(tiny_model, tiny_info).predict(frames), together.predict(frames), strict=True):
        torch.testing.assert_close(
            a.logits, b.logits, rtol=1e-4, atol=1e-4
        )  # convolutions of batches round differently


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"smoothing": 2}, {"smoothing": 1, "causal": True}])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_run_may_begin_anywhere(tiny_model: CCNet3D, tiny_info: ModelInfo, options, batch_size: int) -> None:
    frames = frames_of(12)
    segmenter = segmenter_of(tiny_model, tiny_info, **options)
    segmenter.batch_size = batch_size
    whole = list(segmenter.predict(frames))
    for start in range(12):
        first = max(0, start - segmenter.history)
        first -= first % batch_size
        rest = list(segmenter.predict(frames[first:], first=first, answer_from=start))
        assert [p.number for p in rest] == list(range(start, 12))
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(rest, whole[start:], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(tiny_model: CCNet3D, tiny_info: ModelInfo, dtype: torch.dtype) -> None:
    frames = frames_of(4)
    exact = list(segmenter_of(tiny_model, tiny_info).predict(frames))
    half = list(segmenter_of(tiny_model, tiny_info, dtype=dtype).predict(frames))
    for a, b in zip(exact, half, strict=True):
        assert b.logits.dtype == torch.float32
        # bfloat16 keeps 8 bits and there are some tens of layers: a few hundredths of the logits' spread.
        assert (a.logits - b.logits).abs().max() < 0.1 * (a.logits.max() - a.logits.min())
        assert (a.mask() == b.mask()).mean() > 0.9


def test_compiled_gives_the_same(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
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
        with pytest.raises(ValueError, match=message):
            segmenter_of(tiny_model, tiny_info, **options)
    with pytest.raises(ValueError, match=r"a frame must be uint8 \[H, W, 3\], got float64 \(4, 4, 3\)"):
        list(VideoSegmenter(tiny_model, tiny_info).segment([np.zeros((4, 4, 3))]))
    with pytest.raises(ValueError, match="first must be a multiple of batch_size = 2, got 3"):
        accelerated = segmenter_of(tiny_model, tiny_info)
        accelerated.batch_size = 2
        list(accelerated.predict([], first=3))
