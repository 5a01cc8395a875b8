"""What all commands do with options that they do not understand, and their version."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import ccnet3d
from ccnet3d.cli.command_parser import CommandParser

COMMANDS = ("infer", "view", "masks", "data", "serve", "train", "evaluate", "ablate", "model", "attention")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_of_the_options_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        importlib.import_module(f"ccnet3d.cli.{name}").main(["--unknown\noption"])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ccnet3d-{name}: error: ")
    assert line.endswith(f"; ccnet3d-{name} --help lists the options")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_version(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        importlib.import_module(f"ccnet3d.cli.{name}").main(["--version"])
    assert not exit_info.value.code
    assert capsys.readouterr().out == f"ccnet3d-{name} {ccnet3d.__version__}\n"


def test_a_subcommand_has_both(capsys: pytest.CaptureFixture[str]) -> None:
    from ccnet3d.cli.data import main

    with pytest.raises(SystemExit):
        main(["check", "--version"])
    with pytest.raises(SystemExit):
        main(["check", "--frames", "0"])
    out, err = capsys.readouterr()
    assert out == f"ccnet3d-data {ccnet3d.__version__}\n"
    assert err == (
        "ccnet3d-data check: error: argument --frames: expected a whole number of at least 1, got '0'; "
        "ccnet3d-data check --help lists the options\n"
    )


@pytest.mark.parametrize("count", ["0", "-1", "1025", "9" * 5000])
def test_a_number_of_threads_that_would_end_the_process(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ccnet3d.cli.train import main

    with pytest.raises(SystemExit):
        main([f"--threads={count}"])
    assert "--threads: expected a whole number from 1 to 1024, got" in capsys.readouterr().err


def test_a_file_name_that_looks_like_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-drive.mp4").touch()
    with pytest.raises(SystemExit):
        CommandParser(prog="tool").parse_args(["-drive.mp4"])
    assert (
        "unrecognized arguments: -drive.mp4 (write ./-drive.mp4 for the file of this name)" in capsys.readouterr().err
    )
