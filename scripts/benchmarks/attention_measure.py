"""Measurements of bench_attention.py: contenders, errors, interleaved times, peak memory.

As a program it prints the peak memory of one run in bytes, measured in a new process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from attention_baselines import axial, flex, non_local, non_local_flash, per_frame, seed_style
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ccnet3d.attention import (
    criss_cross_attention,
    criss_cross_attention_backends,
    criss_cross_attention_reference,
)

MODES = ("forward", "forward+backward")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Norm of a tensor's error relative to its norm: a few roundings of each format in sums of a few hundred terms, and
# between axes.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
CHECKED_SIZES = [
    "1x1x1",
    "1x1x7",
    "1x7x1",
    "7x1x1",
    "3x4x5",
    "1x13x17",
    "5x13x17",
    "64x3x2",
    "2x3x131",
    "2x129x3",
    "19x5x33",
]
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """The size of one clip."""

    time: int
    height: int
    width: int
    channels: int
    """Dv, channels of the values."""
    narrow: int
    """D, channels of queries and keys."""

    @classmethod
    def parse(cls, text: str, channels: int, narrow: int | None = None) -> Size:
        """Return the size of ``TxHxW``; without ``narrow`` queries have an eighth of the channels, as in the paper."""
        time_, height, width = map(int, text.split("x"))
        return cls(time_, height, width, channels, narrow or channels // 8)

    @property
    def positions(self) -> int:
        return self.time * self.height * self.width

    @property
    def cross(self) -> int:
        return self.time + self.height + self.width - 2

    def inputs(self, dtype: torch.dtype, device: str, *, channels_first: bool = False) -> list[Tensor]:
        """Return query, key and value; scores have unit variance."""
        narrow, shape = self.narrow, (1, self.time, self.height, self.width)
        if device == "meta":
            tensors = [torch.empty(*shape, c, dtype=dtype, device=device) for c in (narrow, narrow, self.channels)]
        else:
            generator = torch.Generator(device).manual_seed(0)
            new = [torch.randn(*shape, c, generator=generator, device=device) for c in (narrow, narrow, self.channels)]
            tensors = [x.to(dtype) for x in (new[0] * narrow**-0.25, new[1] * narrow**-0.25, new[2])]
        return [x.permute(0, 4, 1, 2, 3).contiguous() for x in tensors] if channels_first else tensors

    def __str__(self) -> str:
        return f"T={self.time}, {self.height}x{self.width}, D={self.narrow}, Dv={self.channels}"


@dataclass(frozen=True)
class Contender:
    """One implementation and its memory needs."""

    name: str
    function: Callable[..., Tensor]
    channels_first: bool = False
    full_maps: int = 0
    """N x N maps that forward and backward keep at once, to omit sizes that do not fit into memory."""
    own: bool = False
    """Whether it is a backend of the operator, which must run."""


def computes(name: str, dtype: torch.dtype) -> bool:
    """Return whether a backend computes on this CPU in this dtype."""
    try:
        criss_cross_attention(*torch.zeros(3, 1, 1, 1, 1, 1, dtype=dtype), backend=name)
    except ValueError:
        return False
    return True


def contenders(device: str, dtype: torch.dtype) -> list[Contender]:
    """Return all implementations to compare, the operator's fastest backend first."""

    def forced(name: str) -> Callable[..., Tensor]:
        return lambda q, k, v: criss_cross_attention(q, k, v, backend=name)

    names = [b.name for b in criss_cross_attention_backends() if b.available and b.name != "reference"]
    if "compiled" in names and (device != "cpu" or not computes("compiled", dtype)):
        names.remove("compiled")
    if device != "cuda":
        names = [name for name in names if name != "triton"]
    on_gpu = [Contender("FlexAttention", flex), Contender("non-local, flash", non_local_flash)]
    # scaled_dot_product_attention has no kernel for Dv != D and falls back to full maps.
    return [
        *(Contender(name, forced(name), own=True) for name in names),
        Contender("seed-style", seed_style, channels_first=True),
        Contender("2D per frame", per_frame),
        Contender("axial attention", axial),
        *(on_gpu if device == "cuda" else []),
        Contender("non-local", non_local, full_maps=6),
        Contender("reference", criss_cross_attention_reference, full_maps=8 if dtype == torch.float32 else 12),
    ]


def fits(contender: Contender, size: Size, dtype: torch.dtype, device: str) -> bool:
    """Return whether a contender's full maps fit into the free memory."""
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        meminfo = Path("/proc/meminfo")
        free = 8 * GIB
        if meminfo.exists():
            free = next(int(x.split()[1]) * 1024 for x in meminfo.read_text().splitlines() if "MemAvailable" in x)
    return contender.full_maps * size.positions**2 * dtype.itemsize < 0.7 * free


def relative_error(mine: Tensor, truth: Tensor, grad: Tensor) -> float:
    """Return the relative error in the norm; if the truth is almost zero, relative to the output's gradient."""
    scale = truth.norm() if truth.norm() > 1 else grad.double().norm()
    return ((mine.double() - truth).norm() / scale).item()


def check(device: str) -> dict[str, float]:
    """Compare every fast backend with the float64 reference, output and gradients; return the largest errors."""
    modes = [(str(dtype), dtype, TOLERANCES[dtype]) for dtype in DTYPES.values()]
    largest: dict[str, float] = {}
    for mode, dtype, tolerance in modes:
        largest |= check_dtype(device, mode, dtype, tolerance)
    if device == "cuda":  # tf32 has ten bits of mantissa
        torch.backends.cuda.matmul.allow_tf32 = True
        largest |= check_dtype(device, "torch.float32 with tf32", torch.float32, 4e-3)
        torch.backends.cuda.matmul.allow_tf32 = False
    return largest


