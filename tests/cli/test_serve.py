from __future__ import annotations

import asyncio
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ccnet3d.cli.serve import host_name, impatient_protocol, main

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


def test_bad_arguments_are_one_line(tiny_checkpoint: Path, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--port", port, "--checkpoint", str(tiny_checkpoint)]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in capsys.readouterr().err
    for arguments in (
        ["--host", "no.such.host.invalid"],
        ["--port", "99999"],
        ["--checkpoint", "absent", "--port", "0"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["--max-frames", "0"])
    for option in ("--allow-host", "--host"):
        for name in ("", " ", "http://a.org", "a.org:80", "a.org/", "a b", "*", "-a", "a" * 300, "[::1]"):
            with pytest.raises(SystemExit):
                main([f"{option}={name}"])
            assert "expected a host name or an IP address, such as example.org, got" in capsys.readouterr().err


def test_names_of_hosts() -> None:
    for name in ("example.org", "my_pc", "a.b-c.local.", "127.0.0.1", "::1", "fe80::1"):
        assert host_name(name) == name


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_missing_packages_name_the_extra(
    package: str, tiny_checkpoint: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("routes", "schemas"):
        monkeypatch.delitem(sys.modules, f"ccnet3d.serving.{name}", raising=False)
    assert main(["--port", "0", "--checkpoint", str(tiny_checkpoint)]) == 2
    assert "pip install 'ccnet3d[serve]'" in capsys.readouterr().err


def test_a_connection_without_a_whole_header_is_closed() -> None:
    import uvicorn

    async def app(scope: Any, _: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0.5)  # longer than a header may take
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=impatient_protocol(0.2), lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        address = listener.getsockname()
        with socket.create_connection(address) as slow, socket.create_connection(address) as whole:
            slow.settimeout(20)
            whole.settimeout(20)
            slow.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            whole.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert slow.recv(100) == b""
            assert whole.recv(100).startswith(b"HTTP/1.1 204")
        server.should_exit = True
        thread.join(20)
