from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from reference.inputs import random_inputs

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_backends, functional
from ccnet3d.attention.backends import BACKENDS, compiled, triton
from ccnet3d.attention.backends.backend import ComposedBackend
from ccnet3d.attention.custom_op import attention_op

VARIABLE = "CCNET3D_ATTENTION_BACKEND"
NAMES = ("triton", "compiled", "tiled", "axial", "reference")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A simulated machine with Triton and a Hopper GPU, either of which a test may remove, and the compiled library."""
    machine = SimpleNamespace(triton=True, cuda=True, capability=(9, 0))
    monkeypatch.setattr(compiled, "_supported", 3)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton, "find_spec", lambda name: object() if machine.triton and name == "triton" else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: machine.cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: machine.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
    return machine


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the backends that were called; none of them computes."""
    called: list[str] = []
    for backend in BACKENDS:
        if isinstance(backend, ComposedBackend):
            record = lambda q, k, v, name=backend.name: called.append(name) or v  # noqa: ARG005, E731
            monkeypatch.setitem(vars(backend), "attend", record)  # the dataclass is frozen
    monkeypatch.setattr(functional, "attention_op", lambda q, k, v, name: (called.append(name) or v,))  # noqa: ARG005
    return called


def clip(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [x.detach() for x in random_inputs((1, 2, 3, 4, 2, 3), dtype)]


@pytest.mark.usefixtures("machine")
def test_backends_are_listed_fastest_first() -> None:
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
def test_unavailable_backend_states_the_reason(machine, missing: dict[str, object], reason: str) -> None:
    vars(machine).update(missing)
    triton, *others = criss_cross_attention_backends()
    assert (triton.available, triton.detail) == (False, reason)
    assert all(backend.available for backend in others)
    with pytest.raises(ValueError, match=f"backend 'triton' cannot be used: {reason}; choose 'auto'"):
        criss_cross_attention(*clip(), backend="triton")


def test_interpreter_needs_no_gpu(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cuda = False
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert criss_cross_attention_backends()[0].available


@pytest.mark.usefixtures("machine")
def test_triton_needs_cuda_tensors() -> None:
    with pytest.raises(ValueError, match="backend 'triton' cannot be used: it needs CUDA tensors, got one on cpu"):
        criss_cross_attention(*clip(), backend="triton")


@pytest.mark.usefixtures("machine")
def test_triton_needs_a_supported_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"float16, bfloat16 and float32, got torch\.float64; choose 'auto'"):
        criss_cross_attention(*clip(torch.float64), backend="triton")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("kernels", "dtype", "expected"),
    [
        (3, torch.float32, "compiled"),
        (3, torch.bfloat16, "compiled"),
        (3, torch.float64, "tiled"),
        (1, torch.float32, "compiled"),
        (1, torch.bfloat16, "tiled"),  # no AMX
        (0, torch.float32, "tiled"),  # no AVX2
        (None, torch.float32, "tiled"),  # no compiler when the wheel was built
    ],
)
def test_cpu_tensors_use_a_cpu_backend_on_a_machine_with_a_gpu(
    calls, kernels: int | None, dtype: torch.dtype, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_supported", kernels)
    criss_cross_attention(*clip(dtype))
    assert calls == [expected]


@pytest.mark.parametrize(
    ("kernels", "dtype", "reason"),
    [
        (None, torch.float32, "this installation has no compiled kernels"),
        (0, torch.float32, "this CPU has no AVX2"),
        (1, torch.bfloat16, "it computes in bfloat16 on CPUs with AMX only"),
        (3, torch.float64, r"it computes in float32 and bfloat16, not in torch\.float64"),
    ],
)
def test_compiled_backend_states_why_it_cannot_be_used(
    kernels: int | None, dtype: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_supported", kernels)
    with pytest.raises(ValueError, match=f"backend 'compiled' cannot be used: {reason}.*choose 'auto'"):
        criss_cross_attention(*clip(dtype), backend="compiled")


@pytest.mark.usefixtures("machine")
def test_the_interpreter_is_never_chosen_automatically(calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    criss_cross_attention(*clip())
    assert calls == ["compiled"]


@pytest.mark.parametrize("name", ["tiled", "axial", "reference"])
def test_environment_variable_selects_the_backend(calls, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    criss_cross_attention(*clip())
    assert calls == [name]


def test_argument_overrides_the_environment_variable(calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "axial")
    criss_cross_attention(*clip(), backend="reference")
    assert calls == ["reference"]


def test_errors_name_the_environment_variable(machine, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_tensors_on_different_devices_are_rejected(backend: str, elsewhere: int) -> None:
    tensors = clip()
    tensors[elsewhere] = tensors[elsewhere].to("meta")
    devices = ", ".join(str(x.device) for x in tensors)
    with pytest.raises(ValueError, match=f"must be on one device, got {devices}; move them first"):
        criss_cross_attention(*tensors, backend=backend)


@pytest.mark.parametrize("name", ["axial", "cudnn"])
def test_operator_computes_with_fused_backends_only(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"unknown fused backend '{name}'; choose one of .'compiled', 'tiled', 'triton'."
    ):
        attention_op(*clip(), name)
