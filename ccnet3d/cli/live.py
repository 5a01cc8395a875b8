"""Live sources of ``ccnet3d-infer``: all at the same time, each in a thread, until they end or Ctrl-C."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ccnet3d.cli.command_parser import refuse_unused
from ccnet3d.cli.infer_options import build_parser
from ccnet3d.cli.manifest import Outcome
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d import inference
    from ccnet3d.cli.infer_tasks import Segmenter, Work
    from ccnet3d.video import VideoReader

__all__ = ["check_live_jobs", "run_together", "segment_live"]

Job = TypeVar("Job")

_POLL_SECONDS = 0.2


class _Worker(threading.Thread, Generic[Job]):
    def __init__(self, job: Job, work: Callable[[Job], None]) -> None:
        super().__init__(name="ccnet3d-live", daemon=True)
        self.job, self._work = job, work
        self.error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._work(self.job)
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()


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


def _wait(workers: Sequence[_Worker[Any]]) -> None:
    for worker in workers:
        while not worker.done.wait(_POLL_SECONDS):  # an interrupted join() would consider the thread ended
            pass


def check_live_jobs(jobs: Sequence[inference.Job], arguments: argparse.Namespace) -> None:
    """Check what does not go with URLs and cameras.

    Raises:
        UserError: an output folder by URL, Ray, or pieces; or options for live sources, and there are none.
    """
    if not jobs:
        why = "is for URLs and cameras, and there is none; leave it out"
        refuse_unused(build_parser(), arguments, ("timeout", "reconnect"), why)
    if jobs and arguments.piece_frames:
        raise UserError(f"{jobs[0].name} is read as it comes, not in pieces; leave --piece-frames out")
    if jobs and jobs[0].prefix:
        raise UserError(f"{jobs[0].name} is read as it comes and needs a local output folder, got {arguments.output}")
    if jobs and arguments.engine == "ray":
        raise UserError(f"{jobs[0].name} is read as it comes, which --engine ray does not do; leave the option out")


def segment_live(jobs: Sequence[inference.Job], work: Work, segmenter: Segmenter) -> Iterator[Outcome]:
    """Segment URLs and cameras at the same time, until Ctrl-C at the latest; a bug of one is raised at the end."""
    readers: list[VideoReader] = []
    stopped = threading.Event()
    summaries: dict[str, dict[str, Any]] = {}

    def on_open(reader: VideoReader) -> None:
        readers.append(reader)
        if stopped.is_set():
            reader.stop()

    def segment(job: inference.Job) -> None:
        summaries[str(job.folder)] = work.segment(job, segmenter, work.options, work.arguments, on_open=on_open)

    def stop() -> None:
        stopped.set()
        for reader in readers:
            reader.stop()

    begun = time.monotonic()
    errors = {str(job.folder): error for job, error in run_together(jobs, segment, stop)}
    seconds = time.monotonic() - begun
    for job in jobs:
        error = errors.get(str(job.folder))
        if error is None:
            yield Outcome.done(job, seconds, summaries[str(job.folder)]["frames"], skipped=False)
        elif isinstance(error, UserError):
            yield Outcome.failed(job, seconds, error)
        else:
            raise error
