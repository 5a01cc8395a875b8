from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands
from conftest import CAMVID_SPEC, REPOSITORY
from tiny_run import RECIPE, SMALL, make_trainer

from ccnet3d.data import DataSource, RequestedSample
from ccnet3d.errors import RunStoppedError
from ccnet3d.training import ComputeRecipe, Trainer, read_recipe
from ccnet3d.training.signals import StopSignals

EVERYTHING = ComputeRecipe(accumulate_steps=2, activation_checkpointing=True, backbone_gradients="anchor")


def send_in_step(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    do = trainer.train_step

    def train_step(current: int, samples: Sequence[RequestedSample]) -> dict[str, float]:
        if current == step:
            os.kill(os.getpid(), number)
        return do(current, samples)

    monkeypatch.setattr(trainer, "train_step", train_step)


def send_in_evaluation(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    read = trainer.val_set.read_image

    def read_image(index: int) -> torch.Tensor:
        if index == step:
            os.kill(os.getpid(), number)
        return read(index)

    monkeypatch.setattr(trainer.val_set, "read_image", read_image)


@pytest.mark.parametrize(
    ("send", "index", "number", "step", "code", "options"),
    [
        (send_in_step, 4, signal.SIGTERM, 5, 143, {}),  # in the second of three epochs
        (send_in_step, 1, signal.SIGINT, 2, 130, {"precision": "fp16", "compute": EVERYTHING}),
        (send_in_evaluation, 1, signal.SIGTERM, 9, 143, {}),  # after the third epoch
    ],
    ids=["SIGTERM in a step", "SIGINT in a step, fp16", "SIGTERM in an evaluation"],
)
def test_a_stopped_run_resumes_bit_for_bit(
    send: Callable[..., None], index: int, number: signal.Signals, step: int, code: int,
    options: dict[str, Any], yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = dataclasses.replace(RECIPE, epochs=3, **options)
    before = signal.getsignal(number)
    stopped = make_trainer(yard, tmp_path / "stopped", recipe)
    with monkeypatch.context() as patch:
        send(stopped, patch, index, number)
        with pytest.raises(RunStoppedError, match=f"^{step} of 9 steps are done and in .*checkpoint.pt$") as error:
            stopped.run()
    assert error.value.exit_code == code
    assert signal.getsignal(number) == before
    assert torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["step"] == step
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    make_trainer(yard, tmp_path / "stopped", recipe).run(resume=True)
    make_trainer(yard, tmp_path / "whole", recipe).run()
    results = []
    for folder in (tmp_path / "stopped", tmp_path / "whole"):
        parts = torch.load(folder / "checkpoint.pt", weights_only=True)["parts"]
        state = {name: parts[name] for name in ("model", "ema", "scaler")} | {"optimizer": parts["optimizer"]["state"]}
        results.append((state, (folder / "model.safetensors").read_bytes()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    assert results[0][1] == results[1][1]
    assert bool(results[0][0]["scaler"]) == (recipe.precision == "fp16")


def test_a_second_signal_interrupts_and_ignored_signals_stay_ignored() -> None:
    with StopSignals() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
    with StopSignals(ignore_repeats=True) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_stops_at_sigterm(yard: Path, commands: Commands, tmp_path: Path) -> None:
    """The whole process group gets it, DataLoader workers too, as on a cluster; the rest is trained in this process."""
    overrides = [*SMALL, "epochs=12", "data.frames_per_batch=5", "evaluate_every=12", "precision=fp32"]
    options = [item for override in overrides for item in ("--set", override)]
    out, threads = tmp_path / "stopped", torch.get_num_threads()
    command = ["--data", yard, "--out", out, "--threads", threads, *options]
    process = commands.start("ccnet3d.cli.train", *command)
    while not (out / "checkpoint.pt").exists():
        assert process.is_running(), process.wait()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    ended = process.wait()
    assert ended.returncode == 143, ended.stderr
    done = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    message = f"stopped: {done} of 36 steps are done and in {out / 'checkpoint.pt'}; resume with --resume"
    assert ended.stderr == f"ccnet3d-train: {message}\n"
    assert 3 <= done < 36
    recipe = read_recipe(REPOSITORY / "pipelines" / "camvid_lite.toml", overrides)
    for folder, resume in ((out, True), (tmp_path / "whole", False)):
        Trainer(recipe, DataSource(yard, CAMVID_SPEC), folder, torch.device("cpu")).run(resume=resume)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
