"""The processes of ``--engine ray``: the actors that segment, and the one that collects their lines and progress."""

from __future__ import annotations

import io
import os
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

from ccnet3d.cli.infer_tasks import Task, Work, is_complete, perform
from ccnet3d.cli.options import error_line
from ccnet3d.errors import UserError

__all__ = ["Reports", "Segmenting"]

_REPORT_SECONDS = 0.3


class Reports:
    """Lines that actors print, and frames that they finish, until the command takes them."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str]] = []
        self._frames = 0

    def add(self, lines: list[tuple[str, str]], frames: int) -> None:
        """Add lines, each after the name of its stream, and a number of frames."""
        self._lines += lines
        self._frames += frames

    def take(self) -> tuple[list[tuple[str, str]], int]:
        """Return what was added since the last call."""
        taken = self._lines, self._frames
        self._lines, self._frames = [], 0
        return taken


class Segmenting:
    """An actor with a model that does one task at a time.

    Args:
        work: what the videos of the command share.
        reports: the actor of :class:`Reports`.
        folder: the working folder of the command, for relative paths.
    """

    def __init__(self, work: Work, reports: Any, folder: str) -> None:
        self._work, self._reports = work, reports
        self._segmenter: Any = None
        self._lines: list[tuple[str, str]] = []
        self._frames = 0
        self._reported = time.monotonic()
        with suppress(OSError):  # paths of a machine without this folder must be absolute
            os.chdir(folder)

    def load(self) -> str:
        """Load the model; return the error of an invalid option or file, an empty text without one."""
        try:
            self._segmenter = self._work.load(self._work.arguments)
        except UserError as error:
            return error_line(error)
        return ""

    def perform(self, task: Task) -> dict[str, Any]:
        """Do a task, and return what the command needs to know of its result, or its ``error``."""
        with redirect_stdout(_Lines(self, "stdout")), redirect_stderr(_Lines(self, "stderr")):
            try:
                result = self._perform(task)
            except UserError as error:
                if self._work.arguments.debug:
                    traceback.print_exc()
                result = {"error": error_line(error)}
            except Exception as error:  # a bug; the other videos are segmented nevertheless
                traceback.print_exc()
                result = {"error": f"this is a bug in ccnet3d ({type(error).__name__}); please report the text above"}
        import ray

        ray.get(self._report())  # before the result, so that the command prints the lines first
        return result

    def _perform(self, task: Task) -> dict[str, Any]:
        skipped = is_complete(task, self._work)
        found = perform(task, self._work, self._segmenter, self._count)
        if task.step == "split":
            return {"pieces": found}
        assert isinstance(found, dict)
        return {"frames": found["frames"], "skipped": skipped}

    def _count(self) -> None:
        self._frames += 1
        self.report_sometimes()

    def add_line(self, stream: str, line: str) -> None:
        self._lines.append((stream, line))
        self.report_sometimes()

    def report_sometimes(self) -> None:
        if time.monotonic() - self._reported >= _REPORT_SECONDS:
            self._report()

    def _report(self) -> Any:
        call = self._reports.add.remote(self._lines, self._frames)
        self._lines, self._frames, self._reported = [], 0, time.monotonic()
        return call


class _Lines(io.TextIOBase):
    """A stream of text whose lines go to the command."""

    def __init__(self, actor: Segmenting, name: str) -> None:
        self._actor, self._name, self._rest = actor, name, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._actor.add_line(self._name, line)
        return len(text)
