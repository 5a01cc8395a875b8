"""``--engine ray``: the videos of a command in processes of Ray (actors), each with its own model.

These are plain actors and not a Ray Data pipeline. Ray Data tries the block of an actor that died again without end,
so a video that always exhausts the memory would occupy its actors forever, and blocks with errors that it may skip are
dropped without a name. Here, each video has a number of tries and ends with a row in the manifest, and the pieces of a
video are joined when the last of them is done.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from ccnet3d.cli.actor_sizes import ActorSizes, size_actors
from ccnet3d.cli.infer_options import PROGRAM, RETRIES
from ccnet3d.cli.infer_tasks import Task, Work
from ccnet3d.cli.manifest import Outcome
from ccnet3d.cli.options import error_line
from ccnet3d.cli.ray_actors import Reports, Segmenting
from ccnet3d.cli.ray_progress import Progress
from ccnet3d.cli.streams import print_message
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.inference import Job, Piece

__all__ = ["segment_with_ray"]

_POLL_SECONDS = 0.3
_OBJECT_STORE_BYTES = 100 << 20
"""Only names and lines of text pass between the processes."""


def segment_with_ray(jobs: Sequence[Job], work: Work) -> Iterator[Outcome]:
    """Yield the outcome of each video as it ends, after all tries.

    Raises:
        UserError: Ray is not installed or cannot be started, or the model cannot be loaded.
    """
    from ccnet3d.inference import STDIN

    if any(job.source == STDIN for job in jobs):
        raise UserError("Ray's processes cannot read standard input; give a file, or --engine plain")
    if not jobs:
        return
    with _cluster() as ray, redirect_stdout(_OneThread(sys.stdout, debug=work.arguments.debug)):
        resources = ray.cluster_resources()
        sizes = size_actors(work.arguments, resources.get("CPU", 1), resources.get("GPU", 0))
        arguments = argparse.Namespace(**{**vars(work.arguments), "threads": sizes.threads, "device": sizes.device})
        yield from _Pool(ray, replace(work, arguments=arguments), sizes, jobs).run()


@contextmanager
def _cluster() -> Iterator[Any]:
    """Connect to the Ray cluster of this machine, or the one that RAY_ADDRESS names; without one, start Ray here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs ray; run: pip install 'ccnet3d[ray]'") from error
    # Ray lets its processes yield to all others of the machine, and so the command would be slower than without it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if ray.is_initialized():  # by the program that calls this
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "")
    with _own_signals():
        try:
            if address != "local":
                ray.init(address=address or "auto", **quiet)
        except ConnectionError as error:
            if address:
                raise UserError(f"there is no Ray cluster at RAY_ADDRESS={address}; correct or unset it") from error
        try:
            if not ray.is_initialized():
                ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"Ray cannot be started here: {error_line(error)}") from error
    try:
        yield ray
    finally:
        with _own_signals():
            ray.shutdown()


class _OneThread(io.TextIOBase):
    """Standard output without what Ray's own threads print there, such as a paragraph for each actor that died.

    Args:
        stream: for what this thread prints.
        debug: print the lines of other threads on stderr.
    """

    def __init__(self, stream: TextIO, *, debug: bool) -> None:
        self._stream, self._thread, self._debug = stream, threading.get_ident(), debug

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return self._stream.write(text)
        return sys.stderr.write(text) if self._debug else len(text)

    def flush(self) -> None:
        if threading.get_ident() == self._thread:
            self._stream.flush()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler for SIGTERM, which Ray replaces by one that ends the process without a message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@dataclass
class _Running:
    """A call of an actor that has not returned."""

    actor: Any
    task: Task | None
    """None while the actor loads its model."""


