"""Commands in processes of their own that start at once, because they are forks of one that has imported PyTorch."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

Ended = subprocess.CompletedProcess[str]

SERVER = """
import importlib, json, os, signal, socket, sys
import av, tqdm, torch
import ccnet3d.cli.infer, ccnet3d.inference.run, ccnet3d.models

def start(streams, channel, argv, module, environment, folder, before):
    child = os.fork()
    if child:
        channel.sendall(b"%d\\n" % child)
        channel.sendall(b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(0)
    channel.close()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    sys.argv = argv
    exec(before, globals())
    sys.exit(importlib.import_module(module).main())  # in the words of the installed commands

requests = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    text, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 4)
    if not text:
        break
    if os.fork() == 0:
        requests.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel = socket.socket(fileno=descriptors.pop())
        start(descriptors, channel, **json.loads(text))
        break
    for descriptor in descriptors:
        os.close(descriptor)
"""


class Running:
    """A command that runs; its streams are temporary files unless others are given."""

    def __init__(self, channel: socket.socket, command: list[str], streams: tuple[IO[bytes], IO[bytes]]) -> None:
        self._lines, self._command, self._streams = channel.makefile(), command, streams
        channel.close()
        self.pid = int(self._lines.readline())

    def is_running(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def wait(self) -> Ended:
        with self._lines:
            code = int(self._lines.readline())
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read().decode())
            stream.close()
        return Ended(self._command, code, *texts)


class Commands:
    """Processes that run the ``main`` of a module; for tests of what a command does, not of how it is imported."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def start(
        self,
        module: str,
        *arguments: object,
        stdin: int | None = None,
        stdout: int | None = None,
        before: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        """Start a command with the given descriptors; ``before`` is Python code that its process runs first."""
        command = [module, *map(str, arguments)]
        request = {
            "module": module, "argv": command, "environment": {**os.environ, **(environment or {})},
            "folder": str(Path.cwd()), "before": before,
        }  # fmt: skip
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        mine, theirs = socket.socketpair()
        with Path(os.devnull).open() as empty, theirs:
            given = (
                empty.fileno() if stdin is None else stdin,
                out.fileno() if stdout is None else stdout,
                err.fileno(),
            )
            socket.send_fds(self._requests, [json.dumps(request).encode()], [*given, theirs.fileno()])
        return Running(mine, command, (out, err))

    def run(self, module: str, *arguments: object, text: bytes | None = None, **options) -> Ended:
        """Run a command to its end; ``text`` is its standard input, through a pipe."""
        if text is None:
            return self.start(module, *arguments, **options).wait()
        reading, writing = os.pipe()
        process = self.start(module, *arguments, stdin=reading, **options)
        os.close(reading)
        writer = threading.Thread(target=_write, args=(writing, text))
        writer.start()
        done = process.wait()
        writer.join()
        return done

    def close(self) -> None:
        self._requests.close()
        self._server.wait(timeout=60)


def _write(descriptor: int, text: bytes) -> None:
    with os.fdopen(descriptor, "wb") as pipe, contextlib.suppress(BrokenPipeError):
        pipe.write(text)


def in_two_processes(commands: Commands, module: str, *arguments: object, before: str = "") -> list[Ended]:
    """Run a command as ``torchrun --nproc-per-node 2`` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    ranks = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    started = [commands.start(module, *arguments, environment=rank, before=before) for rank in ranks]
    return [process.wait() for process in started]
