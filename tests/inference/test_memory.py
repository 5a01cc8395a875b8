from __future__ import annotations

from pathlib import Path

from commands import Commands
from conftest import MakeVideo

SAY_THE_PEAK = "import atexit, resource; "
SAY_THE_PEAK += "atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"


def test_memory_does_not_grow_with_the_video(
    make_video: MakeVideo, commands: Commands, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """2 and 10 minutes, at 2.5 frames per second to keep the test short."""
    peaks = {}
    for minutes in (2, 10):
        frames = 150 * minutes
        video = make_video(f"{minutes}.mp4", frames=frames, height=64, width=96, pts=range(0, 4 * frames, 4))
        options = ["-q", "--threads", "1", "--input-size", "32x32", "--overlay", tmp_path / f"{minutes}_o.mp4"]
        command = [video, "-o", tmp_path / f"masks{minutes}", "--checkpoint", tiny_checkpoint, *options]
        run = commands.run("ccnet3d.cli.infer", *command, before=SAY_THE_PEAK)
        assert run.returncode == 0, run.stderr
        assert len(list((tmp_path / f"masks{minutes}").glob("*.png"))) == frames
        peaks[minutes] = int(run.stdout)
    assert peaks[10] <= 1.05 * peaks[2]
