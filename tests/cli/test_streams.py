"""Closed standard streams, terminals of any encoding, signals, and paths as users write them."""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeVideo
from PIL import Image
from video.corpus import X264, encode, ffmpeg

from ccnet3d.cli.infer import main
from ccnet3d.cli.options import run_command
from ccnet3d.cli.paths import expand_home, user_path


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        ("2>&-", 0, "done vid\\xe9o\n", ""),
        (">&-", 0, "", "note\n"),
        ("<&-", 0, "done vid\\xe9o\n", "note\n"),
        ("<&- >&- 2>&-", 0, "", ""),
    ],
)
def test_closed_streams(tmp_path: Path, closed: str, code: int, out: str, err: str) -> None:
    """A file that the command opens does not get the descriptor, and so the messages, of a closed stream."""
    program = (
        "import os, sys; from ccnet3d.cli.options import print_now, run_command\n"
        "def command():\n"
        "    with open('opened.txt', 'w') as file:\n"
        "        os.write(2, b'note\\n'); print_now('done vid\\xe9o'); file.write('mine')\n"
        "sys.exit(run_command('tool', command))"
    )
    run = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (code, out, err)
    assert (tmp_path / "opened.txt").read_text() == "mine"


@pytest.fixture
def infer(tiny_checkpoint: Path) -> Callable[..., int]:
    return lambda *arguments: main([*map(str, arguments), "--checkpoint", str(tiny_checkpoint)])


def masks(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def test_infer_without_stderr(make_video: MakeVideo, infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert infer(make_video(frames=3), "-o", tmp_path / "masks") == 0
    assert len(masks(tmp_path / "masks")) == 3


def test_infer_without_stdin(infer, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert infer("-", "-o", tmp_path / "masks") == 2
    assert capsys.readouterr().err == (
        "ccnet3d-infer: error: standard input is closed; pipe a video into it, or give a file\n"
    )
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_terminal_cannot_show(
    make_video: MakeVideo, infer, tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding))
    name = "日本 \udce9"  # of a file system in another encoding
    assert infer(make_video(frames=2), "-o", tmp_path / name) == 0
    assert shown.getvalue().startswith(b"2 masks of 64x48 in ")
    assert len(masks(tmp_path / name)) == 2


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signals_end_a_command_like_the_keyboard(number: str, code: int, capsys) -> None:
    sent, handler = getattr(signal, number), signal.getsignal(getattr(signal, number))
    cleaned = []

    def command() -> None:
        try:
            os.kill(os.getpid(), sent)
            signal.pause()
        finally:
            cleaned.append(True)

    assert run_command("tool", command, "run it again") == code
    assert capsys.readouterr().err == "tool: interrupted; run it again\n"
    assert cleaned == [True]
    assert signal.getsignal(sent) == handler


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="POSIX signals")
def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_command("tool", lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX processes")
def test_signals_end_child_processes_as_usual() -> None:
    def command() -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, b"ready")
            time.sleep(30)
            os._exit(1)
        os.read(reading, 5)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM

    assert run_command("tool", command) == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, capsys) -> None:
    def command() -> None:
        raise error

    assert run_command("tool", command) == 2
    reason = str(error) or "MemoryError"
    assert capsys.readouterr().err == (
        f"tool: error: out of memory ({reason}); close other programs, or use smaller inputs\n"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_named_pipe_gives_the_masks_of_the_file(make_video: MakeVideo, infer, tmp_path: Path) -> None:
    video, fifo = make_video("a.mkv", frames=9), tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(video.read_bytes()), daemon=True)
    writer.start()
    assert infer(fifo, "-o", tmp_path / "pipe") == 0
    writer.join(timeout=30)
    assert infer(video, "-o", tmp_path / "file") == 0
    assert [path.name for path in sorted((tmp_path / "pipe").glob("*.png"))] == [f"{n:06d}.png" for n in range(9)]
    assert np.array_equal(masks(tmp_path / "pipe"), masks(tmp_path / "file"))


def test_overlay_keeps_the_pixel_aspect(infer, tmp_path: Path) -> None:
    video = encode(tmp_path / "dv.mp4", "-vf", "setsar=16/11", *X264, frames=2)
    assert infer(video, "-o", tmp_path / "masks:1", "--overlay", tmp_path / "over:1.mp4") == 0
    _, messages = ffmpeg("-i", tmp_path / "over:1.mp4", level="info", check=False)
    assert "[SAR 16:11 " in messages


def test_absent_device_is_one_short_line(make_video: MakeVideo, infer, tmp_path: Path, capsys) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    assert infer(make_video(frames=2), "-o", tmp_path / "masks", "--device", "mps") == 2
    error = capsys.readouterr().err
    assert error.startswith("ccnet3d-infer: error: the device 'mps' cannot be used here: ")
    assert error.endswith("; give cpu, or auto\n")
    assert len(error) < 250


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/masks") == tmp_path / "home" / "masks"
    assert user_path("~") == tmp_path / "home"
    assert expand_home("~/videos/*.mp4") == str(tmp_path / "home" / "videos" / "*.mp4")
    for text in ("a/~", "https://host/~a", "-", "~no-such-user/x", "./~"):
        assert expand_home(text) == text
    (tmp_path / "~odd").mkdir()
    assert user_path("~odd") == Path("~odd")
    with pytest.raises(argparse.ArgumentTypeError, match="expected a path, got an empty text"):
        user_path("")


def test_output_in_the_home_folder(make_video: MakeVideo, infer, tmp_path: Path, monkeypatch) -> None:
    video = make_video(frames=2)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert infer(f"~/{video.name}", "--output=~/masks") == 0
    assert len(masks(tmp_path / "masks")) == 2
    assert not (tmp_path / "~").exists()
    with pytest.raises(SystemExit):
        infer(video, "-o", "")


def test_same_masks_whatever_the_surroundings(
    make_video: MakeVideo, infer, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locale, working directory and order of the command line."""
    videos = [make_video(name, frames=4) for name in ("vidéo 1:00.mp4", "b.mp4")]
    other = make_video("c.mkv", frames=4, height=50, width=70)
    images = tmp_path / "frames"
    images.mkdir()
    for number in (10, 9, 1):
        Image.new("RGB", (64, 48), (20 * number, 0, 90)).save(images / f"{number}.png")
    assert infer(*videos, other, images, "-o", tmp_path / "first") == 0
    monkeypatch.chdir(tmp_path)
    assert infer("frames", "c.mkv", "b.mp4", "vidéo 1:00.mp4", "-o", "second") == 0
    monkeypatch.chdir(images)
    command = [sys.executable, "-m", "ccnet3d.cli.infer", "../b.mp4", ".", "../vidéo 1:00.mp4", "../c.mkv"]
    plain = {
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "TZ": "Asia/Tokyo",
    }
    subprocess.run(
        [*command, "-o", "../third", "--checkpoint", tiny_checkpoint],
        env={**os.environ, **plain}, check=True, capture_output=True,
    )  # fmt: skip
    first = {path.relative_to(tmp_path / "first"): path.read_bytes() for path in (tmp_path / "first").rglob("*.png")}
    assert len(first) == 15
    for folder in (tmp_path / "second", tmp_path / "third"):
        assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")} == first
