"""Live sources of ``ccnet3d-infer``: all at the same time, each in a thread, until they end or Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["run_together"]

Job = TypeVar("Job")

_POLL_SECONDS = 0.2


class _Worker(threading.Thread, Generic[Job]):
    def __init__(self, job: Job, work: Callable[[Job], None]) -> None:
        super().__init__(name="ccnet3d-live", daemon=True)
        self.job, self._work = job, work
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work(self.job)
        except BaseException as error:
            self.error = error


def run_together(
    jobs: Sequence[Job], work: Callable[[Job], None], stop: Callable[[], None]
) -> list[tuple[Job, BaseException]]:
    """Work on all jobs at the same time; return those that failed, with their errors.

    Args:
        jobs: one thread each.
        work: called with a job.
        stop: called at the first Ctrl-C, or signal to stop; must let all jobs end soon. A second one is raised.

    >>> done = []
    >>> run_together(["left", "right"], done.append, stop=lambda: None), sorted(done)
    ([], ['left', 'right'])
    """
    workers = [_Worker(job, work) for job in jobs]
    for worker in workers:
        worker.start()
    try:
        _wait(workers)
    except KeyboardInterrupt:  # SIGTERM too
        stop()
        _wait(workers)
    return [(worker.job, worker.error) for worker in workers if worker.error is not None]


def _wait(workers: Sequence[threading.Thread]) -> None:
    for worker in workers:
        while worker.is_alive():
            worker.join(_POLL_SECONDS)
