"""Errors with special command-line output; see :func:`ccnet3d.cli.options.run_command`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DivergedError", "FileProblemsError", "OutputError", "RunStoppedError", "UserError"]

_MOST_LISTED = 10


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
        count = f"{len(problems)} files are" if len(problems) > 1 else "a file is"
        super().__init__("\n  ".join([f"{count} invalid; fix them or remove them from the split:", *lines]))


class OutputError(OSError, UserError):
    """A file that cannot be written; ``filename`` is the output's own name, not that of a temporary file."""


class DivergedError(UserError, FloatingPointError):
    """A training loss that is no longer finite."""


class RunStoppedError(Exception):
    """A signal ended a run early; its checkpoint holds all that is needed to resume.

    Args:
        signal_number: the signal.
        message: one line that says how far the run had come.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        """As shells define it: 130 for SIGINT (Ctrl-C), 143 for SIGTERM."""
