"""1,000 damaged videos: each yields frames with warnings, or one VideoError, and no loss of frames is silent.

Tested strictly, in separate worker processes:

- There is no other exception, no crash and no hang (20 s per file).
- If a reader returns fewer frames than the undamaged file has, a warning or a gap in the frame indices shows it, or the
  damaged file is a valid shorter file, for which the ffmpeg command prints no error either.
- Frame indices ascend, and random access to an index returns the frame with that index and time.

Not tested, because it cannot be detected: a flipped bit in the data of a codec without checksums may change pixels and
leave a valid stream (in MJPEG, FFmpeg conceals it and reports it only in its log). So all frames may be returned, with
other pixels. After damage, FFmpeg's concealment depends on what it decoded before and on its threads, so two passes
over one file may differ: then random access returns a frame with the index, time and size of the iterated one, but with
equal pixels only if there was no warning.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from video.corpus import FRAMES, ffmpeg
from video.mutants import KINDS, make_bases, mutate

COUNT = 1000
SECONDS_PER_FILE = 20.0
TESTS = Path(__file__).parents[1]


class Worker:
    """A process that reads files one by one; it is killed if a file takes too long."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def read(self, path: Path, with_clip: bool) -> str:
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\t{'clip' if with_clip else ''}\n")
        self._process.stdin.flush()
        try:
            result = self._lines.get(timeout=SECONDS_PER_FILE)
        except queue.Empty:
            result = "HANGS"
        if result in ("HANGS", ""):
            result = result or f"CRASHED with code {self._process.wait()}"
            self.end()
        return result

    def _start(self) -> None:
        self._lines = queue.Queue()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "video.mutants"],
            cwd=TESTS, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        threading.Thread(target=self._collect, args=(self._process, self._lines), daemon=True).start()

    @staticmethod
    def _collect(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.strip())
        lines.put("")

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str, str]]:
    """For every mutant its file, the kind of damage, and the result of reading it."""
    folder = tmp_path_factory.mktemp("mutants")
    bases = make_bases(folder)
    jobs = []
    for number in range(COUNT):
        base, kind = bases[number % len(bases)], KINDS[number // len(bases) % len(KINDS)]
        path = folder / f"{number}_{base.name}"
        path.write_bytes(mutate(base.read_bytes(), kind, np.random.default_rng(number)))
        jobs.append((path, kind, number % 4 == 0))

    def work(part: list[tuple[Path, str, bool]]) -> list[tuple[Path, str, str]]:
        worker = Worker()
        try:
            return [(path, kind, worker.read(path, with_clip)) for path, kind, with_clip in part]
        finally:
            worker.end()

    with ThreadPoolExecutor(2) as threads:
        return [result for part in threads.map(work, (jobs[::2], jobs[1::2])) for result in part]


def test_every_mutant_yields_frames_or_a_video_error(results: list[tuple[Path, str, str]]) -> None:
    assert len(results) == COUNT
    bad = [(path.name, kind, result) for path, kind, result in results if result.split()[0] not in ("frames", "error")]
    assert bad == []
    ends = Counter(result.split()[0] for _, _, result in results)
    assert ends["frames"] > COUNT / 2  # most damaged files are partly readable
    assert ends["error"] > COUNT / 50


def test_no_loss_is_silent(results: list[tuple[Path, str, str]]) -> None:
    silent = []
    for path, kind, result in results:
        if not result.startswith("frames"):
            continue
        _, count, gaps, damaged, *warnings = result.split()
        if int(gaps) or int(damaged):
            assert warnings, f"{path.name} ({kind})"
        if int(count) < FRAMES and not warnings:
            _, log = ffmpeg("-i", path, "-map", "0:v:0", "-f", "null", "-", check=False)
            if log.strip():
                silent.append(f"{path.name} ({kind}): {count} frames; ffmpeg says {log.splitlines()[0]}")
    assert silent == []
