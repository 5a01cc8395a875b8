from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from ccnet3d.cli.serve import host_name, main

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
