"""The Ray example as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeVideo
from script_runner import run


def test_ray_writes_the_same_masks_as_the_command(tmp_path: Path, make_video: MakeVideo, tiny_checkpoint: Path) -> None:
    """Two actors, three videos and a broken one; a second call finds everything done."""
    pytest.importorskip("ray", reason="ray is an optional extra")
    (tmp_path / "videos").mkdir()
    for name in "abc":
        make_video(f"{name}.mp4", frames=6).rename(tmp_path / "videos" / f"{name}.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video" * 100)
    common = [tmp_path / "videos", "--checkpoint", tiny_checkpoint, "--smooth", "1"]
    for _ in range(2):
        pool = run("infer_with_ray.py", *common, "-o", tmp_path / "ray", "--actors", "2", "--device", "cpu")
        assert pool.returncode == 2
        assert "infer_with_ray.py: error: 1 of 4 videos failed; their lines contain the errors" in pool.stderr
        rows = {Path(row["source"]).stem: row for row in map(json.loads, pool.stdout.splitlines())}
        assert {name: row["frames"] for name, row in rows.items()} == {"a": 6, "b": 6, "c": 6, "broken": 0}
        assert "cannot be read as a video" in rows["broken"]["error"]
    infer = [sys.executable, "-m", "ccnet3d.cli.infer", *common, "-o", tmp_path / "command", "--threads", "1"]
    subprocess.run([*map(str, infer)], check=False, capture_output=True)
    trees = [
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("ray", "command")
    ]
    assert trees[0] == trees[1]
    assert len(trees[0]) == 3 * 7
