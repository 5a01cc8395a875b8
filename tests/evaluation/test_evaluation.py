from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from evaluation.samples import with_counts, without_extras

from ccnet3d.errors import UserError
from ccnet3d.evaluation import EvaluatedFrame, Evaluation
from ccnet3d.evaluation.parallel import join, split_segments


def some_evaluation() -> Evaluation:
    """Return three frames of two videos, with two classes and distinct counts."""
    frames = (
        EvaluatedFrame("x", 4, "x_0004", 0),
        EvaluatedFrame("x", 5, "x_0005", 0),
        EvaluatedFrame("y", 1, "y_0001", 1),
    )
    return Evaluation(
        ("a", "b"),
        frames,
        {
            "confusion": torch.arange(12).view(3, 2, 2),
            "boundary_f": torch.tensor(
                [[[4, 2, 4, 2], [0, 0, 0, 0]], [[4, 4, 2, 2], [5, 0, 5, 0]], [[0, 0, 3, 0], [1, 1, 1, 1]]]
            ),
            "boundary_iou": torch.tensor([[[1, 2], [0, 0]], [[3, 3], [0, 10]], [[0, 3], [1, 1]]]),
            "kept": torch.tensor([[0, 0], [3, 4], [0, 0]]),
            "changed": torch.tensor([[0, 0], [1, 5], [0, 0]]),
            "vc2_strict": torch.tensor([[0, 0], [1, 4], [3, 3]]),
            "flicker": torch.tensor([[0, 0], [1, 10], [2, 30]]),
            "tc": torch.tensor([[[0, 0], [0, 0]], [[2, 1], [0, 1]], [[0, 0], [0, 0]]]),
        },
        {"dataset": "yard", "split": "val"},
    )


def test_scores_over_time_and_of_boundaries_by_hand() -> None:
    result = some_evaluation()
    assert result.frame_scores["kept"].tolist() == pytest.approx([math.nan, 3 / 4, math.nan], nan_ok=True)
    assert result.to_table()["consistency"] == pytest.approx(
        # Windows are averaged, flicker is pooled; class a has 2 of 3, class b 1 of 2, and y compared nothing.
        {"vc2_strict": (1 / 4 + 1) / 2, "flicker": 3 / 40, "tc": (2 / 3 + 1 / 2) / 2}
    )
    # a: half of each side is near, all is near, nothing was predicted; b: no boundary, nothing near, all near.
    assert result.class_scores("boundary_f") == pytest.approx({"a": (0.5 + 1 + 0) / 3, "b": (0 + 1) / 2})
    assert result.scores["boundary_f"] == pytest.approx(0.5)
    assert result.frame_scores["boundary_f"].tolist() == pytest.approx([0.5, 0.5, 0.5])
    # Boundary IoU pools pixels over frames.
    assert result.class_scores("boundary_iou") == pytest.approx({"a": 4 / 8, "b": 1 / 11})
    assert result.scores["boundary_iou"] == pytest.approx((4 / 8 + 1 / 11) / 2)
    assert result.frame_scores["boundary_iou"].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert result.videos == {"x": [0, 1], "y": [2]}


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    result = some_evaluation()
    path = tmp_path / "new" / "evaluation.json"
    result.save(path)
    again = Evaluation.load(path)
    assert again.to_table() == result.to_table()
    assert (again.frames, again.class_names, again.settings) == (result.frames, result.class_names, result.settings)
    assert list(again.counts) == list(result.counts)
    assert all(torch.equal(again.counts[name], result.counts[name]) for name in result.counts)
    lines = path.read_text().splitlines()
    assert [line.split(":")[0] for line in lines[1:-1]] == [f' "{key}"' for key in (*result.to_table(), "record")]
    assert {**json.loads(path.read_text()), "record": None} == {**result.to_table(), "record": None}
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    table = json.loads(path.read_text())
    assert {key: value for key, value in table.items() if key != "record"} == result.to_table()


