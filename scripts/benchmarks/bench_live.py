#!/usr/bin/env python3
"""Segment a stream with ccnet3d-infer: masks, dropped frames, reconnections, memory, and time per mask.

Without a URL, the synthetic clip is served in a loop over RTSP, and the server is stopped for 5 seconds in the middle.
Linux only, because memory and processor time are read from /proc.

    python scripts/benchmarks/bench_live.py --minutes 10
    python scripts/benchmarks/bench_live.py --source rtsp://192.0.2.1/stream --minutes 60 -- --device cuda
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from rtsp_server import RtspServer

from ccnet3d.video import write_sample_video

SILENT_SECONDS = 5.0
STEPS = 20
"""Lines of a run."""
_KIBIBYTES_PER_MEGABYTE = 1024
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class State(NamedTuple):
    """What is known of a run at one moment."""

    seconds: float
    masks: int
    frame: int
    dropped: int
    megabytes: float
    """Resident memory."""
    cpu_seconds: float
    load: float
    """Of the machine, in the last minute."""


class Run:
    """A process of ccnet3d-infer, and the last event among its lines of ``--json``."""

    def __init__(self, source: str, masks: Path, options: list[str]) -> None:
        command = [sys.executable, "-m", "ccnet3d.cli.infer", source, "-o", str(masks), "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.began: float | None = None
        self._masks, self._frame, self._dropped = 0, -1, 0
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "frame":
                self.began = self.began or time.monotonic()
                self._masks += 1
                self._frame, self._dropped = event["frame"], event["dropped_frames"]

    def state(self) -> State:
        """Return the state now; seconds count from the first mask."""
        folder = Path("/proc", str(self.process.pid))
        memory = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS:"))
        ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        return State(
            time.monotonic() - (self.began or time.monotonic()),
            self._masks,
            self._frame,
            self._dropped,
            int(memory.split()[1]) / _KIBIBYTES_PER_MEGABYTE,
            sum(map(int, ticks)) / _TICKS_PER_SECOND,
            os.getloadavg()[0],
        )


def watch(run: Run, minutes: float, interrupt: Callable[[], None]) -> list[State]:
    """Print a line for every twentieth of a run, break the connection in the middle, and return the states."""
    print("seconds  masks  last frame  dropped  memory in MB  CPU ms per mask  load")
    while run.began is None and run.process.poll() is None:
        time.sleep(0.1)
    states: list[State] = []
    while run.process.poll() is None and len(states) <= STEPS:
        time.sleep(max(0.0, (run.began or 0) + len(states) * 60 * minutes / STEPS - time.monotonic()))
        if run.process.poll() is not None:
            break
        states.append(run.state())
        now, before = states[-1], states[max(0, len(states) - 2)]
        each = 1000 * (now.cpu_seconds - before.cpu_seconds) / max(1, now.masks - before.masks)
        print(
            f"{now.seconds:7.0f}  {now.masks:5}  {now.frame:10}  {now.dropped:7}  {now.megabytes:12.0f}  "
            f"{each:15.0f}  {now.load:4.1f}",
            flush=True,
        )
        if len(states) == STEPS // 2 + 1:
            interrupt()
    return states


def report(states: list[State], summary: dict[str, object]) -> None:
    """Print what the run did, and its first and last quarter beside each other."""
    print(f"{summary['frames']} masks, {summary['live']}")
    quarter = len(states) // 4
    if not quarter:
        return
    memory = [states[index].megabytes for index in (quarter, len(states) // 2, -1)]
    print("memory after a quarter, a half and all: " + ", ".join(f"{value:.0f} MB" for value in memory))
    for name, first, last in (("first", states[0], states[quarter]), ("last", states[-1 - quarter], states[-1])):
        masks = max(1, last.masks - first.masks)
        wall, cpu = last.seconds - first.seconds, last.cpu_seconds - first.cpu_seconds
        print(f"{name} quarter: {1000 * wall / masks:.0f} ms per mask, {1000 * cpu / masks:.0f} ms of processor time")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="a URL or camera of yours, whose connection is not broken")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, from the first mask (default: 10)")
    parser.add_argument("options", nargs="*", help="options of ccnet3d-infer, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clip, masks, servers = Path(name) / "clip.mp4", Path(name) / "masks", []
        if not arguments.source:
            write_sample_video(clip, frames=100)
            servers.append(RtspServer(clip))

        def interrupt() -> None:
            if servers:
                servers.pop().close()
                time.sleep(SILENT_SECONDS)
                servers.append(RtspServer(clip, port))

        port = servers[0].server_address[1] if servers else 0
        run = Run(arguments.source or servers[0].url, masks, arguments.options)
        try:
            states = watch(run, arguments.minutes, interrupt)
            run.process.terminate()  # not SIGINT, which a background job of a shell ignores
            run.process.wait(60)
        finally:
            run.process.kill()
            run.process.wait()
            for server in servers:
                server.close()
        if run.process.returncode:
            return int(run.process.returncode)
        report(states, json.loads((masks / "summary.json").read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