def check_dtype(device: str, mode: str, dtype: torch.dtype, tolerance: float) -> dict[str, float]:
    largest: dict[str, float] = {}
    for text in CHECKED_SIZES:
        inputs = [x.requires_grad_() for x in Size.parse(text, 160).inputs(dtype, device)]
        exact = [x.detach().double().requires_grad_() for x in inputs]
        truth = criss_cross_attention_reference(*exact)
        weight = torch.randn(truth.shape, generator=torch.Generator(device).manual_seed(1), device=device).to(dtype)
        truths = [truth, *torch.autograd.grad(truth, exact, weight.double())]
        for contender in contenders(device, dtype):
            if contender.name not in ("triton", "compiled", "tiled", "axial"):
                continue
            output = contender.function(*inputs)
            results = [output, *torch.autograd.grad(output, inputs, weight)]
            error = max(relative_error(x, y, weight) for x, y in zip(results, truths, strict=True))
            key = f"{contender.name} {mode}"
            largest[key] = max(largest.get(key, 0.0), error)
            if not error <= tolerance:
                raise RuntimeError(f"the error of {key} at {text} is {error:.1e}, more than {tolerance:.0e}")
    return largest


def runner(contender: Contender, size: Size, dtype: torch.dtype, device: str, *, backward: bool) -> Callable[[], None]:
    inputs = size.inputs(dtype, device, channels_first=contender.channels_first)
    if not backward:

        def forward() -> None:
            with torch.inference_mode():
                contender.function(*inputs)

        return forward
    inputs = [x.requires_grad_() for x in inputs]
    grad = torch.ones_like(inputs[2])

    def both() -> None:
        torch.autograd.grad(contender.function(*inputs), inputs, grad)

    return both


def gemm_runner(dtype: torch.dtype, device: str) -> tuple[Callable[[], None], float]:
    """Return a product of two square matrices, the measure of the machine's speed, and its FLOPs."""
    n = 8192 if device == "cuda" else 2048
    square = torch.randn(n, n, device=device).to(dtype)

    def product() -> None:
        with torch.inference_mode():
            torch.mm(square, square)

    return product, 2.0 * n**3


def flops_of(function: Callable[..., Any], inputs: list[Tensor]) -> float:
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return float(counter.get_total_flops())


def copy_runner(bytes_moved: int, device: str) -> Callable[[], object]:
    """Return a copy that reads and writes so many bytes, half of them each."""
    source = torch.zeros(bytes_moved // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def peak_memory(name: str, mode: str, size: Size, dtype: torch.dtype, device: str) -> float | None:
    """Measure the peak memory of a run in bytes, without its inputs; on a CPU in a new process."""
    if device == "cuda":
        work = memory_work(name, mode, size, dtype, device)
        work()  # compiles kernels and loads libraries with their workspaces
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    if not Path("/proc/self/clear_refs").exists():
        return None
    text = f"{size.time}x{size.height}x{size.width}"
    command = [
        sys.executable,
        __file__,
        name,
        mode,
        text,
        str(size.channels),
        str(size.narrow),
        str(dtype).removeprefix("torch."),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def whole_module(name: str, size: Size) -> nn.Module:
    """Return a context module by its name, ``criss_cross`` with its loops: ``criss_cross R=2``."""
    # Not at the top: a measured process imports as little as it can.
    from ccnet3d.models import AxialAttention, build_context

    context, _, loops = name.partition(" R=")
    if context == "axial":
        return AxialAttention(size.channels, axes=2 if size.time == 1 else 3)
    module = build_context(context, size.channels, loops=int(loops or 0))
    assert module is not None
    return module


def memory_work(name: str, mode: str, size: Size, dtype: torch.dtype, device: str) -> Callable[[], Any]:
    """Return a run of a contender, or of a whole module, ``module NAME``."""
    if name.startswith("module "):
        module = whole_module(name.removeprefix("module "), size).to(device=device, dtype=dtype)
        module.train(mode != "forward")
        x = torch.randn(1, size.channels, size.time, size.height, size.width, device=device, dtype=dtype)
        if mode == "forward":
            return lambda: torch.inference_mode()(module)(x)
        return lambda: module(x.requires_grad_()).sum().backward()
    contender = next(c for c in contenders(device, dtype) if c.name == name)
    if mode == "forward":
        return runner(contender, size, dtype, device, backward=False)
    inputs = [x.requires_grad_() for x in size.inputs(dtype, device, channels_first=contender.channels_first)]
    return lambda: contender.function(*inputs).sum().backward()  # frees the output after the forward pass


def own_peak(name: str, mode: str, size: Size, dtype: torch.dtype) -> int:
    """Return the largest growth of this process's resident set in bytes during one run."""
    # First load libraries with their buffers.
    memory_work(name, mode, Size(2, 3, 4, size.channels, size.narrow), dtype, "cpu")()
    work = memory_work(name, mode, size, dtype, "cpu")
    status = Path("/proc/self/status")

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = kilobytes("VmRSS:")
    work()
    return 1024 * (kilobytes("VmHWM:") - before)


def allocations_of(work: Callable[[], Any]) -> list[int]:
    """Return the sizes in bytes of all GPU allocations of a run."""
    torch.cuda.memory._record_memory_history(max_entries=100_000)
    work()
    torch.cuda.synchronize()
    traces = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    torch.cuda.memory._record_memory_history(enabled=None)
    return [event["size"] for event in traces if event["action"] == "alloc"]


if __name__ == "__main__":
    name_, mode_, text_, channels_, narrow_, dtype_ = sys.argv[1:]
    print(own_peak(name_, mode_, Size.parse(text_, int(channels_), int(narrow_)), getattr(torch, dtype_)))