def test_without_frames_and_without_extras(tmp_path: Path) -> None:
    nothing = Evaluation(("a", "b"), (), {"confusion": torch.zeros(0, 2, 2, dtype=torch.long)})
    nothing.save(tmp_path / "evaluation.json")
    again = Evaluation.load(tmp_path / "evaluation.json")
    assert again.confusions.shape == (0, 2, 2)
    assert math.isnan(again.miou)
    assert again.to_table()["video_miou"] is None
    with pytest.raises(UserError, match="boundary_f was not evaluated; evaluate again with it"):
        again.class_scores("boundary_f")
    assert "boundary_f" not in again.scores


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.pop("record"), "it has no record with a version"),
        (lambda table: table["record"].pop("frames"), "lacks the key 'frames'"),
        (lambda table: table["record"].pop("counts"), "lacks the key 'counts'"),
        (lambda table: table["record"]["counts"].pop("confusion"), "needs the counts 'confusion', got boundary_f"),
        (lambda table: table["record"]["counts"].update(dice=[]), "there is no metric 'dice'"),
        (
            lambda table: table["record"]["counts"]["confusion"].pop(),
            r"confusion must be int64 \[3, 2, 2\] for 3 frames",
        ),
        (lambda table: table["record"]["counts"]["kept"][0].append(1), "is not an evaluation"),
        (lambda table: [row.append(1) for row in table["record"]["counts"]["kept"]], r"kept must be int64 \[3, 2\]"),
        (lambda table: table["record"]["counts"]["confusion"][0][0].__setitem__(0, 0.5), "confusion must be int64"),
        (lambda table: table["record"].update(counts=[1]), "is not an evaluation"),
        (lambda table: table["record"]["frames"][0].pop(), "is not an evaluation"),
        (lambda table: table["record"]["frames"][0].__setitem__(1, 10**30), "frames must be at most"),
        (lambda table: table["record"]["frames"][0].__setitem__(1, 1.5), "frames must be int, got 1.5"),
        (lambda table: table["record"].update(frames=3), "frames must be tuple"),
        (lambda table: table["record"].update(settings="x"), "settings must be"),
        (lambda table: table["record"].update(class_names=["x"] * 100_000), "number of classes must be in 1 to 255"),
        (lambda table: table["record"].update(version=[2]), "it has no record with a version"),
        (lambda table: table.update(record=[2]), "it has no record with a version"),
        (lambda table: table["record"]["counts"]["confusion"][0][0].__setitem__(0, -1), "confusion must be in 0 to"),
        (
            lambda table: table["record"]["counts"]["confusion"][0][0].__setitem__(0, 1 << 50),
            "confusion must be in 0 to",
        ),
        (
            lambda table: table["record"]["counts"]["confusion"][0][0].__setitem__(0, 10**30),
            "not rows of equal lengths",
        ),
        (lambda table: table["record"]["counts"]["confusion"][0][0].__setitem__(0, "x"), "not rows of equal lengths"),
        (lambda table: table["record"]["counts"].update(kept=3), "kept must be int64"),
    ],
)
def test_files_that_are_not_an_evaluation(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "evaluation.json"
    some_evaluation().save(path)
    table = json.loads(path.read_text())
    assert callable(damage)
    damage(table)
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match=message) as caught:
        Evaluation.load(path)
    assert "give a file that ccnet3d-evaluate --json wrote" in str(caught.value)


@pytest.mark.parametrize("version", [1, 7])
def test_files_of_another_version(tmp_path: Path, version: int) -> None:
    path = tmp_path / "evaluation.json"
    # Version 1 had other keys; they are not looked at.
    path.write_text(json.dumps({"miou": 0.5, "record": {"version": version, "confusions": []}}))
    with pytest.raises(UserError) as caught:
        Evaluation.load(path)
    assert str(caught.value) == (
        f"{path} has version {version} of the evaluation record, this ccnet3d reads version 2; evaluate again"
    )


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    with pytest.raises(ValueError, match=r"cannot read the evaluation .*evaluation\.json: No such file"):
        Evaluation.load(path)
    for content in (b"no json", b"[1]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"record": Infinity}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not an evaluation"):
            Evaluation.load(path)


def test_fields_that_do_not_fit() -> None:
    result = some_evaluation()
    with pytest.raises(ValueError, match=r"counts kept must be int64 \[3, 2\] .* got torch.int64 \[2, 2\]"):
        with_counts(result, kept=torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"counts confusion must be int64 .* got torch.float32"):
        with_counts(result, confusion=result.confusions.float())


def test_shares_of_segments() -> None:
    segments = [range(0, 3), range(3, 13), range(13, 14), range(14, 18)]
    assert split_segments(segments, 1) == [[0, 1, 2, 3]]
    assert split_segments(segments, 2) == [[1], [0, 2, 3]]
    assert split_segments(segments, 5) == [[1], [3], [0], [2], []]


def part_of(result: Evaluation, members: list[int]) -> Evaluation:
    return dataclasses.replace(
        result,
        frames=tuple(result.frames[i] for i in members),
        counts={name: counts[members] for name, counts in result.counts.items()},
    )


def test_parts_joined_in_any_order_are_the_whole(tmp_path: Path) -> None:
    result = some_evaluation()
    result.save(tmp_path / "whole.json")
    for parts in ([[2], [0, 1]], [[0, 1], [], [2]], [[0, 1, 2]]):
        join([part_of(result, members) for members in parts]).save(tmp_path / "joined.json")
        assert (tmp_path / "joined.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    with pytest.raises(ValueError, match="the same classes and the same counts"):
        join([result, without_extras(result)])
    with pytest.raises(ValueError, match="no evaluation to join"):
        join([])
