"""Several live sources at the same time, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time

from ccnet3d.cli.live import run_together


def test_ctrl_c_stops_all_and_waits_until_they_have_ended() -> None:
    stopped, ended = threading.Event(), []

    def work(job: str) -> None:
        stopped.wait(30)
        time.sleep(0.5)  # writes its summary
        ended.append(job)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        assert run_together(["left", "right"], work, stopped.set) == []
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert sorted(ended) == ["left", "right"]


def test_failures_are_returned_with_their_jobs() -> None:
    def work(job: str) -> None:
        if job == "left":
            raise ValueError("broken")

    ((job, error),) = run_together(["left", "right"], work, lambda: None)
    assert job == "left"
    assert str(error) == "broken"
