#!/usr/bin/env python3
"""Stream a clip at its rate to ccnet3d-infer: masks, dropped frames, reconnections and memory.

FFmpeg serves the synthetic clip in a loop over TCP. It is killed and started again in the middle. Linux only, because
memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import imageio_ffmpeg

from ccnet3d.video import write_sample_video

INTERVAL = 30.0


def serve(clip: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server that ends with its first client."""
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-stream_loop", "-1", "-re", "-i", str(clip), *codec]
    process = subprocess.Popen(
        [*command, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    time.sleep(1)  # a probe of the port would be taken for the client
    return process


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Progress:
    """The last event of a run, read from the lines of ``--json``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.masks, self.frame, self.dropped = 0, -1, 0
        self._process = process
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "frame":
                self.masks += 1
                self.frame, self.dropped = event["frame"], event["dropped_frames"]


def watch(
    process: subprocess.Popen[str], server: subprocess.Popen[bytes], clip: Path, port: int, minutes: float
) -> None:
    """Print a line every 30 seconds, break the connection in the middle, and stop the run at the end."""
    progress, began, broken, printed = Progress(process), time.monotonic(), False, 0.0
    print("seconds  masks  last frame  dropped  memory in MB")
    try:
        while (passed := time.monotonic() - began) < 60 * minutes and process.poll() is None:
            time.sleep(0.5)
            if passed >= 30 * minutes and not broken:
                broken = True
                server.kill()
                server.wait()
                print(f"{passed:7.0f}  the server is killed and started again")
                server = serve(clip, port)
            if passed - printed >= INTERVAL:
                printed = passed
                print(
                    f"{passed:7.0f}  {progress.masks:5}  {progress.frame:10}  {progress.dropped:7}  "
                    f"{resident_megabytes(process.pid):12.0f}",
                    flush=True,
                )
        process.terminate()  # not SIGINT, which a background job of a shell ignores
        process.wait(60)
    finally:
        for one in (process, server):
            one.kill()
            one.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("options", nargs="*", help="options of ccnet3d-infer, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clip, masks, port = Path(name) / "clip.mp4", Path(name) / "masks", free_port()
        write_sample_video(clip, frames=100)
        server = serve(clip, port)
        command = [sys.executable, "-m", "ccnet3d.cli.infer", f"tcp://127.0.0.1:{port}", "-o", str(masks), "--json"]
        process = subprocess.Popen([*command, *arguments.options], stdout=subprocess.PIPE, text=True)
        watch(process, server, clip, port, arguments.minutes)
        if process.returncode:
            return int(process.returncode)
        summary = json.loads((masks / "summary.json").read_text())
        print(f"{summary['frames']} masks, {summary['live']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
