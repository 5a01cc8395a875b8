from __future__ import annotations

import pytest
import torch

from ccnet3d.inference import best_device, device_problem, devices


def test_the_small_model_has_every_part_that_runs_on_the_cpu() -> None:
    devices._run_small_model("cpu")


def test_meta_and_unknown_devices_are_problems_of_one_line() -> None:
    for device in ("meta", "warp:9", "cuda:99"):
        problem = device_problem(device)
        assert problem
        assert "\n" not in problem


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer with MPS, of which this one has none: its tensors are on the CPU."""
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **_: zeros(*size))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.usefixtures("apple")
def test_mps_is_chosen_where_the_model_runs_and_told_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(devices, "_run_small_model", lambda device: said.append(device))
    assert best_device(said.append) == "mps"
    assert best_device(said.append, mps=False) == "cpu"
    assert said == ["mps"]

    def lacks(_: str) -> None:
        raise NotImplementedError("The operator 'aten::x' is not implemented for the MPS device. If you want\nmore")

    monkeypatch.setattr(devices, "_run_small_model", lacks)
    said.clear()
    assert best_device(said.append) == "cpu"
    assert said == [
        "the device mps cannot be used (The operator 'aten::x' is not implemented for the MPS device); trying the "
        "next one"
    ]


@pytest.mark.usefixtures("apple")
def test_a_cuda_device_that_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_run_small_model", lambda _: None)

    def busy(*_: object, device: str) -> torch.Tensor:
        if device == "cuda":
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCompile with")
        return torch.ones(1)

    monkeypatch.setattr(torch, "zeros", busy)
    said: list[str] = []
    assert best_device(said.append) == "mps"
    assert "busy" in said[0]
