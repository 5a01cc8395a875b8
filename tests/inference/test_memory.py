from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import MakeVideo

PROBE = """
import resource, sys
from ccnet3d.cli.infer import main
code = main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_video(make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """2 and 20 minutes, at 2.5 frames per second to keep the test short."""
    peaks = {}
    for minutes in (2, 20):
        video = make_video(f"{minutes}.mp4", frames=150 * minutes, height=32, width=48, pts=range(0, 600 * minutes, 4))
        command = [sys.executable, "-c", PROBE, video, "-o", tmp_path / f"masks{minutes}", "-q", "--threads", "1"]
        command += [
            "--checkpoint",
            tiny_checkpoint,
            "--input-size",
            "32x32",
            "--overlay",
            tmp_path / f"{minutes}_o.mp4",
        ]
        run = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
        code, kibibytes = map(int, run.stdout.split())
        assert code == 0
        assert len(list((tmp_path / f"masks{minutes}").glob("*.png"))) == 150 * minutes
        peaks[minutes] = kibibytes
    assert peaks[20] <= 1.05 * peaks[2]