class _Pool:
    """Hand tasks to actors, replace those that die, and try their tasks again.

    Args:
        ray: the package.
        work: what the actors do; its arguments are those of an actor.
        sizes: how many actors there are, and what each of them has.
        jobs: the videos.
    """

    def __init__(self, ray: Any, work: Work, sizes: ActorSizes, jobs: Sequence[Job]) -> None:
        self._ray, self._work, self._sizes, self._jobs = ray, work, sizes, jobs
        self._retries: int = RETRIES if work.arguments.retries is None else work.arguments.retries
        step = "split" if work.arguments.piece_frames else "whole"
        self._waiting: deque[Task] = deque(Task(job, step) for job in jobs)
        self._running: dict[Any, _Running] = {}
        self._idle: list[Any] = []
        self._begun: dict[Job, float] = {}
        self._ended: set[Job] = set()
        self._pieces: dict[Job, tuple[Piece, ...]] = {}
        self._pieces_left: dict[Job, set[Piece]] = {}
        self._deaths_at_start = 0
        # The driver's node has the reports; a process that only passes on lines needs no CPU of its own.
        self._reports = ray.remote(Reports).options(num_cpus=0, max_restarts=-1).remote()
        self._actor_class = ray.remote(Segmenting)

    def run(self) -> Iterator[Outcome]:
        with Progress(len(self._jobs), self._work.arguments) as progress:
            try:
                while self._waiting or any(running.task for running in self._running.values()):
                    self._assign()
                    done, _ = self._ray.wait([*self._running], num_returns=1, timeout=_POLL_SECONDS)
                    for reference in done:
                        outcome = self._finish(reference)
                        progress.show(*self._take_reports())
                        if outcome is not None:
                            self._ended.add(outcome[0])
                            progress.video_ended()
                            yield outcome[1]
                    if not done:
                        progress.show(*self._take_reports())
            finally:
                for actor in [*self._idle, *(running.actor for running in self._running.values()), self._reports]:
                    self._ray.kill(actor)

    def _take_reports(self) -> tuple[list[tuple[str, str]], int]:
        try:
            found: tuple[list[tuple[str, str]], int] = self._ray.get(self._reports.take.remote(), timeout=10)
        except self._ray.exceptions.RayError:  # it is restarted
            return [], 0
        return found

    def _assign(self) -> None:
        while self._idle and self._waiting:
            task, actor = self._waiting.popleft(), self._idle.pop()
            self._begun.setdefault(task.job, time.monotonic())
            self._running[actor.perform.remote(task)] = _Running(actor, task)
        loading = sum(running.task is None for running in self._running.values())
        for _ in range(min(self._sizes.actors - len(self._running) - len(self._idle), len(self._waiting) - loading)):
            options = {"num_cpus": self._sizes.cpus, "num_gpus": self._sizes.gpus, "max_restarts": 0}
            actor = self._actor_class.options(**options).remote(self._work, self._reports, os.getcwd())  # noqa: PTH109
            self._running[actor.load.remote()] = _Running(actor, None)

    def _finish(self, reference: Any) -> tuple[Job, Outcome] | None:
        """Note the end of a call; return the outcome of a video that ended with it."""
        running = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            result = self._ray.get(reference)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            with suppress(errors.RayError):
                self._ray.kill(running.actor)
            return self._died(running.task)
        self._idle.append(running.actor)
        if running.task is None:
            if result:
                raise UserError(result)
            return None
        return self._returned(running.task, result)

    def _died(self, task: Task | None) -> tuple[Job, Outcome] | None:
        hint = "it was killed, or its machine is gone or out of memory"
        if task is None:
            self._deaths_at_start += 1
            if self._deaths_at_start > self._retries:
                raise UserError(f"an actor died while it loaded the model ({hint}); give fewer --actors")
            return None
        if task.job in self._ended:
            return None
        task = replace(task, tries=task.tries + 1)
        if task.tries <= self._retries:
            again = f"its actor died ({hint}); it is tried again, {task.tries} of {self._retries}"
            print_message(f"{PROGRAM}: warning: {task.job.name}: {again}")
            self._waiting.appendleft(task)
            return None
        tries = "1 try" if task.tries == 1 else f"{task.tries} tries"
        return self._fail(
            task.job, f"its actor died in {tries} ({hint}); give fewer --actors, or a smaller --input-size"
        )

    def _fail(self, job: Job, error: str) -> tuple[Job, Outcome]:
        self._waiting = deque(task for task in self._waiting if task.job != job)  # its other pieces
        return job, Outcome.failed(job, time.monotonic() - self._begun[job], error)

    def _returned(self, task: Task, result: dict[str, Any]) -> tuple[Job, Outcome] | None:
        job = task.job
        if job in self._ended:  # another piece has failed
            return None
        if "error" in result:
            return self._fail(job, result["error"])
        if task.step == "split" and result["pieces"]:
            self._pieces[job], self._pieces_left[job] = result["pieces"], set(result["pieces"])
            self._waiting.extendleft(Task(job, "piece", (piece,)) for piece in reversed(result["pieces"]))
        elif task.step == "split":
            self._waiting.appendleft(Task(job))
        elif task.step == "piece":
            self._pieces_left[job].remove(task.pieces[0])
            if not self._pieces_left[job]:
                self._waiting.appendleft(Task(job, "join", self._pieces[job]))
        else:
            seconds = time.monotonic() - self._begun[job]
            return job, Outcome.done(job, seconds, result["frames"], skipped=result["skipped"])
        return None
