"""Runtimes for exported models: ONNX Runtime and OpenVINO, on a CPU."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from ccnet3d.errors import UserError

__all__ = ["RUNTIMES", "Graph", "installed_runtimes", "open_graph"]

Arrays = Mapping[str, np.ndarray]


class Graph(Protocol):
    """A part of an exported model, ready to run, in any thread."""

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the inputs."""

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Return the outputs by name."""


class _OnnxRuntimeGraph:
    def __init__(self, graph: bytes, weights: bytes | None, *, bfloat16: bool, threads: int, streams: int) -> None:
        import onnxruntime

        if weights is not None:
            raise UserError("ONNX Runtime does not read OpenVINO's format; give --runtime openvino")
        if bfloat16:
            raise UserError("ONNX Runtime has no bf16 on CPUs; give --dtype fp32, or --runtime openvino")
        options = onnxruntime.SessionOptions()
        # A call computes in its own thread, too; the others belong to the session, for all calls together.
        options.intra_op_num_threads = threads - streams + 1
        options.add_session_config_entry("session.load_model_format", "ONNX")  # not its own, which it detects too
        options.log_severity_level = 4  # errors are raised too
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs: Sequence[str] = [item.name for item in self._session.get_inputs()]
        self._outputs = [item.name for item in self._session.get_outputs()]

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        feed = {name: arrays[name] for name in self.inputs}
        return dict(zip(self._outputs, self._session.run(None, feed), strict=True))


@functools.cache
def _openvino_core() -> Any:
    """Return the only Core of the process, which is never freed.

    Each Core gives its thread a stack for signals, and one that is freed gives it that of the Core before, which may be
    gone: Ctrl-C would then be a segmentation fault.
    """
    import openvino

    return openvino.Core()


class _OpenVinoGraph:
    def __init__(self, graph: bytes, weights: bytes | None, *, bfloat16: bool, threads: int, streams: int) -> None:
        import openvino

        core = _openvino_core()
        model = core.read_model(graph, weights or b"")
        precision = openvino.Type.bf16 if bfloat16 else openvino.Type.f32  # its default would be bf16 where it is fast
        properties = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # frames, clips and masks share the cores
        }
        compiled = core.compile_model(model, "CPU", properties)
        self.inputs: Sequence[str] = [port.get_any_name() for port in compiled.inputs]
        self._outputs = [port.get_names() for port in compiled.outputs]  # a tensor may have several
        self._requests: SimpleQueue[Any] = SimpleQueue()  # each is for one thread at a time
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        request = self._requests.get()
        try:
            results = request.infer({name: arrays[name] for name in self.inputs}, share_inputs=True)
            copies = [np.array(results[index]) for index in range(len(self._outputs))]
        finally:
            self._requests.put(request)
        return {name: copy for names, copy in zip(self._outputs, copies, strict=True) for name in names}


RUNTIMES: dict[str, Callable[..., Graph]] = {"onnxruntime": _OnnxRuntimeGraph, "openvino": _OpenVinoGraph}
"""Runtimes by the name of their package."""

_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}


def installed_runtimes() -> list[str]:
    """Return the runtimes that can be imported here."""
    return [name for name in RUNTIMES if importlib.util.find_spec(name)]


def open_graph(
    runtime: str,
    graph: bytes,
    weights: bytes | None = None,
    *,
    bfloat16: bool = False,
    threads: int = 1,
    streams: int = 1,
) -> Graph:
    """Prepare a graph to run.

    Args:
        runtime: a key of :data:`RUNTIMES`.
        graph: an ONNX file, or OpenVINO's XML.
        weights: OpenVINO's second file.
        bfloat16: compute products in bfloat16.
        threads: of the CPU.
        streams: calls that run at the same time and share the threads.

    Raises:
        UserError: the runtime is not installed, or cannot read the graph.
    """
    if runtime not in installed_runtimes():
        raise UserError(f"{runtime} is not installed; pip install 'ccnet3d[{_EXTRAS[runtime]}]'")
    if names_other_files(graph):
        raise UserError(
            "the exported model names other files (external data of ONNX), which could be any of this machine; export "
            "it again with ccnet3d-export, which stores all weights in the ONNX file"
        )
    options = {"bfloat16": bfloat16, "threads": threads, "streams": streams}
    return explained(lambda: RUNTIMES[runtime](graph, weights, **options), runtime, "read")


def names_other_files(graph: bytes) -> bool:
    """Return whether a tensor of an ONNX file lies in another file, or at an address in memory.

    Such a tensor has an entry with the key ``location``: a string of 8 bytes, whose length precedes it as a varint,
    which ends in 8, or in 0 if it is longer than need be. All bytes are searched, so that no place of a tensor in the
    graph is overlooked.

    >>> names_other_files(b"...location..."), names_other_files(bytes([0x0A, 8]) + b"location")
    (False, True)
    """
    return any(end + b"location" in graph for end in (b"\x08", b"\x00"))


def explained(compute: Callable[[], Any], runtime: str, action: str) -> Any:
    """Return the result of a call into a runtime, whose errors have classes of many kinds.

    Raises:
        UserError: it failed.
    """
    try:
        return compute()
    except (UserError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{runtime} cannot {action} the exported model ({lines[0][:300]}); export it again") from error
