"""Options, exit codes and error output that the commands share."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ccnet3d import __version__
from ccnet3d.cli.memory import keep_freed_memory
from ccnet3d.cli.paths import model_name
from ccnet3d.cli.runtimes import add_runtime_options, choose_runtime
from ccnet3d.cli.streams import StoppedBySignal, open_streams, print_message, stop_on_signals
from ccnet3d.cli.views import add_size_options, keeps_aspect
from ccnet3d.errors import (
    FileProblemsError,
    OutputError,
    RunStoppedError,
    UserError,
    explain_device_errors,
    explain_out_of_memory,
)

if TYPE_CHECKING:
    import torch

    from ccnet3d.distributed import Processes
    from ccnet3d.inference import StreamingSegmenter

DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

MOST_THREADS = 1024


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


def thread_count(text: str) -> int:
    """Parse a number of threads; far more than there are CPUs would end the process."""
    if not (text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MOST_THREADS):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST_THREADS}, got {text!r}")
    return int(text)


def ids(text: str) -> list[int]:
    """Parse ids separated by commas."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected ids such as 11,255, got {text!r}")
    return [int(part) for part in text.split(",")]


def corruptions(text: str) -> list[str]:
    """Parse names of corruptions separated by commas, or ``all``."""
    if text == "all":
        from ccnet3d.data import CORRUPTIONS

        return [*CORRUPTIONS]
    return list(dict.fromkeys(text.split(",")))


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
    """Return an error in one line; for one from a DataLoader's worker, which contains a traceback, its last line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].partition(": ")[2] if lines[0].startswith("Caught ") else lines[0]


def print_user_error(name: str, error: UserError, *, debug: bool, source: str = "") -> None:
    """Print an error on stderr: one line, or every line of a FileProblemsError.

    Args:
        name: of the command.
        error: what the user can fix.
        debug: print the traceback first.
        source: the input at which it happened, where there are several.
    """
    if debug:
        traceback.print_exception(error)
    text = str(error) if isinstance(error, FileProblemsError) else error_line(error)
    print_message(f"{name}: error: {f'{source}: ' if source else ''}{text}")


def print_now(text: str) -> None:
    """Print a line on stdout without delay.

    Raises:
        BrokenPipeError: its reader is gone.
        OutputError: stdout is a file that cannot be written.
    """
    with _stdout_errors():
        print(text, flush=True)


@contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.errno, error.strerror, "standard output") from error


def run_command(name: str, command: Callable[[], None], interrupted: str = "", *, debug: bool = False) -> int:
    """Run a command and return its exit code.

    - 0: success.
    - 2: a UserError, printed as one line (every line of a FileProblemsError).
    - 130: Ctrl-C; 128 plus the signal's number: SIGTERM, SIGHUP, or a RunStoppedError.
    - 141: the reader of stdout is gone, as with ``| head``; nothing is printed.
    - 1: any other exception, which is a bug: its traceback, and how to report it.

    Args:
        name: of the command.
        command: what to run.
        interrupted: what to do after an interruption.
        debug: print the tracebacks of UserErrors too.
    """
    hint = f"; {interrupted}" if interrupted else ""
    open_streams()
    try:
        with (
            stop_on_signals(),
            explain_device_errors(),
            explain_out_of_memory("close other programs, or use smaller inputs"),
        ):
            command()
        with _stdout_errors():  # else Python would find them at exit
            sys.stdout.flush()
    except UserError as error:
        print_user_error(name, error, debug=debug)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at exit
        return 141
    except KeyboardInterrupt as stopped:
        print_message(f"{name}: interrupted{hint}")
        return stopped.exit_code if isinstance(stopped, StoppedBySignal) else 130
    except RunStoppedError as stopped:
        print_message(f"{name}: stopped: {stopped}{hint}")
        return stopped.exit_code
    except Exception:
        traceback.print_exc()
        print(
            f"{name}: this is a bug in ccnet3d {__version__}; please report it with the text above at the project's "
            "issue tracker",
            file=sys.stderr,
        )
        return 1
    return 0


def add_debug_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--debug``, whose value :func:`run_command` needs."""
    parser.add_argument("--debug", action="store_true", help="print the tracebacks of all errors")


@contextmanager
def training_processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes of ``torchrun``, and leave them at the end; when a signal stops the run, one says so.

    Args:
        device: where this process trains.
    """
    from ccnet3d.distributed import Processes

    processes = Processes.join(device)
    try:
        yield processes
    except RunStoppedError as stopped:
        if processes.is_main_process:
            raise
        raise SystemExit(stopped.exit_code) from stopped
    finally:
        processes.leave()


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for where and with how many threads the model runs."""
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, mps, ... or auto: cuda if it works, else mps (not for training), else cpu",
    )
    parser.add_argument("--threads", type=thread_count, help="CPU threads of the model")


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for which model runs, and how."""
    parser.add_argument(
        "--checkpoint",
        type=model_name,
        metavar="FILE",
        help="model file, the name of weights in the package, or hf://ORG/NAME; the default weights if not given",
    )
    add_size_options(parser)
    parser.add_argument("--clip-length", type=positive, metavar="T", help="frames per clip; the model's by default")
    parser.add_argument(
        "--clip-stride",
        type=positive,
        metavar="S",
        help="frames from the start of a clip to that of the next, 1 to T; T - 1 by default",
    )
    parser.add_argument(
        "--causal",
        action=argparse.BooleanOptionalAction,
        help="predict each frame from itself and those before it; the default for live sources only",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPE_NAMES),
        default="auto",
        help="precision of the network's products; auto is bf16 where the device has it natively, else fp32",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="frames per pass of the backbone on a GPU, 8 by default; always 1 on a CPU",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the network; needs a C++ compiler")
    add_runtime_options(parser)
    add_device_options(parser)


def _print_warning(text: str) -> None:
    print_message(f"warning: {text}")


def choose_device(arguments: argparse.Namespace, *, training: bool = False) -> str:
    """Return the device that the options name, and set the number of threads.

    Args:
        arguments: of the command.
        training: leave out MPS, on which training was never tried, unless it is named.

    Raises:
        UserError: torch has no such device here.
    """
    import torch

    from ccnet3d.inference import best_device, device_problem

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.device == "auto":
        return best_device(_print_warning, mps=not training)
    if problem := device_problem(arguments.device):
        raise UserError(f"the device {arguments.device!r} cannot be used here: {problem}; give cpu, or auto")
    return str(arguments.device)


@explain_out_of_memory("use another --device")
def load_segmenter(arguments: argparse.Namespace, smoothing: int = 0) -> StreamingSegmenter:
    """Return the model that the options describe.

    Raises:
        UserError: the checkpoint is not a model file, the options contradict each other, or not enough memory.
    """
    import torch

    from ccnet3d.inference import VideoSegmenter
    from ccnet3d.models import import_families_only, load_model

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    import_families_only()
    schedule: dict[str, Any] = {
        "clip_length": arguments.clip_length,
        "clip_stride": arguments.clip_stride,
        "causal": bool(arguments.causal),
        "smoothing": smoothing,
        "input_size": arguments.input_size,
        "keep_aspect": keeps_aspect(arguments),
        "dtype": None if arguments.dtype == "auto" else getattr(torch, DTYPE_NAMES[arguments.dtype]),
    }

    def load_torch() -> VideoSegmenter:
        model, info = load_model(arguments.checkpoint)
        return VideoSegmenter(
            model.to(choose_device(arguments)),
            info,
            **schedule,
            batch_size=arguments.batch,
            compile_model=arguments.compile,
            on_warning=_print_warning,
        )

    return choose_runtime(arguments, load_torch, schedule)
