from __future__ import annotations

import dataclasses
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CAMVID_SPEC
from metrics.counting import counts_of, score_of
from PIL import Image
from torch import Tensor

from ccnet3d.data import DataSource, LabelledSequences
from ccnet3d.errors import UserError
from ccnet3d.evaluation import EvaluatedFrame, Evaluation, MasksOf, Timing, evaluate, evaluate_masks, scores_text
from ccnet3d.evaluation.resampling import compare, scores_of
from ccnet3d.inference import VideoSegmenter
from ccnet3d.metrics import (
    BoundaryF,
    BoundaryIou,
    Samples,
    TemporalConsistency,
    VideoConsistency,
    confusion_matrix,
    dis_flow,
    find_score,
    scores_of_options,
)
from ccnet3d.models import CCNet3D, ModelInfo, load_model


def frames_of(sequences: str) -> tuple[EvaluatedFrame, ...]:
    return tuple(EvaluatedFrame(name, number, f"{name}_{number}", 0) for number, name in enumerate(sequences))


def test_scores_by_their_definitions() -> None:
    # Three frames of two videos, two classes; IoU worked out on paper.
    confusions = torch.tensor([[[2, 0], [0, 2]], [[1, 1], [1, 1]], [[4, 0], [0, 0]]])
    result = Evaluation(("a", "b"), frames_of("xxy"), {"confusion": confusions})
    pooled = [7 / 9, 3 / 5]  # [[7, 1], [1, 3]]
    assert result.class_scores("miou") == pytest.approx(dict(zip("ab", pooled, strict=True)))
    assert result.miou == pytest.approx(sum(pooled) / 2)
    # b is in neither labels nor prediction of y.
    assert result.scores["per_frame_miou"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert result.scores["video_miou"] == pytest.approx((3 / 5 + 1) / 2)  # x: [[3, 1], [1, 3]]
    table = result.to_table()
    assert (table["frames"], table["videos"]) == (3, 2)
    assert table["pixel_accuracy"] == pytest.approx(10 / 12)
    assert table["per_class_accuracy"] == {"a": 7 / 8, "b": 3 / 4}
    assert table["class_accuracy"] == pytest.approx((7 / 8 + 3 / 4) / 2)
    assert table["frequency_weighted_iou"] == pytest.approx((8 * 7 / 9 + 4 * 3 / 5) / 12)
    assert not {"consistency", "boundary_f", "per_class_boundary_f"} & set(table)


def test_nothing_of_a_class_is_null_in_json() -> None:
    result = Evaluation(("a", "b"), frames_of("x"), {"confusion": torch.tensor([[[5, 0], [0, 0]]])})
    assert json.loads(json.dumps(result.to_table(), allow_nan=False))["per_class_iou"] == {"a": 1.0, "b": None}


@pytest.mark.usefixtures("one_thread")
def test_every_labeled_frame_counts_once(yard: Path, torn_model: CCNet3D, tiny_info: ModelInfo) -> None:
    dataset = DataSource(yard).open("train")
    segmenter = VideoSegmenter(torn_model, tiny_info, dtype=torch.float32)
    result = evaluate(segmenter, dataset)
    assert result.sequences == tuple(frame.sequence for frame in dataset.frames)
    # The streaming segmenter returns the same masks for each sequence.
    expected = []
    for segment in dataset.segments:
        images = [dataset.read_image(i).permute(1, 2, 0).numpy() for i in segment]
        for index, mask in zip(segment, segmenter.segment(images), strict=True):
            expected.append(confusion_matrix(torch.from_numpy(mask), dataset.read_label(index), 3))
    assert torch.equal(result.confusions, torch.stack(expected))
    # Batches of frames in the backbone, as on a GPU, change only how convolutions round.
    segmenter.batch_size = 4
    batched = evaluate(segmenter, dataset)
    assert (batched.confusions - result.confusions).abs().sum() < 0.002 * result.confusions.sum()


def guesses(dataset: LabelledSequences) -> MasksOf:
    """Return masks that are nearly right, different for every frame."""

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        for index in segment:
            yield dataset.read_label(index).clamp(max=2).roll(index % 4, 1).to(torch.uint8).numpy()

    return masks_of


WINDOW_SCORES = {f"vc{n}_{form}": (n, form == "strict") for n in (2, 3) for form in ("strict", "reference")}


def still(*_: Tensor) -> Tensor:
    """Return the flow of a scene that does not move."""
    return torch.zeros(2, 48, 64)


ALL: dict[str, Any] = {"scores": [*WINDOW_SCORES, "tc", "boundary_f", "boundary_iou"], "flow": still}


def with_a_gap(yard: Path) -> LabelledSequences:
    """Return six frames, one after a gap, and four of another sequence."""
    (yard / "dataset.toml").write_text("max_gap_frames = 2\n" + (yard / "dataset.toml").read_text())
    for folder in ("frames", "labels"):
        (yard / folder / "walk" / "0007.png").rename(yard / folder / "walk" / "0010.png")
    dataset = DataSource(yard).open("train")
    assert [len(segment) for segment in dataset.segments] == [6, 1, 4]
    return dataset


@pytest.mark.usefixtures("one_thread")
def test_scores_are_those_of_the_meters_and_do_not_depend_on_the_order_of_videos(yard: Path) -> None:
    dataset = with_a_gap(yard)
    result = evaluate_masks(guesses(dataset), dataset, **ALL)
    frames = [
        [(torch.from_numpy(mask), dataset.read_label(index), dataset.read_image(index)) for index, mask in
         zip(segment, guesses(dataset)(segment), strict=True)]
        for segment in dataset.segments
    ]  # fmt: skip
    truth = {n: score_of(n, VideoConsistency(k, strict=s), frames) for n, (k, s) in WINDOW_SCORES.items()}
    tc_counts = torch.stack(counts_of(TemporalConsistency(3, still), frames))
    truth["tc"] = find_score("tc").value(tc_counts, Samples.whole([range(7), range(7, 11)])).item()
    assert result.to_table()["consistency"] == pytest.approx(truth)
    assert result.scores["boundary_f"] == pytest.approx(score_of("boundary_f", BoundaryF(3), frames))
    assert result.scores["boundary_iou"] == pytest.approx(score_of("boundary_iou", BoundaryIou(3), frames))
    assert 0 < min(result.scores.values()) <= max(result.scores.values()) < 1
    # Nothing is compared across the gap.
    starts = [i for i, frame in enumerate(result.frames) if not i or result.frames[i - 1].segment != frame.segment]
    assert starts == [0, 6, 7]
    for name in ("kept", "changed", "vc2_strict"):
        assert [i for i, (_, total) in enumerate(result.counts[name].tolist()) if not total] == starts
    assert [i for i, counts in enumerate(result.counts["tc"]) if not counts.any()] == starts
    for order in ([2, 1, 0], [1, 2, 0]):
        other = evaluate_masks(guesses(dataset), dataset, segments=order, **ALL)
        assert other.to_table() == result.to_table()


@pytest.mark.usefixtures("one_thread")
def test_every_score_of_the_table_is_everywhere(yard: Path, tmp_path: Path) -> None:
    """An entry of the table is counted, scored, saved, printed, resampled and compared."""
    dataset = DataSource(yard).open("train")
    names = scores_of_options(["consistency", "boundary", "flow", "count_occluded"])
    assert {"vc8_strict", "vc16_reference", "flicker", "boundary_f", "boundary_iou", "tc", "tc_all"} <= set(names)
    result = evaluate_masks(guesses(dataset), dataset, scores=names, flow=still)
    always = ["miou", "per_frame_miou", "video_miou", "pixel_accuracy", "class_accuracy", "frequency_weighted_iou"]
    assert list(result.scores) == [*always, *names]
    result.save(tmp_path / "evaluation.json")
    table = json.loads((tmp_path / "evaluation.json").read_text())
    assert {*table, *table["consistency"]} >= {*result.scores}
    printed = {line[:24].strip() for line in scores_text(result).splitlines()}
    assert printed >= {score.title for score in map(find_score, result.scores)}
    assert {*scores_of(result)} - {f"iou {name}" for name in result.class_names} == {*result.scores}
    assert {*compare(result, result)} == {*scores_of(result)}
    assert {name for name in result.scores if find_score(name).per_frame} < {*result.frame_scores}


def test_scores_that_do_not_exist(yard: Path) -> None:
    dataset = DataSource(yard).open("val")
    for name in ("vc1_strict", "vc8", "dice", "mask"):
        with pytest.raises(UserError, match=f"there is no score '{name}'; choose one of miou, per_frame_miou, .*, tc"):
            evaluate_masks(guesses(dataset), dataset, scores=[name])


@pytest.mark.usefixtures("one_thread")
def test_frames_of_other_sizes_are_not_compared(yard: Path) -> None:
    for folder in ("frames", "labels"):
        path = yard / folder / "walk" / "0003.png"
        Image.open(path).resize((32, 24), Image.Resampling.NEAREST).save(path)
    dataset = DataSource(yard).open("train")
    result = evaluate_masks(guesses(dataset), dataset, **ALL)
    assert [i for i, (_, total) in enumerate(result.counts["kept"].tolist()) if not total] == [0, 2, 3, 7]
    Image.open(path).resize((48, 64)).save(yard / "frames" / "walk" / "0004.png")
    with pytest.raises(ValueError, match=r"flow needs frames of the size of their labels, got \(64, 48\) for .*0004"):
        evaluate_masks(guesses(dataset), dataset, **ALL)


@pytest.mark.usefixtures("one_thread")
def test_occluded_pixels_that_count_have_another_name(yard: Path) -> None:
    dataset = DataSource(yard).open("val")
    flow = dis_flow()
    scores = {}
    for name in ("tc_all", "tc"):
        scores |= evaluate_masks(guesses(dataset), dataset, scores=[name], flow=flow).to_table()["consistency"]
    assert set(scores) == {"tc", "tc_all"}
    assert scores["tc"] > scores["tc_all"]


@pytest.mark.usefixtures("one_thread")
def test_memory_does_not_grow_with_the_video(yard: Path) -> None:
    dataset = DataSource(yard).open("train")
    alive = []

    def counting(segment: range) -> Iterator[np.ndarray]:
        for mask in guesses(dataset)(segment):
            tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
            alive.append(sum(tensor.numel() >= 48 * 64 for tensor in tensors))
            yield mask

    evaluate_masks(counting, dataset, **ALL)
    assert len(alive) == 11
    assert max(alive[4:7]) <= alive[3]


@pytest.mark.usefixtures("one_thread")
def test_time_of_masks_and_of_metrics(yard: Path) -> None:
    dataset = DataSource(yard).open("val")

    def slow(segment: range) -> Iterator[np.ndarray]:
        for mask in guesses(dataset)(segment):
            time.sleep(0.05)
            yield mask

    timing = Timing()
    evaluate_masks(slow, dataset, timing=timing)
    assert timing.masks_seconds >= 3 * 0.05
    assert timing.metrics_seconds > 0
    evaluate_masks(slow, dataset, timing=timing)
    assert timing.masks_seconds >= 6 * 0.05


def test_flicker_is_of_the_masks_and_crosses_no_gap(
    yard: Path, tiny_model: CCNet3D, tiny_info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    (yard / "dataset.toml").write_text("max_gap_frames = 2\n" + (yard / "dataset.toml").read_text())
    for folder in ("frames", "labels"):
        (yard / folder / "walk" / "0007.png").rename(yard / folder / "walk" / "0010.png")
    dataset = DataSource(yard).open("train")
    assert [len(segment) for segment in dataset.segments] == [6, 1, 4]
    segmenter = VideoSegmenter(tiny_model, tiny_info)
    # Masks that follow the noise of the frames.
    monkeypatch.setattr(segmenter, "segment", lambda images: (image[..., 0] % 3 for image in images))
    result = evaluate(segmenter, dataset, scores=["flicker"])
    flickers = []
    for segment in dataset.segments:
        masks = np.stack([dataset.read_image(index)[0].numpy() % 3 for index in segment])
        before, now, after = masks[:-2], masks[1:-1], masks[2:]
        flickers.append(((before == after) & (now != before)).ravel())
    share = np.concatenate(flickers).mean()
    assert 0.1 < share < 0.4
    assert result.to_table()["consistency"] == {"flicker": pytest.approx(share)}


def test_other_classes_are_refused(yard: Path, tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    segmenter = VideoSegmenter(tiny_model, dataclasses.replace(tiny_info, class_names=("a", "b", "c")))
    with pytest.raises(ValueError, match="model's classes are a, b, c and the classes of yard are ground, box, rail"):
        evaluate(segmenter, DataSource(yard).open("val"))


@pytest.mark.real_data
def test_default_weights_on_real_camvid(camvid: Path) -> None:
    model, info = load_model()
    result = evaluate(VideoSegmenter(model, info), DataSource(camvid, CAMVID_SPEC).open("val"))
    assert len(result.sequences) == 101
    # The model card's score; the dtype and library versions move it by less.
    assert result.miou == pytest.approx(info.scores["val_miou"], abs=0.005)
