#!/usr/bin/env python3
"""Run the shell and Python blocks of Markdown files in order, in a temporary folder, as a reader who pastes them.

A comment on the line before a block says why it is not pasted: ``<!-- not pasted: REASON -->``; blocks after
``<!-- needs CamVid -->`` are pasted if CCNET3D_CAMVID names its folder. The test command is run by ``.ci/run``.
The folder contains what the examples name: video.mp4, videos/ and frames/, of the drawn street.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ccnet3d.video import draw_sample_frame, write_sample_video

BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<kind>|sh|bash|python)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
OTHER_BLOCK = re.compile(r"^```(?!sh\n|bash\n|python\n|\n).*?^```$", re.MULTILINE | re.DOTALL)
FRAMES = 8


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, code and mark of each block that could be pasted."""
    for match in BLOCK.finditer(OTHER_BLOCK.sub("", text)):
        yield match["kind"] or "bash", match["code"], match["mark"] or ""


def reason_to_skip(mark: str) -> str:
    """Return why a block is not pasted, nothing if it is."""
    if mark == "needs CamVid":
        return "" if os.environ.get("CCNET3D_CAMVID") else "CCNET3D_CAMVID is not set"
    return "run by .ci/run" if mark == "test command" else mark.removeprefix("not pasted: ")


def make_inputs(folder: Path) -> None:
    """Write the files that the examples name."""
    (folder / "videos").mkdir()
    (folder / "frames").mkdir()
    for name in ("video.mp4", "videos/morning.mp4", "videos/evening.mp4"):
        write_sample_video(folder / name, frames=FRAMES)
    for index in range(FRAMES):
        Image.fromarray(draw_sample_frame(index)).save(folder / "frames" / f"{index:04d}.png")
    if os.environ.get("CCNET3D_CAMVID"):
        (folder / "data").mkdir()
        (folder / "data" / "camvid").symlink_to(os.environ["CCNET3D_CAMVID"])


def main() -> int:
    """Paste the files that the arguments name; return the first exit code that is not 0."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as name:
        make_inputs(Path(name))
        for file in sys.argv[1:]:
            for kind, code, mark in blocks(Path(file).read_text(encoding="utf-8")):
                first = code.strip().splitlines()[0]
                if reason := reason_to_skip(mark):
                    print(f"{file}: skipped ({reason}): {first}", flush=True)
                    continue
                command = ["bash", "-euo", "pipefail", "-c", code] if kind != "python" else [sys.executable, "-c", code]
                began = time.perf_counter()
                code_returned = subprocess.run(command, cwd=name, env=environment, check=False).returncode
                print(f"{file}: {time.perf_counter() - began:.0f} s: {first}", flush=True)
                if code_returned:
                    print(f"{file}: exit code {code_returned}:\n{code}", file=sys.stderr)
                    return code_returned
    return 0


if __name__ == "__main__":
    sys.exit(main())
