from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_scene
from torch import Tensor

from ccnet3d.data import DataSource, corrupt_frame
from ccnet3d.errors import UserError
from ccnet3d.evaluation import (
    EvaluatedFrame,
    Evaluation,
    evaluate,
    evaluate_corrupted,
    robustness_scores,
    robustness_text,
    save_robustness,
)
from ccnet3d.models import ModelInfo


class Recorder:
    """A segmenter that records its frames and finds boxes by their red."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self.frames: list[np.ndarray] = []

    def segment(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            self.frames.append(frame)
            yield (frame[..., 0] > 150).astype(np.uint8)


def test_the_model_sees_corrupted_frames_and_optical_flow_clean_ones(yard: Path, tiny_info: ModelInfo) -> None:
    dataset = DataSource(yard).open("train")
    clean = [draw_scene(frame.number)[0] for frame in dataset.frames]
    recorder = Recorder(tiny_info)
    flows: list[tuple[Tensor, ...]] = []

    def recording_flow(*images: Tensor) -> Tensor:
        flows.append(images)
        return torch.zeros(2, 48, 64)

    names = ["noise", "drop"]
    results = list(evaluate_corrupted(recorder, dataset, names, 4, scores=["tc"], flow=recording_flow))
    assert [result.settings for result in results] == [
        {"dataset": "yard"},
        {"dataset": "yard", "corruption": "noise", "severity": 4},
        {"dataset": "yard", "corruption": "drop", "severity": 4},
    ]
    # Frame index 7 is the first of the second sequence.
    expected = [*clean, *(corrupt_frame(image, name, 4, (0, i)) for name in names for i, image in enumerate(clean))]
    assert len(recorder.frames) == len(expected) == 3 * 11
    assert all(np.array_equal(seen, frame) for seen, frame in zip(recorder.frames, expected, strict=True))
    seen_by_flow = {image.permute(1, 2, 0).numpy().tobytes() for images in flows for image in images}
    assert seen_by_flow == {image.tobytes() for image in clean}
    assert len({result.miou for result in results}) == 3


def test_a_corrupted_frame_does_not_depend_on_the_other_segments(yard: Path, tiny_info: ModelInfo) -> None:
    dataset = DataSource(yard).open("train")
    whole = list(evaluate_corrupted(Recorder(tiny_info), dataset, ["noise", "occlusion"], 5))
    part = list(evaluate_corrupted(Recorder(tiny_info), dataset, ["occlusion"], 5, segments=[1]))
    assert torch.equal(part[0].confusions, whole[0].confusions[7:])
    assert torch.equal(part[1].confusions, whole[2].confusions[7:])
    assert torch.equal(part[0].confusions, evaluate(Recorder(tiny_info), dataset, segments=[1]).confusions)


@pytest.mark.parametrize(
    ("names", "severity", "message"), [(["noise", "fog"], 3, "no corruption 'fog'"), (["noise"], 6, "must be 1 to 5")]
)
def test_mistakes_are_found_before_the_evaluation(
    names: list[str], severity: int, message: str, yard: Path, tiny_info: ModelInfo
) -> None:
    recorder = Recorder(tiny_info)
    with pytest.raises(UserError, match=message):
        next(evaluate_corrupted(recorder, DataSource(yard).open("val"), names, severity))
    assert recorder.frames == []


def made_up(confusion: list[list[int]], flicker: tuple[int, int], corruption: str = "") -> Evaluation:
    counts = {
        "confusion": torch.tensor([confusion]),
        "vc8_strict": torch.tensor([[0, 0]]),  # too short a video
        "boundary_f": torch.tensor([[[2, 1, 2, 1]] * 2]),
        "flicker": torch.tensor([flicker]),
    }
    settings = {"corruption": corruption} if corruption else {}
    return Evaluation(("ground", "box"), (EvaluatedFrame("walk", 1, "0001", 0),), counts, settings)


def test_rows_table_and_file(tmp_path: Path) -> None:
    evaluations = [
        made_up([[3, 0], [0, 5]], (1, 10)),
        made_up([[2, 1], [1, 4]], (2, 10), "noise"),
        made_up([[0, 3], [3, 2]], (6, 10), "drop"),
    ]
    rows = robustness_scores(evaluations)
    assert list(rows) == ["clean", "noise", "drop", "mean"]
    # IoU of ground and box on paper: 2 / 4 and 4 / 6, 0 and 2 / 8
    mious = {"clean": 1.0, "noise": (1 / 2 + 2 / 3) / 2, "drop": 1 / 8, "mean": ((1 / 2 + 2 / 3) / 2 + 1 / 8) / 2}
    assert {row: scores["miou"] for row, scores in rows.items()} == pytest.approx(mious)
    assert {row: scores["flicker"] for row, scores in rows.items()} == pytest.approx(
        {"clean": 0.1, "noise": 0.2, "drop": 0.6, "mean": 0.4}
    )
    assert all(math.isnan(scores["vc8_strict"]) for scores in rows.values())

    header, *lines = robustness_text(rows).splitlines()
    assert header.split("  ") == [*[""] * 9, "mIoU", "boundary F-score", "VC8 strict"]  # no flicker
    assert [line.split() for line in lines] == [
        ["clean", "100.00", "50.00", "-"],
        ["noise", "58.33", "50.00", "-"],
        ["drop", "12.50", "50.00", "-"],
        ["mean", "35.42", "50.00", "-"],
    ]
    assert {len(line) for line in lines} == {len(header)}

    save_robustness(tmp_path / "rows.json", rows)
    text = (tmp_path / "rows.json").read_text()
    assert [line[:8] for line in text.splitlines()] == ["{", ' "clean"', ' "noise"', ' "drop":', ' "mean":', "}"]
    saved = json.loads(text)
    assert {row: scores["miou"] for row, scores in saved.items()} == pytest.approx(mious)
    assert saved["mean"]["vc8_strict"] is None
    assert set(saved["mean"]) == set(evaluations[0].scores)
