"""Damaged copies of small videos, and a worker process that reads them one after another."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from video.corpus import SAMPLES

BASES = ("h264_b.mp4", "h264_b.mkv", "h264_b.ts", "fragmented.mp4", "faststart.mp4", "hevc.mp4", "vp9.webm", "vp8.webm",
         "mpeg4.avi", "mjpeg.mov", "ffv1_crc.mkv", "h264_b.flv")  # fmt: skip
KINDS = ("flip bits", "cut tail", "cut middle", "swap", "zero")


def make_bases(folder: Path) -> list[Path]:
    for sample in SAMPLES:
        if sample.name in BASES:
            sample.make(folder / sample.name)
    return [folder / name for name in BASES]


def mutate(data: bytes, kind: str, random: np.random.Generator) -> bytes:
    """Return a damaged copy: flipped bits, a lost tail or middle, two swapped parts, or a part of zeros."""
    changed = bytearray(data)
    size = len(data)
    length = int(random.integers(1, max(2, size // 8)))
    start = int(random.integers(0, size - length))
    if kind == "flip bits":
        for _ in range(int(random.integers(1, 12))):
            changed[random.integers(0, size)] ^= 1 << int(random.integers(0, 8))
    elif kind == "cut tail":
        del changed[int(random.integers(1, size)) :]
    elif kind == "cut middle":
        del changed[start : start + length]
    elif kind == "swap":
        other = int(random.integers(0, size - length))
        part = changed[start : start + length]
        changed[start : start + length] = changed[other : other + length]
        changed[other : other + length] = part
    else:
        changed[start : start + length] = bytes(length)
    return bytes(changed)


def read_all(path: Path, with_clip: bool) -> str:
    """Read a file; return one line with the error, or with counts and warnings."""
    from ccnet3d.video import VideoError, open_video

    try:
        with open_video(path) as reader:
            frames = {frame.index: frame for frame in reader}
            warnings = "; ".join(reader.info.warnings)
            if with_clip:
                for index in list(frames)[:: max(1, len(frames) // 3)]:
                    try:
                        (frame,) = reader.clip([index])
                    except VideoError:
                        continue
                    if frame.index != index or frame.pts_seconds != frames[index].pts_seconds:
                        return f"CLIP {index} has another index or time"
                    if frame.image.shape != frames[index].image.shape:
                        return f"CLIP {index} has another size"
                    if not warnings and not np.array_equal(frame.image, frames[index].image):
                        return f"CLIP {index} differs in a file without warnings"
    except VideoError as error:
        return f"error {error}"
    gaps = max(frames) + 1 - len(frames)
    damaged = sum(frame.damaged for frame in frames.values())
    return f"frames {len(frames)} {gaps} {damaged} {warnings}"


def main() -> None:
    """Read file names from standard input and print one line per file."""
    for line in sys.stdin:
        name, with_clip = line.rstrip("\n").split("\t")
        try:
            result = read_all(Path(name), with_clip == "clip")
        except BaseException as error:  # the test must see every exception
            result = f"RAISED {type(error).__name__}: {error}"
        print(result.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
