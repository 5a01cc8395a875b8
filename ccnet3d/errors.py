"""Errors that commands tell in a way of their own."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 10


class FileProblemsError(ValueError):
    """Files are at fault: a line for each in one message, which commands print whole.

    Args:
        problems: what is wrong, each naming its file; the first ten are shown and the others counted.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        hidden = len(problems) - SHOWN
        lines = [*problems[:SHOWN], *([f"and {hidden} more"] if hidden > 0 else [])]
        count = f"{len(problems)} files are" if len(problems) > 1 else "a file is"
        super().__init__("\n  ".join([f"{count} at fault; mend them or take them out of the split:", *lines]))


class RunStoppedError(Exception):
    """A signal ended a run early, with all it needs to go on in its checkpoint.

    Args:
        signal_number: what stopped it.
        message: in one line, how far it had come.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        """As shells have it: 130 for SIGINT (Ctrl-C), 143 for SIGTERM."""
