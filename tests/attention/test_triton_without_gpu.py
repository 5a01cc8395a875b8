"""Tests of the Triton kernels that need no GPU.

They are right in Triton's interpreter, and they compile to machine code that fits the supported GPUs.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),  # Triton 3.9 announces a new default
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(INTERPRETED, reason="with TRITON_INTERPRET=1 test_triton.py runs directly"),
]

CASES = Path(__file__).with_name("test_triton.py")
# The tests of CASES, split into processes that take about equally long.
GROUPS = {
    "the definition in float32": "definition and float32",
    "the definition in bfloat16": "definition and bfloat16",
    "the definition in float16": "definition and float16 and not bfloat16",
    "everything else": "not definition",
}


def run_interpreted(expression: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a new process, because Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", CASES, "-k", expression, "-p", "no:cacheprovider"]
    command += ["--confcutdir", CASES.parent]  # the imports of tests/conftest.py take seconds
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=CASES.parents[2], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="module")
def interpreted() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """All groups, one process per core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {group: pool.submit(run_interpreted, expression) for group, expression in GROUPS.items()}
        pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_triton.py runs on the GPU")
@pytest.mark.parametrize("group", GROUPS)
def test_interpreted_on_the_cpu(interpreted, group: str) -> None:
    run = interpreted[group].result()
    # Pytest also exits with 0 if tests were skipped.
    if run.returncode != 0 or not re.search(r"^\d+ passed", run.stdout, re.MULTILINE) or "skipped" in run.stdout:
        pytest.fail(run.stdout, pytrace=False)


# Shared memory of one block in bytes: an A100, an H100, a consumer Blackwell.
SHARED_MEMORY = {80: 166_912, 90: 232_448, 120: 101_376}
CHANNELS, VALUE_CHANNELS = 64, 512  # as in the paper
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
SIZES = {"length", "middle", "inner", "positions", "time", "height", "width"}
IN_FLOAT32 = {"lse_before", "lse_after", "log_sum_exp", "delta"}


def compile_kernel(kernel: Any, capability: int, dtype: torch.dtype, constants: dict[str, Any], **options: int) -> Any:
    """Compile for contiguous tensors: pointers and strides are divisible by 16, because D and Dv are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {"channels": CHANNELS, "value_channels": VALUE_CHANNELS} | constants
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}

    def type_of(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.startswith("S") or name in SIZES:
            return "i32"
        kept_in_float32 = name in IN_FLOAT32 or (name == "gradient" and "OWN_QUERIES" in constants)
        return "*fp32" if kept_in_float32 else POINTERS[dtype]

    signature = {name: type_of(name) for name in kernel.arg_names}
    divisible = [
        i
        for i, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or (name.startswith("S") and not name.startswith("SP"))
    ]
    attributes = {(i,): [["tt.divisibility", 16]] for i in divisible}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@functools.cache
def kernels_along_an_axis() -> dict[str, tuple[Any, dict[str, Any]]]:
    from ccnet3d.attention.backends import triton_kernels as kernels

    return {
        "forward": (kernels.forward_kernel, {}),
        "gradient of query": (kernels.score_gradient_kernel, {"OWN_QUERIES": True}),
        "gradient of key": (kernels.score_gradient_kernel, {"OWN_QUERIES": False}),
        "gradient of value": (kernels.value_gradient_kernel, {}),
    }


KERNELS = ["forward", "gradient of query", "gradient of key", "gradient of value"]
LENGTHS = [5, 60, 90]  # the paper's time, height and width in the backend's order; the last counts the position itself
PRECISIONS = {
    "bfloat16": (torch.bfloat16, "ieee"),
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
}


def compile_along_an_axis(kernel: str, length: int, capability: int, precision: str) -> Any:
    from ccnet3d.attention.backends.triton import Tiling

    dtype, input_precision = PRECISIONS[precision]
    function, own = kernels_along_an_axis()[kernel]
    constants = Tiling.of(dtype, length, CHANNELS, VALUE_CHANNELS).constants()
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants |= own | {"EXCLUDE_SELF": length != LENGTHS[-1], "MERGE": length != LENGTHS[0]}
    return compile_kernel(function, capability, dtype, constants | {"PRECISION": input_precision}, **options)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_kernels_compile_and_fit(capability: int, precision: str) -> None:
    from ccnet3d.attention.backends.triton_kernels import delta_kernel

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            (kernel, length): pool.submit(compile_along_an_axis, kernel, length, capability, precision)
            for kernel in KERNELS
            for length in LENGTHS
        }
        constants = {"ROWS": 32, "BLOCK_V": 128}
        jobs["delta", 0] = pool.submit(compile_kernel, delta_kernel, capability, PRECISIONS[precision][0], constants)
    compiled = {name: job.result() for name, job in jobs.items()}
    assert all(kernel.asm["cubin"] for kernel in compiled.values())
    shared = {name: kernel.metadata.shared for name, kernel in compiled.items()}
    assert {name: size for name, size in shared.items() if size > SHARED_MEMORY[capability]} == {}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tiles_stay_in_the_registers_of_an_h100(precision: str, kernel: str, length: int, tmp_path: Path) -> None:
    """A thread's stack, in bytes, contains what does not fit its registers; a few numbers are acceptable."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton comes without cuobjdump")
    path = tmp_path / "kernel.cubin"
    path.write_bytes(compile_along_an_axis(kernel, length, 90, precision).asm["cubin"])
    usage = subprocess.run([tool, "--dump-resource-usage", path], text=True, capture_output=True, check=True).stdout
    assert int(re.search(r"STACK:(\d+)", usage)[1]) <= 32
