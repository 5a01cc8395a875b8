"""``--engine ray``: the same bytes as the plain command, whatever happens to the processes."""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def dying(video: str, masks: int, times: int, marks: Path) -> Callable[..., dict[str, Any]]:
    """Return a function like segment_job whose process kills itself after some masks of a video, that many times."""

    def segment(job: Any, segmenter: Any, options: Any, arguments: Any, on_progress: Any = lambda: None) -> dict:
        from ccnet3d.cli.infer import segment_job  # in the actor, where it is the command's own

        done: list[None] = []

        def progress() -> None:
            done.append(None)
            on_progress()
            dead = len(list(marks.glob(f"{video}-*")))
            if f"{video}.mp4" in job.name and len(done) == masks and dead < times:
                (marks / f"{video}-{dead}").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return segment_job(job, segmenter, options, arguments, progress)

    return segment


@pytest.mark.usefixtures("cluster")
def test_six_videos_two_actors_one_broken_file_one_actor_killed(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "videos").mkdir()
    for name, frames in zip("abcde", (4, 6, 5, 20, 3), strict=True):
        make_video(f"{name}.mp4", frames=frames).rename(tmp_path / "videos" / f"{name}.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video" * 100)
    options = ["videos", "--checkpoint", str(tiny_checkpoint), "--smooth", "1", "--save-probabilities", "--json"]
    monkeypatch.chdir(tmp_path)
    assert main([*options, "-o", "plain", "--overlay", "plain/overlays", "--threads", "1", "-q"]) == 2
    plain = capsys.readouterr()
    monkeypatch.setattr("ccnet3d.cli.infer.segment_job", dying("d", 10, 1, tmp_path))
    ray = [*options, "-o", "ray", "--overlay", "ray/overlays", "--engine", "ray", "--actors", "2"]
    assert main([*ray, "--manifest", "table.csv"]) == 2
    assert (tmp_path / "d-0").exists()
    shown = capsys.readouterr()
    expected = tree(tmp_path / "plain")
    assert tree(tmp_path / "ray") == expected
    assert len(expected) == 2 * (4 + 6 + 5 + 20 + 3) + 5 + 5
    table = rows(tmp_path / "table.csv")
    assert {name: (row["status"], row["frames"]) for name, row in table.items()} == {
        **{name: ("done", frames) for name, frames in zip("abcde", ("4", "6", "5", "20", "3"), strict=True)},
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


@pytest.mark.usefixtures("cluster")
def test_pieces_in_two_actors_equal_one_run(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    """With a piece whose actor is killed, a video without pieces, and one whose actor dies each time."""
    videos = [str(make_video(f"{name}.mp4", frames=frames)) for name, frames in [("long", 21), ("short", 5)]]
    common = ["--checkpoint", str(tiny_checkpoint), "-q", "--format", "ffv1", "--save-probabilities"]
    plain = [*videos, *common, "-o", str(tmp_path / "plain"), "--overlay", str(tmp_path / "plain" / "overlays")]
    assert main([*plain, "--threads", "1"]) == 0
    doomed = dying("doomed", 3, 2, tmp_path)

    def segment(*arguments: Any) -> dict[str, Any]:
        return (doomed if "doomed" in arguments[0].name else once)(*arguments)

    once = dying("long", 6, 1, tmp_path)
    monkeypatch.setattr("ccnet3d.cli.infer.segment_job", segment)
    videos.insert(1, str(make_video("doomed.mp4", frames=6)))
    ray = [*videos, *common, "-o", str(tmp_path / "ray"), "--overlay", str(tmp_path / "ray" / "overlays")]
    ray += ["--engine", "ray", "--actors", "2", "--piece-frames", "8", "--retries", "1"]
    assert main([*ray, "--manifest", str(tmp_path / "table.csv")]) == 2
    assert "1 of 3 videos failed" in capsys.readouterr().err
    table = rows(tmp_path / "table.csv")
    assert {name: row["status"] for name, row in table.items()} == {"long": "done", "doomed": "failed", "short": "done"}
    assert table["doomed"]["error"].startswith("its actor died in 2 tries (it was killed, or its machine is gone")
    assert sorted(path.name for path in tmp_path.glob("*-?")) == ["doomed-0", "doomed-1", "long-0"]
    found = {name: data for name, data in tree(tmp_path / "ray").items() if "doomed" not in name}
    assert found == tree(tmp_path / "plain")


@pytest.mark.usefixtures("cluster")
def test_errors_of_all_videos_end_the_command(make_video: MakeVideo, tmp_path: Path, capsys) -> None:
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
