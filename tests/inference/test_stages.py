from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from ccnet3d.inference.stages import Sink, run_ahead

SECONDS = 10.0
"""Time limit for a test that hangs."""
SETTLE_SECONDS = 0.15
"""Time for a thread to do what it should not."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert wait_until(lambda: set(threading.enumerate()) <= before)


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def in_time(function: Callable[[], Any]) -> Any:
    """Return what the function returns, or raise what it raises; fail if it hangs."""
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not outcome:
        pytest.fail("it hangs")
    done, result = outcome[0]
    if not done:
        raise result
    return result


class Counted:
    """0, 1, 2, ...; records how many were read, whether it ended, and in which threads it ran."""

    def __init__(self, stop: int, error: BaseException | None = None) -> None:
        self.stop, self.error = stop, error
        self.read = 0
        self.closed = False
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.stop):
                self.read += 1
                self.threads.add(threading.get_ident())
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed = True


@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_items_arrive_in_order_from_another_thread(count: int, depth: int) -> None:
    source = Counted(count)
    assert in_time(lambda: list(run_ahead(source, depth))) == list(range(count))
    assert source.threads.isdisjoint({threading.get_ident()})
    assert len(source.threads) <= 1


def test_any_value_can_be_an_item() -> None:
    assert in_time(lambda: list(run_ahead([None, 0, False, "", StopIteration], 2))) == [
        None,
        0,
        False,
        "",
        StopIteration,
    ]


@pytest.mark.parametrize("depth", [1, 3])
def test_at_most_depth_items_wait(depth: int) -> None:
    source = Counted(100)
    with closing(run_ahead(source, depth)) as items:
        for taken in range(1, 4):
            next(items)
            assert wait_until(lambda taken=taken: source.read >= taken + depth + 1)  # type: ignore[misc]
            time.sleep(SETTLE_SECONDS)
            assert source.read == taken + depth + 1  # depth wait, and the thread has one more


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), ValueError("video")])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_error_is_raised_after_the_items_before_it(count: int, error: BaseException) -> None:
    got: list[int] = []

    def collect() -> None:
        for item in run_ahead(Counted(count, error), 2):
            got.append(item)
            time.sleep(0.005)  # the source fails long before its items are read

    with pytest.raises(type(error)) as caught:
        in_time(collect)
    assert caught.value is error
    assert got == list(range(count))


def test_source_that_cannot_begin() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        in_time(lambda: list(run_ahead(Broken(), 2)))


@pytest.mark.parametrize("taken", [1, 4])
def test_closing_early_ends_the_thread_and_the_source(taken: int) -> None:
    source = Counted(1_000_000)
    before = set(threading.enumerate())
    items = run_ahead(source, 2)
    assert set(threading.enumerate()) == before  # nothing runs until the first item is requested
    for _ in range(taken):
        next(items)
    wait_until(lambda: source.read > taken + 1)  # now it waits for room
    in_time(items.close)
    assert set(threading.enumerate()) == before
    assert source.read <= taken + 3
    assert source.closed
    assert next(items, "nothing") == "nothing"


def test_closing_before_the_first_item() -> None:
    source = Counted(5)
    run_ahead(source, 2).close()
    assert source.read == 0


@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_sink_consumes_all_items_in_order(count: int, depth: int) -> None:
    taken: list[tuple[int, int]] = []

    def consume(item: int) -> None:
        time.sleep(0.001)
        taken.append((item, threading.get_ident()))

    def block() -> int:
        with Sink(consume, depth) as sink:
            for item in range(count):
                sink.put(item)
        return threading.get_ident()

    own = in_time(block)
    assert [item for item, _ in taken] == list(range(count))
    assert own not in {thread for _, thread in taken}


@pytest.mark.parametrize("depth", [1, 3])
def test_put_waits_while_the_queue_is_full(depth: int) -> None:
    gate = threading.Event()
    put = 0

    def consume(_: int) -> None:
        gate.wait(SECONDS)

    def block() -> None:
        nonlocal put
        with Sink(consume, depth) as sink:
            for item in range(depth + 5):
                sink.put(item)
                put += 1

    thread = threading.Thread(target=block, daemon=True)
    thread.start()
    assert wait_until(lambda: put >= depth + 1)
    time.sleep(SETTLE_SECONDS)
    assert put == depth + 1  # one is being consumed
    gate.set()
    thread.join(SECONDS)
    assert put == depth + 5


class Failing:
    """Consume items once the gate is open; fail on one of them."""

    def __init__(self, bad: int, error: BaseException) -> None:
        self.bad, self.error = bad, error
        self.gate, self.begun = threading.Event(), threading.Event()
        self.taken: list[int] = []

    def __call__(self, item: int) -> None:
        self.begun.set()
        self.gate.wait(SECONDS)
        self.taken.append(item)
        if item == self.bad:
            raise self.error


@pytest.mark.parametrize("error", [OSError("disk is full"), KeyboardInterrupt(), SystemExit(3)])
def test_error_is_raised_by_the_next_put(error: BaseException) -> None:
    consume = Failing(1, error)
    consume.gate.set()
    put: list[int] = []

    def block() -> None:
        with Sink(consume, 4) as sink:
            for item in range(1000):
                sink.put(item)
                put.append(item)
                time.sleep(0.002)

    with pytest.raises(type(error)) as caught:
        in_time(block)
    assert caught.value is error
    assert consume.taken == [0, 1]
    assert len(put) < 1000


@pytest.mark.parametrize("count", [1, 2, 4])
def test_error_is_raised_at_the_end_of_the_block(count: int) -> None:
    """It happens when the block has put all its items."""
    consume = Failing(0, OSError("disk is full"))

    def block() -> None:
        with Sink(consume, 8) as sink:
            for item in range(count):
                sink.put(item)
            threading.Timer(0.05, consume.gate.set).start()

    with pytest.raises(OSError, match="disk is full"):
        in_time(block)
    assert consume.taken == [0]


def test_error_of_the_last_item_is_not_lost() -> None:
    consume = Failing(2, OSError("disk is full"))
    consume.gate.set()

    def block() -> None:
        with Sink(consume, 8) as sink:
            for item in range(3):
                sink.put(item)

    with pytest.raises(OSError, match="disk is full"):
        in_time(block)
    assert consume.taken == [0, 1, 2]


def test_error_ends_a_waiting_put() -> None:
    consume = Failing(0, OSError("disk is full"))

    def block() -> None:
        with Sink(consume, 1) as sink:
            threading.Timer(0.1, consume.gate.set).start()
            for item in range(100):  # there is no room for the third one
                sink.put(item)

    with pytest.raises(OSError, match="disk is full"):
        in_time(block)
    assert consume.taken == [0]


def test_error_while_the_end_waits_for_room() -> None:
    consume = Failing(0, OSError("disk is full"))

    def block() -> None:
        with Sink(consume, 1) as sink:
            sink.put(0)
            sink.put(1)  # there is room as soon as the first is being consumed
            threading.Timer(0.1, consume.gate.set).start()

    with pytest.raises(OSError, match="disk is full"):
        in_time(block)
    assert consume.taken == [0]


@pytest.mark.parametrize("error", [RuntimeError("model"), KeyboardInterrupt()])
def test_error_in_the_block_drops_waiting_items(error: BaseException) -> None:
    consume = Failing(-1, error)

    def block() -> None:
        with Sink(consume, 8) as sink:
            for item in range(5):
                sink.put(item)
            assert consume.begun.wait(SECONDS)  # the first is being consumed
            threading.Timer(0.1, consume.gate.set).start()
            raise error

    before = set(threading.enumerate())
    with pytest.raises(type(error)) as caught:
        in_time(block)
    assert caught.value is error
    assert {t for t in threading.enumerate() if not isinstance(t, threading.Timer)} <= before  # ended with the block
    assert consume.taken == [0]


def test_interrupt_at_the_end_of_the_block_drops_waiting_items(request: pytest.FixtureRequest) -> None:
    """Ctrl-C while the last items are written: the code that catches it may close the file that is written to."""
    taken: list[int] = []

    def consume(item: int) -> None:
        time.sleep(0.1)
        taken.append(item)

    main = threading.main_thread().ident
    assert main is not None
    # Background jobs of a shell ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    timer = threading.Timer(0.15, signal.pthread_kill, (main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), Sink(consume, 8) as sink:
        for item in range(8):
            sink.put(item)
        timer.start()
    at_the_end = len(taken)
    time.sleep(0.35)
    assert len(taken) == at_the_end < 8
