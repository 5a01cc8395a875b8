from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ccnet3d.ablation import (
    AblationConfig,
    Cost,
    RunResult,
    Variant,
    check_ablation_folder,
    summarize_variants,
    write_ablation_report,
)
from ccnet3d.ablation.tables import Row
from ccnet3d.ablation.timing import costs_of, time_in_rounds
from ccnet3d.errors import UserError

CONFIG = AblationConfig(
    "base.toml",
    (Variant("T=1", ("data.clip_lengths=[1]",)), Variant("T=5"), Variant("T=7")),
    seeds=(0, 1, 2),
    windows=(8,),
)
HEADER = {"ablation": "clips", "split": "val", "command": "run_ablation.py clips.toml", "date": "2026-01-02"}


def result(variant: str, seed: int, miou: float | None, flicker: float = 0.01, error: str = "") -> RunResult:
    names = ("per_frame_miou", "video_miou", "vc8_strict", "vc8_reference")
    scores = {"miou": miou, **dict.fromkeys(names, 0.5), "flicker": flicker}
    return RunResult(variant, seed, {} if error else scores, "a machine", error)


RESULTS = [
    result("T=1", 0, 0.60, 0.010),
    result("T=1", 1, 0.62, 0.020),
    result("T=1", 2, 0.64, 0.030),
    result("T=5", 0, 0.61, 0.006),
    result("T=5", 1, 0.65, 0.012),
    result("T=5", 2, 0.66, 0.018),
    result("T=7", 0, 0.63),
    result("T=7", 1, None, error="diverged: the loss became nan"),
    result("T=7", 2, None),
]
COSTS = {"T=1": Cost(1.0, 1.0, 1.0, 0.125), "T=5": Cost(1.5, 1.25, 1.75, 0.1875)}


@pytest.fixture
def rows() -> list[Row]:
    return summarize_variants(CONFIG, RESULTS, COSTS)


def test_arithmetic_by_hand(rows: list[Row]) -> None:
    first, second, third = rows
    assert [row.variant for row in rows] == ["T=1", "T=5", "T=7"]
    assert first.scores["miou"].mean == pytest.approx(0.62)
    assert first.scores["miou"].std == pytest.approx(0.02)  # sqrt((0.02² + 0 + 0.02²) / 2)
    assert first.differences == {}
    assert second.scores["miou"].mean == pytest.approx(0.64)
    assert second.scores["miou"].std == pytest.approx(0.0007**0.5)  # (0.03² + 0.01² + 0.02²) / 2
    # Pairs: 0.01, 0.03, 0.02. Their spread is smaller than that of either variant.
    assert (second.differences["miou"].mean, second.differences["miou"].std) == pytest.approx((0.02, 0.01))
    assert second.differences["flicker"].mean == pytest.approx(-0.008)
    assert second.differences["vc8_strict"].std == 0
    # One run diverged, and one has no mIoU: a single pair, without a spread.
    assert (third.scores["miou"].n, third.scores["miou"].std) == (1, None)
    assert third.scores["flicker"].n == 2
    assert third.differences["miou"].mean == pytest.approx(0.03)
    assert (third.differences["miou"].n, third.cost) == (1, None)


def test_pairs_need_the_first_variants_run() -> None:
    results = [result("T=1", 0, 0.5, error="diverged"), *RESULTS[1:]]
    _, second, _ = summarize_variants(CONFIG, results, {})
    assert (second.scores["miou"].n, second.differences["miou"].n) == (3, 2)
    assert second.differences["miou"].mean == pytest.approx(0.025)


def test_costs_compare_the_times_of_one_round() -> None:
    # The machine is half as fast in the second round, and slow for the second model in the third.
    costs = costs_of({"a": [1.0, 2.0, 1.0], "b": [1.5, 3.0, 4.0]})
    assert costs == {"a": Cost(1.0, 1.0, 1.0, 1.0), "b": Cost(1.5, 1.5, 4.0, 3.0)}


