"""The benchmarks as a user runs them, in separate processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from script_runner import run
from tiny_run import SMALL


def test_attention_benchmark_checks_before_it_times(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ["--size", "2x9x12", "--channels", "32", "--repeats", "1", "--only", "check", "table", "--json", out]
    bench = run("bench_attention.py", *options)
    assert bench.returncode == 0, bench.stderr
    report = json.loads(out.read_text())
    assert report["errors"]["tiled torch.float32"] < 1e-5
    rows = {row["name"]: row for row in report["table"][0]}
    assert all(row["of_limit"] == pytest.approx(min(row["of_gemm_time"], row["of_copy_time"])) for row in rows.values())
    assert {"tiled", "axial", "seed-style", "2D per frame", "axial attention", "non-local", "reference"} <= rows.keys()
    positions, cross = 2 * 9 * 12, 2 + 9 + 12 - 2
    assert rows["tiled"]["flops"] == 2 * positions * cross * (32 + 4)
    assert rows["non-local"]["flops"] == 2 * positions**2 * (32 + 4)
    assert all(row[mode]["seconds"] > 0 for row in rows.values() for mode in ("forward", "forward+backward"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_attention_benchmark_needs_the_requested_gpu() -> None:
    bench = run("bench_attention.py", "--device", "cuda")
    assert bench.returncode == 2
    assert bench.stderr == "bench_attention.py: error: --device cuda, but PyTorch finds no CUDA device\n"


def test_attention_benchmark_checks_its_output_folder_first(tmp_path: Path) -> None:
    bench = run("bench_attention.py", "--json", tmp_path / "missing" / "bench.json")
    assert bench.returncode == 2
    assert bench.stderr == (
        f"bench_attention.py: error: there is no folder {tmp_path / 'missing'} for bench.json; create it first\n"
    )


def test_inference_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = [
        "--parts",
        "speed",
        "clips",
        "deeplab",
        "command",
        "--frames",
        "2",
        "--rounds",
        "1",
        "--command-frames",
        "4",
    ]
    bench = run("bench_inference.py", *options, "--input-size", "64x96", "--json", out)
    assert bench.returncode == 0, bench.stderr
    figures = json.loads(out.read_text())
    for dtype in ("torch.float32", "torch.bfloat16"):
        assert figures["clips"][dtype]["T=1"] == 1
        assert all(ratio > 0 for ratio in figures["clips"][dtype].values())
        assert figures["deeplab"][dtype] > 0
    assert figures["command"]["frames"] == 4
    assert figures["command"]["command"] > 1  # it includes loading the model and its libraries


def test_training_benchmark(tmp_path: Path) -> None:
    overrides = [item for override in SMALL[2:] for item in ("--set", override)]
    options = ["--steps", "1", "--matrix", "64", "--threads", "1", "--device", "cpu", "--json", tmp_path / "bench.json"]
    bench = run("bench_training.py", *overrides, *options)
    assert bench.returncode == 0, bench.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["T"] for row in rows] == [1, 5]
    assert rows[0]["relative_seconds"] == 1
    assert all(row["share_of_product_rate"] > 0 and "seconds" not in row for row in rows)
    # Longer clips have longer crosses; everything else costs the same per frame.
    assert rows[0]["gflops_a_frame"] < rows[1]["gflops_a_frame"] < 1.1 * rows[0]["gflops_a_frame"]


def test_gpu_check_on_a_cpu(yard: Path, tmp_path: Path) -> None:
    """Everything but NCCL, synchronized batch norms and fp16, which need a GPU."""
    overrides = [item for override in SMALL for item in ("--set", override)]
    options = ["--matrix", "64", "--threads", "1", "--device", "cpu", "--data", yard, "--out", tmp_path / "runs"]
    check = run("check_gpu.py", "camvid_lite", *overrides, *options)
    assert check.returncode == 0, check.stderr
    results = json.loads((tmp_path / "runs" / "check.json").read_text())
    assert {"speed", "fp32", "bf16", "parallel", "recipe run"} < set(results)
    assert results["parallel"]["alone"] == pytest.approx(results["parallel"]["together"], rel=1e-4)
    assert results["parallel"]["alone"][-1] < results["parallel"]["alone"][0]
    assert results["recipe run"]["epochs"] == 2
    assert 0 < results["recipe run"]["val_miou"] <= 1
