"""Errors that concern many files at once."""

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
