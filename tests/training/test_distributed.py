"""Two processes and accumulated parts against one process that computes the whole batch at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CAMVID_SPEC, REPOSITORY
from tiny_run import SMALL

from ccnet3d.data import DataSource
from ccnet3d.distributed import Processes
from ccnet3d.training import Trainer, read_recipe
from ccnet3d.training.batches import ClipBatches

# Without dropout, and with batch norms that do not depend on the batch, a step is the same sum over frames however it
# is split. SGD, because AdamW divides a gradient by its own magnitude, which amplifies rounding where it is near 0.
EXACT = [
    *SMALL, "model.overrides.dropout=0", "compute.freeze_batch_norm=true", "losses.lovasz.weight=0",
    "optimizer.name=sgd", "optimizer.learning_rate=0.02", "precision=fp32", "data.workers=0", "data.frames_per_batch=8",
    "data.clip_lengths=[1,2]",
]  # fmt: skip
# Relative to each tensor's largest value: four steps of float32 sums in another order, about eighty times the unit
# roundoff of 6e-8.
TOLERANCE = 5e-6


def options(overrides: list[str]) -> list[str]:
    return [item for override in overrides for item in ("--set", override)]


def train_here(data: Path, out: Path, *extra: str) -> dict[str, torch.Tensor]:
    recipe = read_recipe(REPOSITORY / "pipelines" / "camvid_lite.toml", [*EXACT, *extra])
    Trainer(recipe, DataSource(data, CAMVID_SPEC), out, torch.device("cpu")).run()
    return read_weights(out)


def read_weights(out: Path) -> dict[str, torch.Tensor]:
    parts = torch.load(out / "checkpoint.pt", weights_only=True)["parts"]
    return {f"{part} {name}": tensor for part in ("model", "ema") for name, tensor in parts[part].items()}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    floats = [name for name, tensor in one.items() if tensor.is_floating_point()]
    return max(float((one[n] - other[n]).abs().max() / other[n].abs().max().clamp_min(1e-12)) for n in floats)


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    script = REPOSITORY / "scripts" / "train_camvid.py"
    return subprocess.run([*map(str, [*command, script, *arguments])], capture_output=True, text=True, check=False)


def test_two_processes_and_parts_of_a_step_train_as_one(yard: Path, tmp_path: Path) -> None:
    whole = train_here(yard, tmp_path / "whole")
    start = train_here(yard, tmp_path / "start", "optimizer.learning_rate=0.0")
    assert largest_difference(whole, start) > 0.01  # training changes the weights a lot

    in_parts = train_here(yard, tmp_path / "parts", "compute.accumulate_steps=4")
    assert largest_difference(in_parts, whole) < TOLERANCE

    both = torchrun(2, "--data", yard, "--out", tmp_path / "two", *options([*EXACT, "compute.accumulate_steps=2"]))
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("11 training frames, 4 steps on 2 processes on cpu") == 1
    assert both.stdout.count("wrote ") == 1
    assert largest_difference(read_weights(tmp_path / "two"), whole) < TOLERANCE
    assert len(list((tmp_path / "two").glob("events.*"))) == 1


def test_a_mean_of_means_would_be_noticed(yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts differ in their number of labeled pixels, so that equal shares give another result."""
    whole = train_here(yard, tmp_path / "whole")
    monkeypatch.setattr(Trainer, "_shares", lambda _self, samples: [1 / len(samples)] * len(samples))
    means = train_here(yard, tmp_path / "means", "compute.accumulate_steps=4")
    assert largest_difference(means, whole) > 20 * TOLERANCE


def test_an_error_of_the_main_process_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> torch.Tensor:
        raise ValueError("a damaged file")

    with pytest.raises(ValueError, match="a damaged file"):
        Processes().once(fail, (1,))
    second = Processes(1, 2)
    monkeypatch.setattr(second, "sum", lambda values: values + 1)  # the error flag of the first
    with pytest.raises(SystemExit, match="2"):
        second.once(fail, (1,))


def test_batches_are_split_over_processes() -> None:
    whole = list(ClipBatches(7, 8, [1, 2], seed=5, start=1, stop=4))
    shared = [
        list(ClipBatches(7, 8, [1, 2], seed=5, start=1, stop=4, accumulate=2, process=process, processes=2))
        for process in range(2)
    ]
    for batch, requests in enumerate(whole):
        mine = [request for parts in shared for part in parts[2 * batch : 2 * batch + 2] for request in part]
        assert sorted(mine) == sorted(requests)
    assert [len(part) for part in shared[0]] == [1, 1, 2, 2, 1, 1]
    assert len(ClipBatches(7, 8, [1, 2], seed=5, start=1, stop=4, accumulate=2, processes=2)) == 6
    with pytest.raises(ValueError, match="8 clips cannot be split evenly over 3 processes times 1 accumulation"):
        ClipBatches(7, 8, [1, 2], seed=5, start=0, stop=1, processes=3)


def test_what_cannot_be_computed_fails_early(yard: Path, tmp_path: Path) -> None:
    recipe = read_recipe(REPOSITORY / "pipelines" / "camvid_lite.toml", [*SMALL, "compute.sync_batch_norm=true"])
    with pytest.raises(ValueError, match="no synchronized batch norm for CPUs"):
        Trainer(recipe, DataSource(yard, CAMVID_SPEC), tmp_path, torch.device("cpu"), processes=Processes(0, 2))
