from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from reference.inputs import random_inputs

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_backends, functional

VARIABLE = "CCNET3D_ATTENTION_BACKEND"
NAMES = ("triton", "tiled", "axial", "reference")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with Triton and a Hopper GPU, whatever this one has; a test takes away what it wants."""
    machine = SimpleNamespace(triton=True, cuda=True, capability=(9, 0))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(functional, "find_spec", lambda name: object() if machine.triton and name == "triton" else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: machine.cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: machine.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
    return machine


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which backends ran; none of them computes."""
    called: list[str] = []
    for name in ("axial", "reference"):
        attribute = {"axial": "axial_criss_cross_attention", "reference": "criss_cross_attention_reference"}[name]
        monkeypatch.setattr(functional, attribute, lambda q, k, v, name=name: called.append(name) or v)  # noqa: ARG005
    monkeypatch.setattr(functional, "attention_op", lambda q, k, v, name: (called.append(name) or v,))  # noqa: ARG005
    return called


def clip(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [x.detach() for x in random_inputs((1, 2, 3, 4, 2, 3), dtype)]


@pytest.mark.usefixtures("machine")
def test_backends_come_fastest_first() -> None:
    backends = criss_cross_attention_backends()
    assert tuple(backend.name for backend in backends) == NAMES
    assert all(backend.available and backend.detail for backend in backends)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ({"triton": False}, "Triton is not installed"),
        ({"cuda": False}, "PyTorch finds no CUDA device"),
        ({"capability": (7, 5)}, "needs compute capability 8.0, Some GPU is older"),
    ],
    ids=["no Triton", "no CUDA", "an old GPU"],
)
def test_a_missing_backend_says_why(machine, missing: dict[str, object], reason: str) -> None:
    vars(machine).update(missing)
    triton, *others = criss_cross_attention_backends()
    assert (triton.available, triton.detail) == (False, reason)
    assert all(backend.available for backend in others)
    with pytest.raises(ValueError, match=f"backend 'triton' cannot be used: {reason}; choose 'auto'"):
        criss_cross_attention(*clip(), backend="triton")


def test_the_interpreter_needs_no_gpu(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cuda = False
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert criss_cross_attention_backends()[0].available


@pytest.mark.usefixtures("machine")
def test_triton_wants_cuda_tensors() -> None:
    with pytest.raises(ValueError, match="backend 'triton' cannot be used: it takes CUDA tensors, got one on cpu"):
        criss_cross_attention(*clip(), backend="triton")


@pytest.mark.usefixtures("machine")
def test_triton_wants_a_dtype_that_it_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"float16, bfloat16 and float32, got torch\.float64; choose 'auto'"):
        criss_cross_attention(*clip(torch.float64), backend="triton")


@pytest.mark.usefixtures("machine")
def test_cpu_tensors_are_tiled_even_beside_a_gpu(calls) -> None:
    criss_cross_attention(*clip())
    assert calls == ["tiled"]


@pytest.mark.parametrize("name", ["tiled", "axial", "reference"])
def test_the_variable_chooses(calls, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    criss_cross_attention(*clip())
    assert calls == [name]


def test_the_argument_beats_the_variable(calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "axial")
    criss_cross_attention(*clip(), backend="reference")
    assert calls == ["reference"]


def test_an_error_about_the_variable_names_it(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cuda = False
    monkeypatch.setenv(VARIABLE, "cudnn")
    with pytest.raises(ValueError, match=f"unknown {VARIABLE} 'cudnn'; choose 'auto' or one of"):
        criss_cross_attention(*clip())
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(ValueError, match=f"{VARIABLE} 'triton' cannot be used: PyTorch finds no CUDA device"):
        criss_cross_attention(*clip())


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("elsewhere", [0, 1, 2])
@pytest.mark.parametrize("backend", ["auto", *NAMES])
def test_tensors_on_different_devices(backend: str, elsewhere: int) -> None:
    tensors = clip()
    tensors[elsewhere] = tensors[elsewhere].to("meta")
    devices = ", ".join(str(x.device) for x in tensors)
    with pytest.raises(ValueError, match=f"must be on one device, got {devices}; move them first"):
        criss_cross_attention(*tensors, backend=backend)
