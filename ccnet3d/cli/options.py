"""Options that the commands share, and what they make of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccnet3d.inference import VideoSegmenter


def input_size(text: str) -> tuple[int, int]:
    """Parse ``HEIGHTxWIDTH``."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, such as 360x480, got {text!r}")
    return int(height), int(width)


def positive(text: str) -> int:
    """Parse a count of at least 1."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def first_line(error: BaseException) -> str:
    """An error in one line; of one from a DataLoader's worker, which holds a traceback, what the worker said."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].partition(": ")[2] if lines[0].startswith("Caught ") else lines[0]


def run_command(name: str, command: Callable[[], None]) -> int:
    """Run a command: exit code 0, or 2 with one line on stderr where what it was given is at fault."""
    try:
        command()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"{name}: error: {first_line(error)}", file=sys.stderr)
        return 2
    return 0


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Where and with how many threads the model runs."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... or auto")
    parser.add_argument("--threads", type=positive, help="CPU threads of the model")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is run."""
    parser.add_argument("--checkpoint", type=Path, help="model file; the weights in the package by default")
    parser.add_argument("--input-size", type=input_size, metavar="HxW", help="working size; the model's own by default")
    parser.add_argument("--clip-length", type=positive, metavar="T", help="frames of a clip; the model's by default")
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="auto is bf16 where the device has it natively",
    )
    add_device_options(parser)


def choose_device(arguments: argparse.Namespace) -> str:
    """The device that the options name, with the threads set.

    Raises:
        ValueError: torch has no such device here.
    """
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise ValueError(f"the device {arguments.device!r} cannot be used here: {first_line(error)}") from error
    return str(arguments.device)


def load_segmenter(arguments: argparse.Namespace) -> VideoSegmenter:
    """The model that the options describe.

    Raises:
        ValueError: the checkpoint is no model file.
    """
    import torch

    from ccnet3d.inference import VideoSegmenter
    from ccnet3d.models import load_model

    model, info = load_model(arguments.checkpoint)
    return VideoSegmenter(
        model.to(choose_device(arguments)),
        info,
        clip_length=arguments.clip_length,
        input_size=arguments.input_size,
        precision={"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision],
    )
