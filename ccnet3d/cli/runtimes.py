"""The option for what runs the network: PyTorch, or a runtime for an exported model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ccnet3d.cli.streams import print_message
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.inference import StreamingSegmenter

__all__ = ["add_runtime_options", "choose_runtime"]


def add_runtime_options(parser: argparse._ActionsContainer) -> None:
    """Add the option for what runs the network."""
    parser.add_argument(
        "--runtime",
        choices=("auto", "torch", "onnxruntime", "openvino"),
        help="what runs the model: torch for model files; onnxruntime or openvino for a folder of ccnet3d-export; auto "
        "measures those that are installed and takes the fastest (default: torch, or what the folder is made for)",
    )


def choose_runtime(
    arguments: argparse.Namespace, load_torch: Callable[[], StreamingSegmenter], schedule: dict[str, Any]
) -> StreamingSegmenter:
    """Return the segmenter of the runtime that the options name.

    Args:
        arguments: of the command.
        load_torch: makes the segmenter in PyTorch.
        schedule: options of the segmenter that every runtime has, and its dtype.

    Raises:
        UserError: the runtime is missing, or does not run this model.
    """
    from ccnet3d.inference import ExportedModel, ExportedSegmenter, fastest_runtime, is_exported

    name = arguments.runtime
    if name == "torch" or (name in (None, "auto") and not is_exported(arguments.checkpoint)):
        if name == "auto":
            print_message("runtime: torch, as this is a model file; ccnet3d-export makes what others run")
        return load_torch()
    if not is_exported(arguments.checkpoint):
        raise UserError(
            f"--runtime {name} runs exported models; give ccnet3d-export MODEL -o FOLDER, then --checkpoint FOLDER"
        )
    exported = ExportedModel(arguments.checkpoint)
    if name is None:
        name = {"onnx": "onnxruntime"}.get(exported.info.target, exported.info.target)
    if name == "torch":
        return load_torch()
    _check_options(arguments)
    if name != "auto":
        return ExportedSegmenter(exported, name, **schedule)
    makers: dict[str, Callable[[], StreamingSegmenter]] = {
        runtime: partial(ExportedSegmenter, exported, runtime, **schedule) for runtime in exported.runtimes()
    }
    if exported.info.precision != "int8":  # else PyTorch would give other masks, and not only rounding
        makers["torch"] = load_torch
    fastest, seconds = fastest_runtime(makers)
    measured = ", ".join(f"{runtime} {1000 * value:.0f} ms" for runtime, value in seconds.items())
    print_message(
        f"runtime: {next(iter(seconds))} in {fastest.settings()['dtype']}, the fastest here (per frame: {measured})"
    )
    return fastest


def _check_options(arguments: argparse.Namespace) -> None:
    """Check the options that exported models do not have.

    Raises:
        UserError: one of them is given.
    """
    if arguments.compile:
        raise UserError("--compile is for PyTorch; leave it out, or give --runtime torch")
    if arguments.device not in ("auto", "cpu"):
        raise UserError(f"exported models run on the CPU, got --device {arguments.device}; give --runtime torch")
    if arguments.runtime == "auto" and getattr(arguments, "engine", "plain") == "ray":
        raise UserError("--engine ray needs one runtime for all its processes; name it with --runtime")
