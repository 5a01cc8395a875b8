"""Exit codes and stderr of the commands: one line for the user's mistakes, a traceback for bugs."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
from commands import Commands
from conftest import MakeVideo

import ccnet3d
from ccnet3d.cli.infer import main
from ccnet3d.cli.options import run_command
from ccnet3d.errors import FileProblemsError, OutputError, RunStoppedError, UserError
from ccnet3d.inference import VideoSegmenter

REPORT = (
    f"this is a bug in ccnet3d {ccnet3d.__version__}; please report it with the text above at the project's issue "
    "tracker\n"
)


def code_of(error: BaseException, *, debug: bool = False) -> int:
    def fail() -> None:
        raise error

    return run_command("tool", fail, "run it again", debug=debug)


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (UserError("a bad value\nwith a second line"), 2, "tool: error: a bad value\n"),
        (OutputError(28, "No space left on device", "out.png"), 2, "tool: error: out.png: No space left on device\n"),
        (
            FileProblemsError(["a.png is empty", "b.png is empty"]),
            2,
            "tool: error: 2 files are invalid; fix them or remove them from the split:\n"
            "  a.png is empty\n  b.png is empty\n",
        ),
        (KeyboardInterrupt(), 130, "tool: interrupted; run it again\n"),
        (RunStoppedError(15, "step 7"), 143, "tool: stopped: step 7; run it again\n"),
    ],
)
def test_expected_ends_are_lines(error: BaseException, code: int, stderr: str, capsys) -> None:
    assert code_of(error) == code
    assert capsys.readouterr().err == stderr


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), OSError(2, "x"), KeyError("x"), IndexError("x")])
@pytest.mark.parametrize("debug", [False, True])
def test_bug_shows_its_traceback_and_how_to_report_it(error: Exception, debug: bool, capsys) -> None:
    assert code_of(error, debug=debug) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback (most recent call last):\n")
    assert "raise error" in stderr
    assert stderr.endswith(f"tool: {REPORT}")


def test_debug_shows_the_traceback_of_user_errors(capsys) -> None:
    assert code_of(UserError("a bad value"), debug=True) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback (most recent call last):\n")
    assert "UserError: a bad value\n" in stderr
    assert stderr.endswith("tool: error: a bad value\n")


@pytest.mark.parametrize("name", ["infer", "view", "serve", "train", "evaluate", "ablate", "attention"])
def test_every_command_has_debug(name: str, tmp_path: Path, capsys) -> None:
    absent = str(tmp_path / "absent")
    arguments = {
        "infer": [absent, "-o", absent],
        "view": [absent, absent, "-o", absent],
        "serve": ["--checkpoint", absent, "--port", "0"],
        "train": ["--data", absent],
        "evaluate": ["--data", absent],
        "ablate": [absent, "--data", absent],
        "attention": [absent, "--point", "0,0", "--frame", "0"],
    }[name]
    command = importlib.import_module(f"ccnet3d.cli.{name}")
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert command.main([*arguments, "--debug"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(f"ccnet3d-{name}: error: ")


@pytest.fixture
def videos(make_video: MakeVideo, tmp_path: Path) -> Path:
    """A folder of the videos a.mp4, which is broken, b.mp4 and c.mp4."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"no video" * 100)
    for name in "bc":
        make_video(f"{name}.mp4", frames=2).rename(folder / f"{name}.mp4")
    return folder


def test_bad_video_does_not_hide_a_bug(
    videos: Path, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(VideoSegmenter, "predict", broken)
    command = [str(videos), "-o", str(tmp_path / "masks"), "--checkpoint", str(tiny_checkpoint), "-q"]
    assert main(command) == 1
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert "a.mp4 cannot be read as a video" in lines[0]
    assert lines[1] == "Traceback (most recent call last):\n"
    assert lines[-2] == "ZeroDivisionError: a bug\n"
    assert lines[-1] == f"ccnet3d-infer: {REPORT}"


def test_debug_of_several_videos(videos: Path, tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    command = [str(videos), "-o", str(tmp_path / "masks"), "--checkpoint", str(tiny_checkpoint), "-q", "--debug"]
    assert main(command) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("Traceback (most recent call last):") > 1
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["b", "c"]


def test_out_of_memory_is_one_line(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr(VideoSegmenter, "_encode", full)
    command = [str(make_video(frames=2)), "-o", str(tmp_path / "masks"), "--checkpoint", str(tiny_checkpoint)]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "ccnet3d-infer: error: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB); use a smaller "
        "--input-size, --clip-length or --batch, or another --device\n"
    )


@pytest.mark.parametrize("options", [["--json", "--overlay", "over.mp4"], []])
def test_closed_pipe_ends_quietly(
    make_video: MakeVideo, commands: Commands, tiny_checkpoint: Path, tmp_path: Path, options: list[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    command = ["ccnet3d.cli.infer", make_video(frames=4), "-o", "masks", "--checkpoint", tiny_checkpoint, *options]
    run = commands.run(*command, stdout=writing)
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, "")
    assert list(tmp_path.glob("*over*")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_full_disk_behind_stdout_is_one_line(
    make_video: MakeVideo, commands: Commands, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with Path("/dev/full").open("w") as full:
        video, out = make_video(frames=2), tmp_path / "masks"
        command = ["ccnet3d.cli.infer", video, "-o", out, "--checkpoint", tiny_checkpoint, "--json"]
        run = commands.run(*command, stdout=full.fileno())
    assert run.returncode == 2
    assert run.stderr == "ccnet3d-infer: error: standard output: No space left on device\n"
