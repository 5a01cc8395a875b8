"""The model of a server, its thread, the active jobs, and the results that are kept for download."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from ccnet3d.errors import UserError
from ccnet3d.inference import StreamingSegmenter
from ccnet3d.serving.jobs import Job, JobOptions, ServerLimits

__all__ = ["KEPT_RESULTS", "BusyError", "Service"]

KEPT_RESULTS = 4
"""Jobs whose files can be downloaded after their last line of JSON."""


class BusyError(UserError):
    """Too many requests are waiting."""


class Service:
    """The model, its thread, the jobs and the results that are kept for download."""

    def __init__(
        self, segmenter: StreamingSegmenter, limits: ServerLimits, smoothing_for: Callable[[float | None], int]
    ) -> None:
        self.segmenter, self.limits, self.smoothing_for = segmenter, limits, smoothing_for
        self._thread = ThreadPoolExecutor(1, "ccnet3d-model")
        self._active: set[Job] = set()
        self._kept: OrderedDict[str, Job] = OrderedDict()

    @asynccontextmanager
    async def job(self) -> AsyncIterator[Job]:
        """Yield a job; what it made is gone when the block ends, unless it is kept.

        Raises:
            BusyError: too many are active.
        """
        if len(self._active) > self.limits.max_waiting:
            raise BusyError("the server is busy; try again later")
        job = Job(self.limits)
        self._active.add(job)
        try:
            yield job
        finally:
            self._active.discard(job)
            if job not in self._kept.values():
                job.remove()

    @asynccontextmanager
    async def working(
        self, job: Job, options: JobOptions, causal: bool | None, input_size: tuple[int, int] | None
    ) -> AsyncIterator[None]:
        """Run the work of a job in the model's thread; it has ended when the block has."""
        work = self._thread.submit(job.work, lambda: self._variant(causal, input_size), self.smoothing_for, options)
        try:
            yield
        finally:
            job.stop()
            if not work.cancel():  # it runs already
                await asyncio.shield(asyncio.wrap_future(work))

    def _variant(self, causal: bool | None, input_size: tuple[int, int] | None) -> StreamingSegmenter:
        variant = self.segmenter if causal is None else self.segmenter.with_causal(causal)
        return variant if input_size is None else variant.with_input_size(input_size)

    def keep(self, job: Job) -> str:
        """Keep the files of a job until others follow; return their secret name."""
        token = secrets.token_hex(16)
        self._kept[token] = job
        while len(self._kept) > KEPT_RESULTS:
            self._kept.popitem(last=False)[1].remove()
        return token

    def kept_file(self, token: str, name: str) -> Path | None:
        job = self._kept.get(token)
        path = job.file(name) if job else None
        return path if path and path.is_file() else None

    def end_jobs(self) -> None:
        """Let all active jobs fail soon; safe in signal handlers."""
        for job in list(self._active):
            job.end()

    def close(self) -> None:
        self._thread.shutdown()
        for job in self._kept.values():
            job.remove()
