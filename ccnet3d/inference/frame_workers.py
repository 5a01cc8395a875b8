"""Threads that each compute a whole frame on a CPU.

A small network does not keep the threads of PyTorch busy within a frame: its layers are short, and the threads wait for
each other after every one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

__all__ = ["FrameWorkers"]

_MOST_WORKERS = 8
"""Each needs memory for a frame; more threads share the work on each frame."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class FrameWorkers:
    """Workers that share the threads that PyTorch has in the thread that makes this object.

    There is one pool of workers for all streams of the process.

    >>> workers = FrameWorkers()
    >>> [*workers.map_ahead(lambda x: x * x, range(5))]
    [0, 1, 4, 9, 16]
    """

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self.count = min(self._threads, _MOST_WORKERS)

    def map_ahead(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of a function in order, while workers compute those of the next items.

        Up to twice as many items as there are workers have been read when the first result arrives.

        Raises:
            Exception: that of the function at the item's turn, or of ``items`` after the results of all before.
        """
        submit = _pool(self.count, self._threads).submit
        ahead: deque[Future[Result]] = deque()
        source, problem, ended = iter(items), None, False
        try:
            while ahead or not ended:
                while not ended and len(ahead) < 2 * self.count:
                    try:
                        ahead.append(submit(function, next(source)))
                    except StopIteration:
                        ended = True
                    except Exception as error:
                        problem, ended = error, True
                if ahead:
                    yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
        if problem is not None:
            raise problem

    def beside(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items, which this thread computes with few of PyTorch's threads, because the workers use them."""
        while True:
            torch.set_num_threads(max(1, self._threads // 4))
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                torch.set_num_threads(self._threads)
            yield item


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Return so many workers, which share the threads; the same ones for all streams of this process."""
    all_there = Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # or the first work in this thread would set its number to what is set last anywhere
        torch.set_num_threads(threads // workers)
        all_there.wait()

    pool = ThreadPoolExecutor(workers, "frame-worker", initializer=begin)
    for _ in range(workers):
        pool.submit(int)
    try:
        all_there.wait()
    except BaseException:  # Ctrl-C; waiting workers would keep the process from ending
        all_there.abort()
        raise
    torch.set_num_threads(threads)  # also what threads begin with that are started from now on
    return pool


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
