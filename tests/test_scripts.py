"""The scripts as a user runs them, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

SMALL = [
    "epochs=2", "evaluate_every=1", "model.backbone_weights=", "model.overrides.backbone=test_efficientnet",
    "model.overrides.channels=16", "model.overrides.skip_channels=[12,10,8]", "data.input_size=[48,64]",
    "data.augmentation.crop_size=[32,40]",
]  # fmt: skip


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if key != "CCNET3D_CAMVID"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, **environment})


@pytest.mark.parametrize("without_video", [False, True], ids=["", "without av and decord"])
def test_own_three_class_dataset_without_python(yard: Path, tmp_path: Path, without_video: bool) -> None:
    """Frames, masks and a dataset.toml: two epochs of training, an evaluation, and resuming a run that is done."""
    environment = {}
    if without_video:
        blocked = tmp_path / "blocked"
        blocked.mkdir()
        for name in ("av", "decord"):
            (blocked / f"{name}.py").write_text("raise ImportError('not installed')")
        environment["PYTHONPATH"] = str(blocked)
    overrides = [item for override in SMALL for item in ("--set", override)]
    training = run("train_camvid.py", "--data", yard, "--out", tmp_path / "run", *overrides, **environment)
    assert training.returncode == 0, training.stderr
    assert "11 training frames, 4 steps" in training.stdout
    assert "epoch 2 of 2: val mIoU" in training.stdout
    model = tmp_path / "run" / "model.safetensors"
    scores_file = tmp_path / "scores.json"
    scoring = run("evaluate.py", "--data", yard, "--checkpoint", model, "--json", scores_file, **environment)
    assert scoring.returncode == 0, scoring.stderr
    scores = json.loads(scores_file.read_text())
    assert set(scores["per_class_iou"]) == {"ground", "box", "rail"}
    assert (scores["frames"], scores["videos"]) == (3, 1)
    assert 0 <= scores["miou"] <= 1
    assert f"mIoU (pooled)   {100 * scores['miou']:6.2f}" in scoring.stdout


def test_without_data_training_says_how_to_get_it(tmp_path: Path) -> None:
    training = run("train_camvid.py", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert training.returncode == 2
    assert training.stderr.count("\n") == 1
    assert "get CamVid from https://" in training.stderr
    assert "datasets/camvid/README.md" in training.stderr
    assert (REPOSITORY / "datasets" / "camvid" / "README.md").is_file()
    by_variable = run("train_camvid.py", CCNET3D_CAMVID=str(tmp_path / "elsewhere"))
    assert "no data folder at" in by_variable.stderr
    assert "elsewhere" in by_variable.stderr
    assert not (tmp_path / "run").exists()


def test_bad_input_is_one_line(yard: Path, tmp_path: Path) -> None:
    training = run("train_camvid.py", "--data", yard, "--set", "epochz=1", "--out", tmp_path / "run")
    assert (training.returncode, training.stderr.count("\n")) == (2, 1)
    assert "unknown key 'epochz'" in training.stderr
    scoring = run("evaluate.py", "--data", yard, "--split", "test")
    assert (scoring.returncode, scoring.stderr.count("\n")) == (2, 1)
    assert "no split 'test'" in scoring.stderr
    scoring = run("evaluate.py", "--data", yard)
    assert "evaluate with weights that were trained on it" in scoring.stderr


def test_what_a_loader_process_says_is_one_line(yard: Path, tmp_path: Path) -> None:
    (yard / "frames" / "walk" / "0003.png").write_bytes(b"damaged")
    overrides = [item for override in SMALL for item in ("--set", override)]
    training = run("train_camvid.py", "--data", yard, "--out", tmp_path / "run", *overrides)
    assert (training.returncode, training.stderr.count("\n")) == (2, 1)
    assert training.stderr.startswith("train_camvid.py: error: cannot read the image ")
    assert "0003.png" in training.stderr


def test_attention_benchmark_checks_before_it_times(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ["--size", "2x9x12", "--channels", "32", "--repeats", "1", "--only", "check", "table", "--json", out]
    bench = run("bench_attention.py", *options)
    assert bench.returncode == 0, bench.stderr
    report = json.loads(out.read_text())
    assert report["errors"]["tiled torch.float32"] < 1e-5
    rows = {row["name"]: row for row in report["table"][0]}
    assert {"tiled", "axial", "seed-style", "2D per frame", "axial attention", "non-local", "reference"} <= rows.keys()
    positions, cross = 2 * 9 * 12, 2 + 9 + 12 - 2
    assert rows["tiled"]["flops"] == 2 * positions * cross * (32 + 4)
    assert rows["non-local"]["flops"] == 2 * positions**2 * (32 + 4)
    assert all(row[mode]["seconds"] > 0 for row in rows.values() for mode in ("forward", "forward+backward"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_attention_benchmark_wants_the_gpu_it_was_told() -> None:
    bench = run("bench_attention.py", "--device", "cuda")
    assert bench.returncode == 2
    assert bench.stderr == "bench_attention.py: error: --device cuda, but PyTorch finds no CUDA device\n"


def test_attention_benchmark_looks_at_its_outputs_before_it_measures(tmp_path: Path) -> None:
    bench = run("bench_attention.py", "--json", tmp_path / "missing" / "bench.json")
    assert bench.returncode == 2
    assert bench.stderr == (
        f"bench_attention.py: error: no folder {tmp_path / 'missing'} for bench.json; make it first\n"
    )
