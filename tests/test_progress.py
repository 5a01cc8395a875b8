from __future__ import annotations

import sys

import pytest

from ccnet3d.progress import progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Seconds that pass as the test says."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_line_every_30_seconds_without_a_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=100, unit="frame", desc="drive.mp4") as bar:
        for _ in range(95):
            clock[0] += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "drive.mp4: 30 of 100 frames, 1.00 per second, 01:10 remaining",
        "drive.mp4: 60 of 100 frames, 1.00 per second, 00:40 remaining",
        "drive.mp4: 90 of 100 frames, 1.00 per second, 00:10 remaining",
    ]
    assert lines[3:] == ["drive.mp4: 95 of 100 frames, 1.00 per second, 00:05 remaining"]


def test_a_new_text_waits_for_the_next_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=100, unit="step", desc="training") as bar:
        for step in range(30):
            clock[0] += 1
            bar.set_postfix(loss=f"{step}")
            bar.set_description(f"epoch {step}")
            assert capsys.readouterr().err == ""
            bar.update()
        assert capsys.readouterr().err == "epoch 29: 30 of 100 steps, 1.00 per second, 01:10 remaining\n"


def test_work_of_unknown_length_and_resumed_work(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(unit="step", initial=50, desc="training") as bar:
        for _ in range(4):
            clock[0] += 10
            bar.update()
    assert capsys.readouterr().err.splitlines()[0] == "training: 53 steps, 0.10 per second"


def test_short_or_hidden_work_prints_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), unit="frame")) == [0, 1, 2]
    with progress_bar(total=9, unit="frame", hidden=True) as bar:
        clock[0] += 99
        bar.update(9)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress_bar(range(3), unit="frame")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
