#!/usr/bin/env python3
"""Serve a video in a loop, at its rate, as an IP camera does: RTSP with RTP over TCP, for tests and for trying it out.

FFmpeg makes the packets, and this server passes them to all clients on this computer: one stream under any path,
without passwords and UDP.

    python scripts/benchmarks/rtsp_server.py drive.mp4 --port 8554
    ccnet3d-infer rtsp://127.0.0.1:8554/drive -o masks/drive
"""

from __future__ import annotations

import argparse
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Lock, Thread

import imageio_ffmpeg

_LONGEST_PACKET = 1 << 16
_LONGEST_LINE = 1 << 12
_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
_ENCODE = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p")


class RtspServer(ThreadingTCPServer):
    """A server of one video, until :meth:`close`; used as a context.

    Args:
        video: anything that FFmpeg reads.
        port: 0 for a free one.
        copy: pass on the H.264 stream of the file instead of encoding it again.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, video: Path, port: int = 0, *, copy: bool = False) -> None:
        super().__init__(("127.0.0.1", port), _Session)
        self.url = f"rtsp://127.0.0.1:{self.server_address[1]}/{video.stem}"
        self.playing: set[_Session] = set()
        self.lock = Lock()
        self.ended = Event()
        self._packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._packets.bind(("127.0.0.1", 0))
        self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._packets.settimeout(0.2)
        with tempfile.TemporaryDirectory() as folder:
            description = Path(folder) / "stream.sdp"
            self.sender = self._send(video, ["-c:v", "copy"] if copy else _ENCODE, description)
            self.description = self._wait_for(description)
        for target in (self.serve_forever, self._pass_on):
            Thread(target=target, daemon=True).start()

    def _send(self, video: Path, codec: Sequence[str], description: Path) -> subprocess.Popen[bytes]:
        source = ["-stream_loop", "-1", "-re", "-i", str(video), "-map", "0:v:0", "-an"]
        target = f"rtp://127.0.0.1:{self._packets.getsockname()[1]}?pkt_size=1400"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *codec, "-f", "rtp"]
        return subprocess.Popen(
            [*command, "-sdp_file", str(description), target],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def _wait_for(self, description: Path) -> str:
        for _ in range(200):
            text = description.read_text() if description.exists() else ""
            if "m=video" in text and text.endswith("\n"):
                # Clients set up the one track, over the connection that they have.
                text = re.sub(r"m=video \d+", "m=video 0", text[text.index("v=0") :])
                return f"{text.rstrip()}\na=control:track1\n".replace("\r", "").replace("\n", "\r\n")
            if self.sender.poll() is not None:
                break
            time.sleep(0.05)
        self.server_close()
        self.sender.kill()
        raise SystemExit("FFmpeg cannot stream this video; its message is above")

    def _pass_on(self) -> None:
        while not self.ended.is_set():
            try:
                packet = self._packets.recv(_LONGEST_PACKET)
            except TimeoutError:
                continue
            with self.lock:
                sessions = list(self.playing)
            for session in sessions:
                session.send_packet(packet)

    def close(self) -> None:
        """End the stream and all connections, as a camera that loses its power."""
        self.ended.set()
        self.shutdown()
        self.server_close()
        self.sender.kill()
        self.sender.wait()
        with self.lock:
            sessions = list(self.playing)
        for session in sessions:
            with suppress(OSError):
                session.connection.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *_: object) -> None:
        self.close()


class _Session(StreamRequestHandler):
    """The requests of one client, and the packets that it gets."""

    server: RtspServer

    def setup(self) -> None:
        super().setup()
        self._sending = Lock()
        self._channel = 0

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # a client that is gone, or speaks something else
            while first := self.rfile.read(1):
                if first == b"$":  # a report of the client's, which nobody reads
                    _, length = struct.unpack("!BH", self.rfile.read(3))
                    self.rfile.read(length)
                    continue
                method, target, _ = (first + self.rfile.readline(_LONGEST_LINE)).decode().split(" ", 2)
                headers = {}
                while entry := self.rfile.readline(_LONGEST_LINE).strip():
                    name, _, value = entry.decode().partition(":")
                    headers[name.lower()] = value.strip()
                self._answer(method, target, headers)

    def _answer(self, method: str, target: str, headers: dict[str, str]) -> None:
        status, body, more = "200 OK", "", {"Session": "1"}
        if method == "OPTIONS":
            more = {"Public": _METHODS}
        elif method == "DESCRIBE":
            body = self.server.description
            more = {"Content-Type": "application/sdp", "Content-Base": f"{target.rstrip('/')}/"}
        elif method == "SETUP":
            if found := re.search(r"interleaved=(\d+)", headers.get("transport", "")):
                self._channel = int(found[1])
                more["Transport"] = f"RTP/AVP/TCP;unicast;interleaved={self._channel}-{self._channel + 1}"
            else:
                status = "461 Unsupported Transport"  # UDP
        lines = [f"RTSP/1.0 {status}", f"CSeq: {headers.get('cseq', '0')}"]
        lines += [*(f"{name}: {value}" for name, value in more.items()), f"Content-Length: {len(body)}", "", body]
        self._send("\r\n".join(lines).encode())
        if method == "PLAY":
            with self.server.lock:
                self.server.playing.add(self)
        elif method == "TEARDOWN":
            self.finish()

    def send_packet(self, packet: bytes) -> None:
        """Send a packet of the stream between the answers, unless the client is gone."""
        with suppress(OSError):
            self._send(struct.pack("!cBH", b"$", self._channel, len(packet)) + packet)

    def _send(self, data: bytes) -> None:
        with self._sending:
            self.connection.sendall(data)

    def finish(self) -> None:
        with self.server.lock:
            self.server.playing.discard(self)
        with suppress(OSError):
            super().finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="a video that FFmpeg reads")
    parser.add_argument("--port", type=int, default=8554, help="(default: 8554)")
    parser.add_argument("--copy", action="store_true", help="do not encode again; the video must be H.264")
    arguments = parser.parse_args()
    with RtspServer(arguments.video, arguments.port, copy=arguments.copy) as server, suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        server.sender.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
