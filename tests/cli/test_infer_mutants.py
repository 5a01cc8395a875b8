"""Damaged videos through the whole command: masks and warnings, or one clear error and nothing written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from video.mutants import KINDS, make_bases, mutate

COUNT = int(os.environ.get("CCNET3D_MUTANTS", "60"))
"""tests/video reads 1,000; the whole command takes longer, so as many are optional."""

WORKER = """
import contextlib, io, json, sys
from ccnet3d.cli.infer import main
for line in sys.stdin:
    arguments = json.loads(line)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = main(arguments)
    print(json.dumps([code, stderr.getvalue()]), flush=True)
"""


def test_damaged_videos(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bases = make_bases(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    ends = {0: 0, 2: 0}
    warned = 0
    for number in range(COUNT):
        base, kind = bases[number % len(bases)], KINDS[number // len(bases) % len(KINDS)]
        video, out = tmp_path / f"{number}_{base.name}", tmp_path / str(number)
        video.write_bytes(mutate(base.read_bytes(), kind, np.random.default_rng(number)))
        command = [video, "-o", out, "--checkpoint", tiny_checkpoint, "-q", "--threads", "1", "--overlay", f"{out}.mp4"]
        print(json.dumps([*map(str, command)]), file=process.stdin, flush=True)
        result = process.stdout.readline()
        assert result, f"{video.name} ({kind}) ended the process with code {process.wait()}"
        code, stderr = json.loads(result)
        ends[code] += 1
        if code == 2:
            assert stderr.count("\n") == 1, f"{video.name} ({kind}): {stderr}"
            assert stderr.startswith("ccnet3d-infer: error: ")
            assert not out.exists()
            continue
        summary = json.loads((out / "summary.json").read_text())
        masks = sorted(int(path.stem) for path in out.glob("*.png"))
        assert masks == summary["frame_numbers"]
        assert len(masks) == summary["frames"] > 0
        assert stderr.splitlines() == [f"ccnet3d-infer: warning: {warning}" for warning in summary["warnings"]]
        warned += bool(summary["warnings"])
        if masks != list(range(len(masks))):
            assert any(re.search("left (a gap|gaps) in the numbering", warning) for warning in summary["warnings"])
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert ends[0] > COUNT / 2
    assert ends[2] > 0
    assert warned > COUNT / 10
