"""Runs that are killed and resumed; full disks."""

from __future__ import annotations

import errno
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, MakeVideo

from ccnet3d.cli.infer import main
from ccnet3d.files import write_atomically
from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo, describe_file, save_model

SERVER = """
import os, signal, sys, time
import ccnet3d.cli.infer as infer
import ccnet3d.inference.run, ccnet3d.models, av, tqdm  # only once, so that each run begins within milliseconds
print("ready", flush=True)
for line in sys.stdin:
    seconds, *arguments = line.split()
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        import torch
        torch.set_num_threads(1)
        os._exit(infer.main(arguments))
    if float(seconds):
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), time.monotonic() - begin, flush=True)
"""


class Runs:
    """Runs of ccnet3d-infer, each in a separate process that can be killed."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == ["ready"]

    def _read(self) -> list[str]:
        assert self._server.stdout
        return self._server.stdout.readline().split()

    def __call__(self, arguments: list[str], kill_after_seconds: float = 0) -> tuple[int, float]:
        """Return exit code (-9 if it was killed) and seconds of a run."""
        assert self._server.stdin
        print(kill_after_seconds, *arguments, file=self._server.stdin, flush=True)
        code, seconds = self._read()
        return int(code), float(seconds)

    def close(self) -> None:
        self._server.communicate(timeout=60)


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    server = Runs()
    yield server
    server.close()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OPTIONS = [
    ["--overlay", "{out}/over.mp4", "--save-probabilities", "--clip-stride", "2", "--shares", "{out}/shares.csv"],
    ["--format", "npz", "--smooth", "1"],
    ["--format", "ffv1", "--causal", "--start", "3"],
    ["--format", "cvat", "--frame-stride", "2", "--overlay", "{out}/over.mp4"],
    ["--format", "label-studio", "--classes", "ground,box", "--alpha", "{out}/cut.mov"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options[:2]).replace("{out}/", ""))
def test_killed_and_resumed_run_equals_an_uninterrupted_one(
    runs: Runs, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, options: list[str]
) -> None:
    """Kill at random: five runs per set of options, then one run again and again until it is complete."""
    video = make_video(frames=24)

    def command(out: Path) -> list[str]:
        chosen = [option.format(out=out) for option in options]
        return [str(video), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "-q", *chosen]

    code, seconds = runs(command(tmp_path / "whole"))
    assert code == 0
    expected = tree(tmp_path / "whole")
    moment = random.Random(" ".join(options))
    interrupted = attempts = 0
    while interrupted < 5:
        attempts += 1
        assert attempts <= 25, "the runs end before they can be killed"
        out = tmp_path / f"killed_{attempts}"
        code, lasted = runs(command(out), moment.uniform(0.05, 1) * seconds)
        assert code in (-signal.SIGKILL, 0)
        interrupted += code != 0
        seconds = lasted if code == 0 else seconds  # the machine is less busy than before
        assert runs([*command(out), "--resume"])[0] == 0
        assert tree(out) == expected
    out, code, tries = tmp_path / "killed_often", 1, 0
    while code != 0:
        tries += 1
        # Each try may last a little longer, so that one completes.
        code, _ = runs([*command(out), "--resume"], seconds * moment.uniform(0.3, 0.5 + 0.1 * tries))
    assert tree(out) == expected


def test_complete_run_stays_unchanged(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "masks"
    common = [str(make_video(frames=4)), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "--resume"]
    assert main(common) == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert main(common) == 0
    assert capsys.readouterr().out == f"4 masks of 64x48 in {out}\n"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert main([*common, "--clip-stride", "1"]) == 2
    assert f"the run in {out} had clip_stride = 2, now it is 1; resume with the options" in capsys.readouterr().err
    assert main([*common, "--overlay", str(tmp_path / "over.mp4")]) == 2
    assert "had overlay = null" in capsys.readouterr().err


@pytest.mark.parametrize("done", [0, 3])
def test_a_run_without_memory_is_resumed_or_leaves_nothing(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    out, predict = tmp_path / "masks", VideoSegmenter.predict
    overlay = ["--overlay", str(tmp_path / "over.mp4")]
    common = [str(make_video(frames=8)), "--checkpoint", str(tiny_checkpoint), "-q", *overlay, "-o"]
    assert main([*common, str(tmp_path / "whole")]) == 0
    (tmp_path / "over.mp4").unlink()

    def predict_some(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield from islice(predict(*arguments, **options), done)
        raise MemoryError("std::bad_alloc")

    with monkeypatch.context() as patched:
        patched.setattr(VideoSegmenter, "predict", predict_some)
        assert main([*common, str(out)]) == 2
    assert "out of memory (std::bad_alloc); close other programs, or use smaller" in capsys.readouterr().err
    assert not (tmp_path / "over.mp4").exists()
    assert out.exists() == bool(done)  # nothing is left that would have to be removed
    assert main([*common, str(out), *(["--resume"] if done else [])]) == 0
    assert tree(out) == tree(tmp_path / "whole")


def interrupt(out: Path, keep: int) -> None:
    """Turn a complete run into one that was interrupted after ``keep`` masks."""
    summary = json.loads((out / "summary.json").read_text())
    header = {"settings": {**summary["settings"], "overlay_file": None}}
    lines = [header, *(f"{number:06d}.png" for number in range(keep + 1))]  # of the last one only half is there
    write_atomically(out / ".ccnet3d-run.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    (out / "summary.json").unlink()
    for number in range(keep, summary["frames"]):
        (out / f"{number:06d}.png").unlink()


def test_what_cannot_be_resumed(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "masks"
    common = [str(make_video(frames=6)), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "-q"]
    assert main(common) == 0
    expected = tree(out)
    interrupt(out, 4)
    assert main(common) == 2
    assert "contains the masks of an interrupted run; give --resume" in capsys.readouterr().err
    (out / ".000004.png.0123abcd.partial").write_bytes(b"half of")  # as a kill leaves it
    assert main([*common, "--resume", "--dtype", "fp16"]) == 2
    assert "had dtype = " in capsys.readouterr().err
    (out / "000001.png").unlink()
    assert main([*common, "--resume"]) == 2
    assert "contains the mask of frame 2 where the video has frame 1" in capsys.readouterr().err
    assert main([*common, "--overwrite"]) == 0
    assert tree(out) == expected
    interrupt(out, 4)
    (out / "000003.png").write_bytes((out / "000003.png").read_bytes()[:-30])
    assert main([*common, "--resume"]) == 2
    assert "cannot read the mask" in capsys.readouterr().err
    (out / ".ccnet3d-run.jsonl").write_text("{\n")
    assert main([*common, "--resume"]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_equal_weights_with_other_loops_are_another_model(
    make_video: MakeVideo, tiny_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path, capsys
) -> None:
    """All loops share their weights, so only the header of a model file tells R; other contexts have no loops."""
    video, out = str(make_video(frames=4)), tmp_path / "masks"
    for loops in (3, 2):
        model = CCNet3D(replace(TINY, loops=loops))
        model.load_state_dict(tiny_model.state_dict())
        save_model(tmp_path / f"{loops}.safetensors", model, replace(tiny_info, model=model.config))
    run = [video, "-o", str(out), "-q", "--end", "3", "--checkpoint"]
    assert main([*run, str(tmp_path / "3.safetensors")]) == 0
    assert json.loads((out / "summary.json").read_text())["model"]["loops"] == 3
    interrupt(out, 1)
    assert main([*run, str(tmp_path / "2.safetensors"), "--resume"]) == 2
    assert "had loops = 3, now it is 2" in capsys.readouterr().err
    assert main([*run, str(tmp_path / "3.safetensors"), "--resume"]) == 0
    config = replace(TINY, context="ppm")
    save_model(tmp_path / "ppm.safetensors", CCNet3D(config), replace(tiny_info, model=config))
    assert main([*run, str(tmp_path / "ppm.safetensors"), "--overwrite"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["model"]["context"], summary["model"]["loops"], "loops" in summary["settings"]) == ("ppm", 0, False)
    assert describe_file(tmp_path / "ppm.safetensors")["loops"] == 0


@pytest.mark.parametrize(
    ("options", "limit_bytes"), [([], 150), (["--format", "npz"], 1500), (["--overlay", "{out}/over.mp4"], 5000)]
)
def test_full_disk_by_a_limit_of_file_sizes(
    make_video: MakeVideo, commands, tiny_checkpoint: Path, tmp_path: Path, options: list[str], limit_bytes: int
) -> None:
    """The limits are too small for the journal, the summary and the overlay."""
    out = tmp_path / "masks"
    command = [str(make_video(frames=30)), "-o", str(out), "--checkpoint", str(tiny_checkpoint), "-q"]
    command += [option.format(out=out) for option in options]

    limit = "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))"
    run = commands.run("ccnet3d.cli.infer", *command, before=limit)
    assert run.returncode == 2
    assert run.stderr.startswith("ccnet3d-infer: error: ")
    assert run.stderr.count("\n") == 1
    assert "File too large" in run.stderr
    assert not (out / "summary.json").exists()
    assert [path for path in out.rglob("*") if path.suffix in (".partial", ".mp4")] == []
    assert main([*command, "--resume"]) == 0
    whole = tmp_path / "whole"
    assert main([part.replace(str(out), str(whole)) for part in command]) == 0
    assert tree(out) == tree(whole)


def test_full_disk(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, capsys) -> None:
    """A file system of 64 KiB, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        common = ["--checkpoint", str(tiny_checkpoint), "-o", str(disk / "masks"), "-q"]
        assert main([str(make_video(frames=60)), *common, "--overlay", str(disk / "over.mp4")]) == 2
        assert f"{disk}/" in (error := capsys.readouterr().err)
        assert "No space left on device" in error
        left = [path.name for path in disk.rglob("*") if path.is_file()]
        assert [name for name in left if name.endswith((".partial", ".mp4")) or name == "summary.json"] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_errors_name_the_file_and_not_its_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory") as caught:
        write_atomically(tmp_path / "file" / "mask.png", b"")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
