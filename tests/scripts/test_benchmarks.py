"""The benchmarks as a user runs them, in separate processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from script_runner import run
from tiny_run import SMALL

from ccnet3d.attention import criss_cross_attention_reference


@pytest.fixture
def attention_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the benchmark in this process and returns the file that it writes.

    The memory of one contender only is measured in the way of users, because each measurement starts a process.
    """

    def run_it(measured: str, file: Path, *options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["bench_attention.py", *options, "--repeats", "1", "--json", str(file)])
        monkeypatch.syspath_prepend(REPOSITORY / "scripts" / "benchmarks")
        bench = import_module("bench_attention")
        for module in (bench, import_module("attention_contexts")):
            monkeypatch.setattr(module, "peak_memory", one_only(module.peak_memory, measured))
        assert bench.main() == 0
        return json.loads(file.read_text())

    return run_it


def one_only(measure: Callable[..., float | None], measured: str) -> Callable[..., float | None]:
    def peak_memory(name: str, mode: str, *setting: Any) -> float | None:
        return measure(name, mode, *setting) if (name, mode) == (measured, "forward+backward") else None

    return peak_memory


def test_attention_benchmark_checks_before_it_times(attention_benchmark, tmp_path: Path) -> None:
    options = ["--size", "2x9x12", "--channels", "32", "--only", "check", "table"]
    report = attention_benchmark("tiled", tmp_path / "bench.json", *options)
    assert report["errors"]["tiled torch.float32"] < 1e-5
    rows = {row["name"]: row for row in report["table"][0]}
    assert all(row["of_limit"] == pytest.approx(min(row["of_gemm_time"], row["of_copy_time"])) for row in rows.values())
    assert {"tiled", "axial", "seed-style", "2D per frame", "axial attention", "non-local", "reference"} <= rows.keys()
    positions, cross = 2 * 9 * 12, 2 + 9 + 12 - 2
    assert rows["tiled"]["flops"] == 2 * positions * cross * (32 + 4)
    assert rows["tiled"]["forward+backward"]["peak_bytes"] > 0
    assert rows["non-local"]["flops"] == 2 * positions**2 * (32 + 4)
    assert all(row[mode]["seconds"] > 0 for row in rows.values() for mode in ("forward", "forward+backward"))


def test_every_contender_of_a_gpu_has_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "scripts" / "benchmarks")
    bench, measure = import_module("bench_attention"), import_module("attention_measure")
    size = measure.Size.parse("2x9x12", 32)
    flops = {
        c.name: measure.flops_of(
            bench.without_data(c), size.inputs(torch.bfloat16, "meta", channels_first=c.channels_first)
        )
        for c in measure.contenders("cuda", torch.bfloat16)
    }
    assert flops["FlexAttention"] == flops["tiled"] == 2 * 216 * (2 + 9 + 12 - 2) * (32 + 4)
    assert flops["non-local, flash"] == 2 * 216 * 216 * (32 + 4 * 8)  # the scores again for each head's 4 channels


def test_alternatives_of_the_attention_benchmark_compute_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "scripts/benchmarks")
    import attention_baselines as baselines
    from torch.nn.attention.flex_attention import flex_attention

    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 3, 4, 5, channels) for channels in (4, 4, 12))
    monkeypatch.setattr(baselines, "compiled_flex_attention", lambda: flex_attention)  # compiling takes a minute
    expected = criss_cross_attention_reference(query, key, value)
    torch.testing.assert_close(baselines.flex(query, key, value), expected)
    channels_first = baselines.seed_style(*(x.movedim(-1, 1).contiguous() for x in (query, key, value)))
    torch.testing.assert_close(channels_first.movedim(1, -1), expected)
    all_positions = baselines.non_local(query, key, value)
    weights = torch.einsum("nthwc,nabdc->nthwabd", query, key).flatten(4).softmax(-1)
    product = (weights @ value.flatten(1, 3)[:, None, None]).view(value.shape)
    torch.testing.assert_close(all_positions, product)
    torch.testing.assert_close(baselines.non_local_flash(query, key, value), product)


def test_context_benchmark(attention_benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FLOPs of a clip by hand: projections and the products of each attention, or the convolutions."""
    options = ["--context", "--size", "2x7x6", "--channels", "16"]
    report = attention_benchmark("module ppm", tmp_path / "bench.json", *options)
    assert "times relative to criss_cross R=3" in capsys.readouterr().out
    rows = {row["name"]: row for row in report["contexts"]}
    n, projections = 2 * 7 * 6, 16 * (16 + 2 + 2)
    macs = {
        "criss_cross R=3": 3 * n * (projections + (2 + 7 + 6 - 2) * (16 + 2)),
        "non_local": n * (projections + n * (16 + 2)),
        "axial": n * (3 * projections + (2 + 7 + 6) * (16 + 2)),
        "local_window": n * (projections + n * (16 + 2)),  # the clip is one window
        "ppm": 2 * (1 + 4 + 9 + 36) * 16 * 4 + n * 9 * (16 + 4 * 4) * 16,
        "aspp": n * (16 * 8 + 3 * 9 * 16 * 8 + 5 * 8 * 16) + 2 * 16 * 8,
        "gcn": n * (2 * 15 * (16 * 4 + 4 * 4) + 4 * 16),
    }
    assert {name: row["flops"] for name, row in rows.items()} == {name: 2 * count for name, count in macs.items()}
    assert all(row[mode]["seconds"] > 0 for row in rows.values() for mode in ("forward", "forward+backward"))
    assert rows["ppm"]["forward+backward"]["peak_bytes"] > 0


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
    options += ["--parts", "training"]
    check = run("check_gpu.py", "camvid_lite", *overrides, *options)
    assert check.returncode == 0, check.stderr
    results = json.loads((tmp_path / "runs" / "check.json").read_text())
    assert {"speed", "fp32", "bf16", "parallel", "recipe run"} < set(results)
    assert results["parallel"]["alone"] == pytest.approx(results["parallel"]["together"], rel=1e-4)
    assert results["parallel"]["alone"][-1] < results["parallel"]["alone"][0]
    assert results["recipe run"]["epochs"] == 2
    assert 0 < results["recipe run"]["val_miou"] <= 1


def test_startup_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its starts, each of which takes seconds: their programs, and the arithmetic."""
    starts = []

    def start(command: list[str], **_: object) -> None:
        starts.append(" ".join(command[1:3]))

    monkeypatch.setattr("subprocess.run", start)
    bench = run("bench_startup.py", "--rounds", "1", "--json", tmp_path / "bench.json")
    assert bench.returncode == 0, bench.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert len(figures["seconds"]) == 3 + 13
    assert len(starts) == 2 * 16
    assert starts[2] == "-m ccnet3d.cli.infer"
    seconds = figures["seconds"]
    assert figures["first mask / import torch"] == seconds["first mask"] / seconds["import torch"]