def test_works_are_timed_in_rounds_after_a_warm_up() -> None:
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    seconds = time_in_rounds(works, 2, torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert [len(seconds[name]) for name in works] == [2, 2]
    assert all(value > 0 for values in seconds.values() for value in values)


def test_tables(rows: list[Row], tmp_path: Path) -> None:
    markdown = write_ablation_report(tmp_path, CONFIG, rows, HEADER, absolute_cost=False, plot=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".ccnet3d-files.jsonl", "table.csv", "table.json", "table.md",
    ]  # fmt: skip
    assert (tmp_path / "table.md").read_text() == markdown
    lines = markdown.splitlines()
    assert lines[0] == "# Ablation clips"
    assert "- command: run_ablation.py clips.toml" in lines
    assert "Scores on the val split in percent (flicker: lower is better)." in markdown
    same = "50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00"
    assert f"| T=1 | 3 | 62.00 ± 2.00 | {same} | 2.000 ± 1.000 | 1.00 (1.00 to 1.00) |" in lines
    assert f"| T=5 | 3 | 64.00 ± 2.65 | {same} | 1.200 ± 0.600 | 1.50 (1.25 to 1.75) |" in lines
    assert f"| T=7 | 2 of 3 | 63.00 | {same} | 1.000 ± 0.000 | - |" in lines
    none = "+0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00"
    assert f"| T=5 | 3 | +2.00 ± 1.00 | {none} | -0.800 ± 0.400 |" in lines
    assert "| T=7 | 1 | - | - | - | - | - | - |" in lines
    assert "T=7, seed 1: diverged: the loss became nan." in lines

    with (tmp_path / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["variant"], row["row"], row["n"]) for row in table[3:5]] == [
        ("T=1", "mean", "3"),
        ("T=1", "standard deviation", "3"),
    ]
    assert [row["row"] for row in table[5:12]] == [
        "seed 0", "seed 1", "seed 2", "mean", "standard deviation", "difference mean", "difference standard deviation",
    ]  # fmt: skip
    assert float(table[8]["miou"]) == pytest.approx(0.64)
    assert table[8]["relative_cost"] == "1.5"
    assert float(table[11]["miou"]) == pytest.approx(0.01)
    assert (table[13]["miou"], table[13]["n"]) == ("", "0")  # the run that diverged

    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["date"] == "2026-01-02"
    assert saved["variants"][0]["overrides"] == ["data.clip_lengths=[1]"]
    assert saved["variants"][1]["cost"] == {"relative": 1.5, "low": 1.25, "high": 1.75}
    assert saved["variants"][1]["differences"]["miou"]["n"] == 3
    assert saved["variants"][2]["results"][1]["error"] == "diverged: the loss became nan"


def test_only_tables_of_an_ablation_are_replaced(rows: list[Row], tmp_path: Path) -> None:
    def write() -> str:
        return write_ablation_report(tmp_path, CONFIG, rows, HEADER, absolute_cost=False, plot=False)

    (tmp_path / "table.md").write_text("mine")
    (tmp_path / "plot.png").write_text("mine")
    for attempt in (write, lambda: check_ablation_folder(tmp_path, plot=False)):
        with pytest.raises(UserError, match=r"table.md exists, and is a file that ccnet3d did not write there"):
            attempt()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "table.md"]
    (tmp_path / "table.md").unlink()
    assert write() == write()
    check_ablation_folder(tmp_path, plot=False)
    with pytest.raises(UserError, match=r"plot.png exists, and is a file"):
        check_ablation_folder(tmp_path, plot=True)


def test_seconds_where_they_mean_something(rows: list[Row], tmp_path: Path) -> None:
    markdown = write_ablation_report(tmp_path, CONFIG, rows, HEADER, absolute_cost=True, plot=False)
    assert "| 1.50 (1.25 to 1.75), 187.50 ms |" in markdown
    assert json.loads((tmp_path / "table.json").read_text())["variants"][1]["cost"]["seconds"] == 0.1875


def test_one_variant_has_no_differences(tmp_path: Path) -> None:
    config = AblationConfig("base.toml", (Variant("T=1"),))
    rows = summarize_variants(config, RESULTS[:1], {})
    assert "Difference" not in write_ablation_report(tmp_path, config, rows, HEADER, absolute_cost=False, plot=False)


def test_plot_shows_each_variant_and_run(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an optional extra")
    from matplotlib import pyplot as plt

    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    write_ablation_report(tmp_path, CONFIG, rows, HEADER, absolute_cost=False, plot=True)
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 200
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == [
        "mIoU, %", "VC8 strict, %", "flicker, %", "cost per frame, relative (range)",
    ]  # fmt: skip
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["T=1", "T=5", "T=7"]
    assert [float(bar.lines[0].get_ydata()[0]) for bar in panels[0].containers] == pytest.approx([62.0, 64.0, 63.0])
    low, high = panels[0].containers[1].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((64 - 2.6458, 64 + 2.6458), abs=1e-3)
    points = [line.get_ydata()[0] for line in panels[0].lines if line.get_marker() == "."]
    assert points == pytest.approx([60, 62, 64, 61, 65, 66, 63])
    low, high = panels[3].containers[1].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((1.25, 1.75))


def test_without_a_plot_no_matplotlib_is_needed(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_ablation_report(tmp_path, CONFIG, rows, HEADER, absolute_cost=False, plot=False)
    assert (tmp_path / "table.md").is_file()
