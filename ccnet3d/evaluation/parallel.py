"""One evaluation by many processes, as torchrun starts them: segments are shared out, counts of frames are gathered.

Every score is computed from the gathered counts, which stand in the order of the segments whoever counted them, so that
results do not depend on the number of processes, to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from ccnet3d.distributed import Processes
from ccnet3d.errors import UserError
from ccnet3d.evaluation.evaluation import Evaluation


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is one.

    The counts are on the CPU and few, so gloo carries them whatever device the model is on; each process takes the GPU
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
    """Numbers of the segments for each of ``count`` processes: the longest first, to whom has the fewest frames."""
    shares: list[list[int]] = [[] for _ in range(count)]
    frames = [0] * count
    for number in sorted(range(len(segments)), key=lambda n: -len(segments[n])):
        rank = frames.index(min(frames))
        shares[rank].append(number)
        frames[rank] += len(segments[number])
    return [sorted(share) for share in shares]


def gather(evaluate_share: Callable[[], Evaluation]) -> Evaluation:
    """Evaluate this process's segments; gives the evaluation of all processes' segments to each of them.

    Raises:
        ValueError: what went wrong in the first process in which something did; the others, so that it is told once,
            raise SystemExit.
    """
    if not dist.is_initialized():
        return evaluate_share()
    outcome: Evaluation | str
    try:
        outcome = evaluate_share()
    except (ValueError, OSError, RuntimeError) as error:
        outcome = str(error)
    outcomes: list[Evaluation | str] = [""] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome)
    if errors := [other for other in outcomes if isinstance(other, str)]:
        if dist.get_rank():
            raise SystemExit(2)
        raise UserError(errors[0])
    return join([other for other in outcomes if isinstance(other, Evaluation)])


def join(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of the frames of several, by segment, whatever the order of the parts.

    Raises:
        ValueError: no part, or parts that hold other classes or other counts.
    """
    if not parts:
        raise UserError("there is no evaluation to join")
    first = parts[0]

    def has(part: Evaluation) -> tuple[object, ...]:
        return part.class_names, sorted(part.series), sorted(part.flow_confusions), part.boundaries is None

    if any(has(part) != has(first) for part in parts):
        raise UserError("the evaluations to join must have the same classes and the same counts")
    frames = [frame for part in parts for frame in part.frames]
    order = sorted(range(len(frames)), key=lambda i: frames[i].segment)

    def pick(rows: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(rows))[order]

    return Evaluation(
        first.class_names,
        tuple(frames[i] for i in order),
        pick(part.confusions for part in parts),
        {name: pick(part.series[name] for part in parts) for name in first.series},
        {name: pick(part.flow_confusions[name] for part in parts) for name in first.flow_confusions},
        None if first.boundaries is None else pick(p.boundaries for p in parts if p.boundaries is not None),
        first.settings,
    )
