"""One evaluation by several processes that torchrun started: each evaluates some segments, counts are gathered.

Every score is computed from the gathered counts, which are sorted by segment, so results do not depend on the number of
processes, to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist

from ccnet3d.distributed import Processes
from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluation import Evaluation

__all__ = ["gather", "join", "processes", "split_segments"]


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is one.

    The counts are small and on the CPU, so gloo gathers them even if the model is on a GPU. Each process uses the GPU
    of its local rank.
    """
    joined = Processes.join(torch.device("cpu"))
    if joined.world_size > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        yield joined
    finally:
        joined.leave()


def split_segments(segments: Sequence[range], count: int) -> list[list[int]]:
    """Return the indices of each process's segments: the longest first, each to the process with the fewest frames.

    Example:
        >>> split_segments([range(0, 3), range(3, 13), range(13, 17)], 2)
        [[1], [0, 2]]
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    frames = [0] * count
    for number in sorted(range(len(segments)), key=lambda n: -len(segments[n])):
        rank = frames.index(min(frames))
        shares[rank].append(number)
        frames[rank] += len(segments[number])
    return [sorted(share) for share in shares]


class _Failure(NamedTuple):
    """An exception in one process."""

    message: str
    is_bug: bool


def gather(evaluate_share: Callable[[], Evaluation]) -> Evaluation:
    """Evaluate this process's segments and return the evaluation of all processes' segments in each of them.

    An error in one process ends all of them. It is reported once: a process raises SystemExit where another one raises
    the error.

    Raises:
        UserError: in the first process, the first process's that has one.
        Exception: any other exception, in the process in which it occurred.
    """
    if not dist.is_initialized():
        return evaluate_share()
    outcome: Evaluation | _Failure
    bug: Exception | None = None
    try:
        outcome = evaluate_share()
    except UserError as error:
        outcome = _Failure(str(error), is_bug=False)
    except Exception as error:  # raised again below, when the others know
        outcome, bug = _Failure(str(error), is_bug=True), error
    outcomes: list[Evaluation | _Failure] = [outcome] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome)
    failures = [other for other in outcomes if isinstance(other, _Failure)]
    if bug is not None:
        raise bug
    if any(failure.is_bug for failure in failures):
        raise SystemExit(1)
    if failures:
        raise SystemExit(2) if dist.get_rank() else UserError(failures[0].message)
    return join([other for other in outcomes if isinstance(other, Evaluation)])


def join(parts: Sequence[Evaluation]) -> Evaluation:
    """Return one evaluation of the frames of all parts, sorted by segment.

    Raises:
        ValueError: no part, or parts with other classes or other counts.
    """
    if not parts:
        raise ValueError("no evaluation to join")
    first = parts[0]
    if any((part.class_names, part.counts.keys()) != (first.class_names, first.counts.keys()) for part in parts):
        raise ValueError("the evaluations to join must have the same classes and the same counts")
    frames = [frame for part in parts for frame in part.frames]
    order = sorted(range(len(frames)), key=lambda i: frames[i].segment)
    counts = {name: torch.cat([part.counts[name] for part in parts])[order] for name in first.counts}
    return Evaluation(first.class_names, tuple(frames[i] for i in order), counts, first.settings)
