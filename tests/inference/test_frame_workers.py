from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, draw_scene
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.inference import VideoSegmenter, frame_workers
from ccnet3d.inference.frame_workers import FrameWorkers
from ccnet3d.models import CCNet3D, ModelInfo


@pytest.fixture
def workers() -> Iterator[FrameWorkers]:
    """Two workers with a thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield FrameWorkers()
    torch.set_num_threads(before)


def test_results_in_order_although_the_first_is_the_slowest(workers: FrameWorkers) -> None:
    def slow(x: int) -> int:
        time.sleep(0.05 if x == 0 else 0)
        return x * x

    assert [*workers.map_ahead(slow, range(20))] == [x * x for x in range(20)]


def test_items_are_computed_at_the_same_time_each_with_its_share_of_the_threads(workers: FrameWorkers) -> None:
    both = threading.Barrier(2)

    def meet(_: int) -> tuple[str, int]:
        both.wait(timeout=10)  # passes when two items are computed at once
        return threading.current_thread().name, torch.get_num_threads()

    names, threads = zip(*workers.map_ahead(meet, range(6)), strict=True)
    assert len(set(names)) == 2
    assert set(threads) == {1}
    assert torch.get_num_threads() == 2
    started: list[int] = []
    other = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert started == [2]  # threads that are started later are not limited


def test_reads_four_items_before_the_first_result_and_no_more(workers: FrameWorkers) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            read.append(item)
            yield item

    results = workers.map_ahead(lambda x: x, items())
    for count in range(4):
        assert next(results) == count
        assert len(read) == 4 + count


def test_error_of_the_source_follows_the_results_before_it(workers: FrameWorkers) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("damaged")

    got = []
    with pytest.raises(ValueError, match="damaged"):
        for result in workers.map_ahead(lambda x: x, items()):
            got.append(result)
    assert got == [0, 1, 2, 3, 4]


def test_error_of_the_function_comes_at_its_turn(workers: FrameWorkers) -> None:
    got = []
    with pytest.raises(ZeroDivisionError):
        for result in workers.map_ahead(lambda x: 1 / (3 - x), range(9)):
            got.append(result)
    assert got == [1 / 3, 1 / 2, 1]


def test_closing_early_leaves_nothing_to_compute(workers: FrameWorkers) -> None:
    begun: list[int] = []

    def slow(x: int) -> int:
        begun.append(x)
        time.sleep(0.05)
        return x

    results = workers.map_ahead(slow, range(100))
    next(results)
    results.close()
    time.sleep(0.3)
    assert len(begun) <= 5


def test_interrupt_while_workers_start_leaves_none_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Barrier):
        def wait(self, timeout: float | None = None) -> int:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(frame_workers, "Barrier", Interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        frame_workers._pool(2, 7)
    end = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < end


def test_beside_the_workers_there_are_fewer_threads_between_results_all(workers: FrameWorkers) -> None:
    inside = []

    def items() -> Iterator[int]:
        for item in range(3):
            inside.append(torch.get_num_threads())
            yield item
        raise ValueError("end")

    with pytest.raises(ValueError, match="end"):
        for _ in workers.beside(items()):
            assert torch.get_num_threads() == 2
    assert inside == [1, 1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_fork_has_workers_of_its_own(workers: FrameWorkers) -> None:
    assert [*workers.map_ahead(abs, [-1])] == [1]
    child = os.fork()
    if child == 0:
        os._exit(0 if [*FrameWorkers().map_ahead(abs, [-2, -3])] == [2, 3] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def segmenter_of(info: ModelInfo, **options: Any) -> VideoSegmenter:
    """Return a segmenter of a model that decodes frames one by one, as the default model does."""
    torch.manual_seed(3)
    model = CCNet3D(dataclasses.replace(TINY, loops=0, evidence_loops=2, evidence_level=2))
    with torch.no_grad():
        model.train().forward_with_auxiliary(torch.rand(2, 2, 3, 64, 96))
    info = dataclasses.replace(info, model=model.config)
    return VideoSegmenter(model, info, dtype=torch.float32, input_size=(32, 48), **options)


@pytest.mark.parametrize("options", [{}, {"clip_stride": 1}, {"clip_length": 1}, {"smoothing": 2}, {"causal": True}])
def test_predictions_do_not_depend_on_the_number_of_threads(tiny_info: ModelInfo, options: dict[str, Any]) -> None:
    frames = [draw_scene(number, 40 + number % 3, 64)[0] for number in range(11)]
    segmenter = segmenter_of(tiny_info, **options)
    encode, names = segmenter._encode, set()

    def noted(pictures: Sequence[Tensor]) -> list[Any]:
        names.add(threading.current_thread().name.rpartition("_")[0])
        return encode(pictures)

    segmenter._encode = noted  # type: ignore[method-assign]
    before, predicted = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 19):
            torch.set_num_threads(threads)
            predicted.append([prediction.logits for prediction in segmenter.predict(frames)])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in predicted[1:]:
        assert [*map(torch.equal, predicted[0], other)] == [True] * 11
    assert ("frame-worker" in names) is not bool(options.get("causal"))


@pytest.mark.usefixtures("workers")
def test_two_streams_at_once_share_the_workers(tiny_info: ModelInfo) -> None:
    frames = [draw_scene(number)[0] for number in range(9)]
    segmenter = segmenter_of(tiny_info)
    first, second = segmenter.predict(frames), segmenter.predict(frames[::-1])
    together = [*zip(first, second, strict=True)]
    for stream, alone in enumerate((segmenter.predict(frames), segmenter.predict(frames[::-1]))):
        for predictions, prediction in zip(together, alone, strict=True):
            assert torch.equal(predictions[stream].logits, prediction.logits)


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("options", [{}, {"smoothing": 1, "causal": True}])
def test_a_source_may_reuse_its_array(tiny_info: ModelInfo, options: dict[str, Any]) -> None:
    frames = [draw_scene(number, 32, 48)[0] for number in range(9)]  # of the working size, so that none is resized
    segmenter = segmenter_of(tiny_info, **options)

    def reusing() -> Iterator[np.ndarray]:
        array = np.empty_like(frames[0])
        for frame in frames:
            array[:] = frame
            yield array

    for expected, got in zip(segmenter.predict(frames), segmenter.predict(reusing()), strict=True):
        assert torch.equal(expected.logits, got.logits)


@pytest.mark.usefixtures("workers")
def test_an_error_in_a_worker_is_explained(tiny_info: ModelInfo) -> None:
    segmenter = segmenter_of(tiny_info)

    def full(_: Tensor) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: out of memory")

    segmenter._encode_batch = full
    with pytest.raises(UserError, match="memory"):
        next(segmenter.segment([draw_scene(0)[0]]))
