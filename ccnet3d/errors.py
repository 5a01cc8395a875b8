"""Exceptions that commands report in a special way; see :func:`ccnet3d.cli.options.run_command`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = [
    "DivergedError",
    "FileProblemsError",
    "OutputError",
    "RunStoppedError",
    "UserError",
    "explain_device_errors",
    "explain_out_of_memory",
]

_MOST_LISTED = 10

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "can't start new thread",
    "could not create a primitive",
    "failed to map segment from shared object",
)
"""Parts of the messages of failed allocations, which PyTorch raises as RuntimeError and libraries as ImportError."""

_DEVICE_ERRORS = (
    "cuda error",
    "cudnn error",
    "cudnn_status",
    "cublas_status",
    "hip error",
    "for the mps device",
    "mps backend",
)
"""Parts of the messages of devices that fail, in lower case; PyTorch raises them as RuntimeError."""


class UserError(ValueError):
    """Invalid input: the message states the value received, what was expected, and the fix.

    Commands print it as one line and exit with code 2. Any other exception is a bug and keeps its traceback.
    """


class FileProblemsError(UserError):
    """Several invalid files, reported together; commands print every line of the message.

    Args:
        problems: one line per file, naming it; the first ten are listed and the rest counted.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        hidden = len(problems) - _MOST_LISTED
        lines = [*problems[:_MOST_LISTED], *([f"and {hidden} more"] if hidden > 0 else [])]
        what = f"{len(problems)} files are invalid; fix them or remove them"
        what = what if len(problems) > 1 else "a file is invalid; fix it or remove it"
        super().__init__("\n  ".join([f"{what} from the split:", *lines]))


class OutputError(OSError, UserError):
    """A file that cannot be written; ``filename`` is the output's own name, not that of a temporary file."""


class DivergedError(UserError, FloatingPointError):
    """A training loss that is no longer finite."""


class RunStoppedError(Exception):
    """A signal ended a run early; its checkpoint contains everything needed to resume.

    Args:
        signal_number: the signal.
        message: one line that says how far the run got.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        """As shells define it: 130 for SIGINT (Ctrl-C), 143 for SIGTERM."""


@contextmanager
def explain_out_of_memory(fix: str) -> Iterator[None]:
    """Raise a failed allocation in the block, on a CPU or a GPU, as a UserError; also usable as a decorator.

    Args:
        fix: what the user can change, such as ``use a smaller --batch``.

    Raises:
        UserError: memory ran out.

    >>> with explain_out_of_memory("use a smaller --batch"):
    ...     raise MemoryError("no room for 8 frames")
    Traceback (most recent call last):
        ...
    ccnet3d.errors.UserError: out of memory (no room for 8 frames); use a smaller --batch
    """
    try:
        yield
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        reason = ". ".join(str(error).split(". ")[:2])  # the rest of PyTorch's message is about its allocator
        raise UserError(f"out of memory ({reason or type(error).__name__}); {fix}") from error


@contextmanager
def explain_device_errors() -> Iterator[None]:
    r"""Raise the failure of a device in the block as a UserError of one line.

    Raises:
        UserError: the device failed.

    >>> with explain_device_errors():
    ...     raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")
    Traceback (most recent call last):
        ...
    ccnet3d.errors.UserError: the device failed (CUDA error: no kernel image is available); use another --device
    """
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error).lower() for text in _DEVICE_ERRORS):
            raise
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise UserError(f"the device failed ({reason}); use another --device") from error
