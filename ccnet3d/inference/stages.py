"""Stages of a run in separate threads, with bounded queues between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["Sink", "run_ahead"]

Item = TypeVar("Item")

_END: Any = object()
_POLL_SECONDS = 0.1
"""How often a waiting stage checks whether it should stop."""


def run_ahead(
    source: Iterable[Item], depth: int, stop_source: Callable[[], None] = lambda: None
) -> Generator[Item, None, None]:
    """Iterate over ``source`` in a thread, ahead of the caller.

    An error of the source is raised here, after the items before it. Closing the iterator ends the thread.

    Args:
        source: the items.
        depth: most items that wait in the queue; the thread has one more.
        stop_source: called when the iterator is closed; ends a source that waits for data.

    >>> list(run_ahead("abc", depth=2))
    ['a', 'b', 'c']
    """
    queue: Queue[Item] = Queue(depth)
    stop = threading.Event()
    errors: list[BaseException] = []

    def put(item: Item) -> bool:
        while not stop.is_set():
            try:
                queue.put(item, timeout=_POLL_SECONDS)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in source:
                if not put(item):
                    return
        except BaseException as error:
            errors.append(error)
        finally:
            put(_END)

    thread = threading.Thread(target=work, name="ccnet3d-decode", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not _END:
            yield item
        if errors:
            raise errors[0]
    finally:
        stop.set()
        stop_source()
        thread.join()


class Sink(Generic[Item]):
    """Pass items to a function that runs in a thread.

    The block ends when all items are done; if it ends with an error, waiting items are dropped. An error of the
    function is raised by the next :meth:`put` or at the end of the block, and no item after it is consumed.

    Args:
        consume: called with one item at a time, in order.
        depth: most items that wait.

    >>> done = []
    >>> with Sink(done.append, depth=2) as sink:
    ...     for item in "abc":
    ...         sink.put(item)
    >>> done
    ['a', 'b', 'c']
    """

    def __init__(self, consume: Callable[[Item], None], depth: int) -> None:
        self._consume = consume
        self._queue: Queue[Item] = Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ccnet3d-encode", daemon=True)

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    item = self._queue.get(timeout=_POLL_SECONDS)
                except Empty:
                    continue
                if item is _END:
                    return
                self._consume(item)
        except BaseException as error:
            self._error = error
            self._stop.set()
        finally:
            self._done.set()

    def put(self, item: Item) -> None:
        """Pass on an item; wait while the queue is full."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except Full:
                continue
            return
        if self._error:
            raise self._error

    def __enter__(self) -> Sink[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.put(_END)
                self._done.wait()  # an interrupted join() would consider the thread ended
        finally:
            self._stop.set()
            self._done.wait()
            self._thread.join()
        if self._error and error is None:
            raise self._error
