"""``--engine ray``: the same bytes as the plain command, whatever happens to the processes."""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeVideo

from ccnet3d.cli.actor_sizes import ActorSizes, size_actors
from ccnet3d.cli.infer import main
from ccnet3d.errors import UserError


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {Path(row["video"]).stem: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray as the command starts it, once for all tests."""
    pytest.importorskip("ray", reason="ray is an optional extra")
    from ccnet3d.cli.ray_engine import _cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        with _cluster():
            yield


class Killer(threading.Thread):
    """Kill the process that writes to an output folder once it has written some masks, as often as requested."""

    def __init__(self, folder: Path, masks: int, times: int = 1) -> None:
        super().__init__(daemon=True)
        self._folder, self._masks, self._times = folder, masks, times
        self.killed: list[int] = []

    def run(self) -> None:
        end = time.monotonic() + 100
        while len(self.killed) < self._times and time.monotonic() < end:
            if len(list(self._folder.glob("0*.png"))) >= self._masks:
                self.killed += self._kill()
            time.sleep(0.02)

    def _kill(self) -> list[int]:
        lock = str(self._folder / ".ccnet3d-lock")
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal() or int(process.name) in (os.getpid(), *self.killed):
                continue
            try:
                opened = [os.readlink(file) for file in (process / "fd").iterdir()]
            except OSError:
                continue
            if lock in opened:
                os.kill(int(process.name), signal.SIGKILL)
                return [int(process.name)]
        return []


def test_six_videos_two_actors_one_broken_file_one_actor_killed(
    cluster: None, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "videos").mkdir()
    for name, frames in zip("abcde", (4, 6, 5, 90, 3), strict=True):
        make_video(f"{name}.mp4", frames=frames).rename(tmp_path / "videos" / f"{name}.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video" * 100)
    options = ["videos", "--checkpoint", str(tiny_checkpoint), "--smooth", "1", "--save-probabilities", "--json"]
    monkeypatch.chdir(tmp_path)
    assert main([*options, "-o", "plain", "--overlay", "plain/overlays", "--threads", "1", "-q"]) == 2
    plain = capsys.readouterr()
    killer = Killer(tmp_path / "ray" / "d", masks=10)
    killer.start()
    ray = [*options, "-o", "ray", "--overlay", "ray/overlays", "--engine", "ray", "--actors", "2"]
    assert main([*ray, "--manifest", "table.csv"]) == 2
    killer.join()
    assert len(killer.killed) == 1
    shown = capsys.readouterr()
    expected = tree(tmp_path / "plain")
    assert tree(tmp_path / "ray") == expected
    assert len(expected) == 2 * (4 + 6 + 5 + 90 + 3) + 5 + 5
    table = rows(tmp_path / "table.csv")
    assert {name: (row["status"], row["frames"]) for name, row in table.items()} == {
        **{name: ("done", frames) for name, frames in zip("abcde", ("4", "6", "5", "90", "3"), strict=True)},
        "broken": ("failed", ""),
    }
    assert table["a"]["video"] == "videos/a.mp4"
    assert table["a"]["output"] == "ray/a"
    assert "videos/broken.mp4 cannot be read as a video" in table["broken"]["error"]
    errors = [line for line in shown.err.splitlines() if "error" in line]
    assert errors == [line for line in plain.err.splitlines() if "error" in line]
    assert "videos/d.mp4: its actor died" in shown.err
    assert "it is tried again, 1 of 2" in shown.err

    def events(text: str, name: str) -> list[dict]:
        return [json.loads(line) for line in text.splitlines() if json.loads(line)["video"] == f"videos/{name}.mp4"]

    for name in "abce":
        assert events(shown.out, name)[:-1] == events(plain.out, name)[:-1]
        assert events(shown.out, name)[-1]["summary"] == events(plain.out, name)[-1]["summary"]


def test_a_video_whose_actor_always_dies_fails_alone(
    cluster: None, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    videos = [str(make_video("long.mp4", frames=150)), str(make_video("short.mp4", frames=3))]
    killer = Killer(tmp_path / "out" / "long", masks=5, times=2)
    killer.start()
    arguments = [*videos, "-o", str(tmp_path / "out"), "--checkpoint", str(tiny_checkpoint), "-q"]
    ray = ["--engine", "ray", "--actors", "1", "--retries", "1", "--manifest", str(tmp_path / "table.csv")]
    assert main([*arguments, *ray]) == 2
    killer.join()
    table = rows(tmp_path / "table.csv")
    assert {name: row["status"] for name, row in table.items()} == {"long": "failed", "short": "done"}
    assert table["long"]["error"].startswith("its actor died in 2 tries (it was killed, or its machine is gone")
    assert "1 of 2 videos failed" in capsys.readouterr().err


def test_pieces_in_two_actors_equal_one_run(
    cluster: None, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """With a killed piece, and a video that is too short for pieces."""
    videos = [str(make_video("long.mp4", frames=60)), str(make_video("short.mp4", frames=5))]
    common = [*videos, "--checkpoint", str(tiny_checkpoint), "-q", "--format", "ffv1", "--save-probabilities"]
    plain = [*common, "-o", str(tmp_path / "plain"), "--overlay", str(tmp_path / "plain" / "overlays")]
    assert main([*plain, "--threads", "1"]) == 0
    out = ["-o", str(tmp_path / "ray"), "--overlay", str(tmp_path / "ray" / "overlays")]
    killer = Killer(tmp_path / "ray" / "long" / ".pieces" / "000000000", masks=4)
    killer.start()
    ray = [*common, *out, "--engine", "ray", "--actors", "2", "--piece-frames", "30"]
    assert main(ray) == 0
    killer.join()
    assert len(killer.killed) == 1
    expected = tree(tmp_path / "plain")
    assert tree(tmp_path / "ray") == expected


def test_errors_of_all_videos_end_the_command(
    cluster: None, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    video, out = str(make_video(frames=2)), ["-o", str(tmp_path / "out"), "--engine", "ray"]
    assert main([video, *out, "--checkpoint", str(tmp_path / "missing.safetensors")]) == 2
    assert "missing.safetensors" in capsys.readouterr().err
    assert main(["-", *out]) == 2
    assert "Ray's processes cannot read standard input" in capsys.readouterr().err
    assert main([video, *out, "--actors", "2", "--device", "cuda"]) == 2
    assert "the Ray cluster has 0 GPUs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("device", "actors", "threads", "cpus", "gpus", "expected"),
    [
        ("auto", None, None, 64, 8, ActorSizes(8, 4, 4, 1, "cuda")),
        ("auto", 3, None, 64, 8, ActorSizes(3, 4, 4, 1, "cuda")),
        ("cuda", None, None, 8, 4, ActorSizes(4, 2, 2, 1, "cuda")),
        ("cpu", None, None, 64, 8, ActorSizes(16, 4, 4, 0, "cpu")),
        ("auto", None, None, 1, 0, ActorSizes(1, 1, 1, 0, "cpu")),
        ("auto", None, None, 6, 0, ActorSizes(2, 3, 3, 0, "cpu")),
        ("cpu", 8, None, 4, 0, ActorSizes(8, 1, 0.5, 0, "cpu")),
        ("cpu", 2, 8, 4, 0, ActorSizes(2, 8, 2, 0, "cpu")),
        ("cpu", None, 2, 8, 0, ActorSizes(4, 2, 2, 0, "cpu")),
    ],
)
def test_sizes_of_actors(device, actors, threads, cpus, gpus, expected: ActorSizes) -> None:
    arguments = argparse.Namespace(device=device, actors=actors, threads=threads)
    found = size_actors(arguments, cpus, gpus)
    assert found == expected
    assert found.actors * found.cpus <= cpus
    assert found.actors * found.gpus <= gpus


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(UserError, match="the Ray cluster has 2 GPUs, one per actor"):
        size_actors(argparse.Namespace(device="auto", actors=3, threads=None), 8, 2)
    with pytest.raises(UserError, match="give --device cuda instead of cuda:1"):
        size_actors(argparse.Namespace(device="cuda:1", actors=None, threads=None), 8, 2)
