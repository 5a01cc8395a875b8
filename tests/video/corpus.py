"""Small videos in many containers and codecs, made with the ffmpeg command of imageio-ffmpeg.

Every frame contains its index in blocks that survive lossy compression, so that a test can read from the pixels which
frame it is.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from video.paff import paff_stream

HEIGHT, WIDTH, FRAMES, RATE = 80, 96, 40, 10
BITS = 6
_BLOCK = 12


def draw_coded(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Draw a moving texture with the bits of ``index`` as a row of blocks, white for 1; uint8 ``[H, W, 3]``."""
    y, x = np.mgrid[:height, :width]
    shift = 3 * index
    image = np.stack([
        128 + 90 * np.sin((x + shift) / 9) * np.cos(y / 7),
        128 + 80 * np.sin((x - y + shift) / 11),
        128 + 90 * np.cos((y + shift) / 8),
    ], axis=-1)  # fmt: skip
    for bit in range(BITS):
        top, left = 4, 4 + (_BLOCK + 2) * bit
        image[top : top + _BLOCK, left : left + _BLOCK] = 235 if index >> bit & 1 else 20
    return np.clip(image, 0, 255).astype(np.uint8)


def read_code(image: np.ndarray) -> int:
    """Return the frame index drawn in an upright frame."""
    middles = [image[7:13, 7 + (_BLOCK + 2) * bit : 13 + (_BLOCK + 2) * bit].mean() for bit in range(BITS)]
    return sum((middle > 128) << bit for bit, middle in enumerate(middles))


def ffmpeg(*arguments: object, stdin: bytes = b"", level: str = "error", check: bool = True) -> tuple[bytes, str]:
    """Run ffmpeg; return its standard output and its messages."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-v", level, "-threads", "1", *map(str, arguments)]
    if stdin:
        command.remove("-nostdin")
    done = subprocess.run(command, input=stdin or None, capture_output=True, check=False)
    messages = done.stderr.decode(errors="replace")
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{messages}")
    return done.stdout, messages


@contextmanager
def fed(path: Path, data: bytes) -> Iterator[None]:
    """Write data into a FIFO from a thread, as a shell's ``cat video > fifo &``."""

    def write() -> None:
        with suppress(BrokenPipeError):
            path.write_bytes(data)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    thread.join(timeout=30)
    assert not thread.is_alive()


def encode(
    path: Path,
    *arguments: object,
    frames: int = FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
    first: int = 0,
    rate: int = RATE,
    before: tuple[object, ...] = (),
) -> Path:
    """Encode drawn frames with the given ffmpeg options."""
    raw = b"".join(draw_coded(index, height, width).tobytes() for index in range(first, first + frames))
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-")
    ffmpeg(*source, *before, *arguments, path, stdin=raw)
    return path


def skip_without(decoder: str) -> None:
    """Skip a test where a decoder is not installed, or TorchCodec finds no FFmpeg libraries."""
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this platform")
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec", reason="TorchCodec is not installed")
        if not _torchcodec_loads():
            pytest.skip("TorchCodec finds no shared libraries of FFmpeg")


@cache
def _torchcodec_loads() -> bool:
    from torchcodec.decoders import VideoDecoder

    try:
        VideoDecoder(b"")
    except RuntimeError as error:
        return "libtorchcodec" not in str(error)
    except ValueError:
        return True
    return True


def has_encoder(name: str) -> bool:
    return bool(re.search(rf"^ V\S+ {re.escape(name)} ", _encoders(), re.MULTILINE))


@cache
def _encoders() -> str:
    return ffmpeg("-hide_banner", "-encoders")[0].decode()


@dataclass(frozen=True)
class Sample:
    """A file of the corpus and its true properties."""

    name: str
    make: Callable[[Path], object]
    encoder: str = "libx264"
    frames: int = FRAMES
    """Frames that a reader must return, except from damaged files."""
    warning: str = ""
    """Pattern of the reader's warning; empty if there must be none."""
    drawn: bool = True
    """Whether the upright frames contain their indices."""


X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", 12, "-bf", 2, "-b_strategy", 0)
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1:keyint=12:bframes=3")
VPX = ("-cpu-used", 8, "-deadline", "realtime", "-g", 12, "-b:v", "400k")
ALT_REF = ("-deadline", "good", "-cpu-used", 5, "-auto-alt-ref", 1, "-lag-in-frames", 12, "-b:v", "400k")
SOUND = ("-f", "lavfi", "-i", "sine=sample_rate=8000:duration=6")


def coded(name: str, *arguments: object, encoder: str = "libx264", frames: int = FRAMES, **options: Any) -> Sample:
    """Return a sample that is encoded directly."""
    return Sample(name, lambda path: encode(path, *arguments, frames=frames, **options), encoder, frames)


def copied(
    name: str, before: tuple[object, ...], after: tuple[object, ...], frames: int = FRAMES, *, drawn: bool = True
) -> Sample:
    """Return a sample that is a copy of an mp4 file with other options."""

    def make(path: Path) -> None:
        source = encode(path.with_name(f"source_of_{path.stem}.mp4"), *X264)
        ffmpeg(*before, "-i", source, *after, "-c", "copy", path)
        source.unlink()

    return Sample(name, make, frames=frames, drawn=drawn)


def hidden_packets(path: Path) -> None:
    """Write VP9 of two passes, with hidden frames as packets of their own; FFmpeg's muxers join them by default."""
    drawn, joined, log = (path.with_name(f"{path.stem}_{part}") for part in ("drawn.mkv", "joined.mkv", "log"))
    encode(drawn, "-c:v", "ffv1")
    codec = ("-c:v", "libvpx-vp9", "-b:v", "400k", "-cpu-used", 5, "-auto-alt-ref", 1, "-lag-in-frames", 16)
    for number, output in ((1, ("-f", "null", "-")), (2, (joined,))):
        ffmpeg("-i", drawn, "-pix_fmt", "yuv420p", *codec, "-passlogfile", log, "-pass", number, *output)
    ffmpeg("-i", joined, "-c", "copy", "-bsf:v", "vp9_superframe_split", "-fflags", "-autobsf", path)
    drawn.unlink()
    joined.unlink()


def field_packets(path: Path) -> None:
    """Write interlaced H.264 with a packet per field."""
    images = np.random.default_rng(0).integers(16, 236, (FRAMES, 32, 16)).astype(np.uint8)
    raw = path.with_suffix(".h264")
    raw.write_bytes(paff_stream(list(images), 25))
    ffmpeg("-r", 25, "-i", raw, "-c", "copy", path, check=False)  # complains about missing times, which it makes


def dropped_frames(name: str, *codec: object, encoder: str) -> Sample:
    """Return an AVI with five empty slots after frame 9, and one after frame 22."""
    drop = "select='not(between(n,10,14)+eq(n,23))'"
    return Sample(name, lambda path: encode(path, "-vf", drop, "-fps_mode", "passthrough", *codec), encoder,
                  frames=FRAMES - 6, drawn=False)  # fmt: skip


def late_stream(path: Path) -> None:
    """Write two recordings behind each other, of which only the second has sound."""
    parts = [path.with_name(f"part{number}_{path.name}") for number in (0, 1)]
    encode(parts[0], *X264, "-muxdelay", 0, frames=20)
    encode(parts[1], *X264, "-c:a", "aac", "-muxdelay", 0, "-output_ts_offset", 2, "-t", 2, before=SOUND,
           frames=20, first=20)  # fmt: skip
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()


def two_streams(path: Path) -> None:
    """Write a larger stream of other frames, and the drawn ones with the default flag."""
    parts = [path.with_name(f"part{number}_{path.name}") for number in (0, 1)]
    encode(parts[0], *X264, first=20, frames=20, height=96, width=128)
    encode(parts[1], *X264)
    ffmpeg("-i", parts[0], "-i", parts[1], "-map", "0:v", "-map", "1:v", "-c", "copy",
           "-disposition:v:0", "0", "-disposition:v:1", "default", path)  # fmt: skip
    for part in parts:
        part.unlink()


def size_change(path: Path) -> None:
    """Write 20 frames of 96x80, then 20 of 128x96, in one stream."""
    parts = [path.with_name(f"part{number}_{path.name}") for number in (0, 1)]
    encode(parts[0], *X264, "-muxdelay", 0, frames=20)
    encode(parts[1], *X264, "-muxdelay", 0, "-output_ts_offset", 2, frames=20, first=20, height=96, width=128)
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()


def cut_tail(path: Path) -> None:
    """Write a faststart mp4 without its last 40 %."""
    encode(path, *X264, "-movflags", "+faststart")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])


def packet_ranges(path: Path) -> list[tuple[int, int]]:
    """Return offset and size of every video packet in bytes, in file order."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size and packet.pos >= 0]


def damaged(name: str, number: int, warning: str, *arguments: object, encoder: str = "libx264") -> Sample:
    """Return a sample whose packet ``number`` is zeroed."""

    def make(path: Path) -> None:
        encode(path, *arguments)
        data = bytearray(path.read_bytes())
        position, size = packet_ranges(path)[number]
        data[position + 5 : position + size] = bytes(size - 5)
        path.write_bytes(data)

    return Sample(name, make, encoder, warning=warning)


def tagged(name: str, matrix: str, range_: str, *codec: object, encoder: str = "libx264") -> Sample:
    scale = f"scale=out_color_matrix={matrix}:out_range={range_}"
    return coded(name, "-vf", scale, "-colorspace", matrix, "-color_range", range_, *codec, encoder=encoder)


X264_PLAIN = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
SAMPLES = [
    *(coded(f"h264_b.{kind}", *X264) for kind in ("mp4", "mkv", "mov", "avi", "ts", "flv", "nut", "m4v")),
    coded("h264_open_gop.mp4", *X264, "-x264-params", "open-gop=1:bframes=3"),
    coded("h264_open_gop.mkv", *X264, "-x264-params", "open-gop=1:bframes=3:b-pyramid=normal"),
    coded("h264_long_gop.mp4", *X264_PLAIN, "-g", 999, "-bf", 3),
    coded("h264_intra.mp4", *X264_PLAIN, "-g", 1),
    coded("h264_intra_refresh.mp4", *X264_PLAIN, "-x264-params", "intra-refresh=1:keyint=10"),
    coded("h264_10bit.mp4", *X264[:4], "-pix_fmt", "yuv420p10le", "-g", 12),
    coded("h264_422.mov", *X264[:4], "-pix_fmt", "yuv422p", "-g", 12),
    coded("h264_444.mp4", *X264[:4], "-pix_fmt", "yuv444p", "-g", 12),
    coded("h264_odd.mp4", *X264[:4], "-pix_fmt", "yuv444p", "-g", 12, height=81, width=97),
    coded("h264_tff.mp4", *X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1"),
    coded("h264_tff.ts", *X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1"),
    coded("one_frame.mp4", *X264, frames=1),
    coded("two_frames.mkv", *X264, frames=2),
    coded("variable_rate.mp4", "-vf", "setpts='N+floor(N/5)*7'", "-fps_mode", "passthrough", *X264),
    coded("variable_rate.mkv", "-vf", "setpts='N+floor(N/5)*7'", "-fps_mode", "passthrough", *X264),
    coded("fragmented.mp4", *X264, "-movflags", "+frag_keyframe+empty_moov"),
    coded("faststart.mp4", *X264, "-movflags", "+faststart"),
    coded("sound.mp4", *X264, "-c:a", "aac", before=SOUND),
    coded("late_sound.mkv", *X264, "-c:a", "aac", before=("-itsoffset", 1.5, *SOUND)),
    coded("late_picture.mp4", "-vf", "setpts=PTS+1.5/TB", *X264, "-c:a", "aac", before=SOUND),
    copied("edit_list.mp4", ("-ss", 1.5), (), frames=25),
    copied("end_cut.mp4", (), ("-t", 2), frames=22),
    *(copied(f"turned_{degrees}.mp4", ("-display_rotation", degrees), (), drawn=False) for degrees in (90, 180, 270)),
    *(copied(f"mirrored_{degrees}.mp4", ("-display_rotation", degrees, "-display_hflip"), (), drawn=False)
      for degrees in (0, 90, 180, 270)),
    copied("slanted.mp4", ("-display_rotation", 30), (), drawn=False),
    tagged("bt709.mp4", "bt709", "tv", *X264),
    tagged("bt601.mp4", "smpte170m", "tv", *X264),
    tagged("full_range.mp4", "bt709", "pc", *X264),
    tagged("vp9_full.webm", "bt709", "pc", "-c:v", "libvpx-vp9", *VPX, encoder="libvpx-vp9"),
    coded("hevc.mp4", *X265, "-pix_fmt", "yuv420p", encoder="libx265"),
    coded("hevc.mkv", *X265, "-pix_fmt", "yuv420p", encoder="libx265"),
    coded("hevc_10bit.mp4", *X265, "-pix_fmt", "yuv420p10le", encoder="libx265"),
    coded("hevc_closed.mp4", *X265[:-1], X265[-1] + ":open-gop=0", encoder="libx265"),
    coded("vp8.webm", "-c:v", "libvpx", *VPX, encoder="libvpx"),
    coded("vp8_alt_ref.webm", "-c:v", "libvpx", *ALT_REF, encoder="libvpx"),
    coded("vp9.webm", "-c:v", "libvpx-vp9", *VPX, encoder="libvpx-vp9"),
    coded("vp9_alt_ref.webm", "-c:v", "libvpx-vp9", *ALT_REF, encoder="libvpx-vp9"),
    coded("vp9_odd.mkv", "-c:v", "libvpx-vp9", *VPX, encoder="libvpx-vp9", height=81, width=97),
    coded("vp9.mp4", "-c:v", "libvpx-vp9", *ALT_REF, encoder="libvpx-vp9"),
    coded("av1.mp4", "-c:v", "libaom-av1", "-cpu-used", 8, "-g", 12, "-b:v", "400k", encoder="libaom-av1"),
    coded("av1_svt.mkv", "-c:v", "libsvtav1", "-preset", 12, "-g", 12, "-svtav1-params", "lp=1", encoder="libsvtav1"),
    coded("mpeg4.avi", "-c:v", "mpeg4", "-bf", 2, "-q:v", 3, encoder="mpeg4"),
    coded("mpeg4.mp4", "-c:v", "mpeg4", "-bf", 2, "-q:v", 3, encoder="mpeg4"),
    # libxvid does not write the last two B-frames, and leaves two slots empty.
    Sample("xvid_packed.avi", lambda path: encode(path, "-c:v", "libxvid", "-bf", 2, "-q:v", 3, frames=37), "libxvid",
           frames=35),
    coded("mpeg2.ts", "-c:v", "mpeg2video", "-bf", 2, "-q:v", 3, encoder="mpeg2video", rate=25),
    coded("mpeg2.mpg", "-c:v", "mpeg2video", "-bf", 2, "-q:v", 3, encoder="mpeg2video", rate=25),
    coded("mpeg2_tff.mkv", "-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", 3, encoder="mpeg2video", rate=25),
    coded("mpeg1.mpg", "-c:v", "mpeg1video", "-q:v", 3, encoder="mpeg1video", rate=25),
    coded("mjpeg.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", 3, encoder="mjpeg"),
    coded("mjpeg.mov", "-c:v", "mjpeg", "-pix_fmt", "yuvj422p", "-q:v", 3, encoder="mjpeg"),
    coded("animation.gif", encoder="gif"),
    coded("animation.apng", "-f", "apng", encoder="apng"),
    coded("ffv1_crc.mkv", "-c:v", "ffv1", "-slicecrc", 1, "-level", 3, "-slices", 4, encoder="ffv1"),
    coded("ffv1.mkv", "-c:v", "ffv1", encoder="ffv1"),
    coded("ffv1_gray.mkv", "-c:v", "ffv1", "-pix_fmt", "gray", encoder="ffv1"),
    coded("ffv1_alpha.mkv", "-c:v", "ffv1", "-pix_fmt", "bgra", encoder="ffv1"),
    coded("prores.mov", "-c:v", "prores_ks", "-profile:v", 2, encoder="prores_ks"),
    coded("prores_alpha.mov", "-c:v", "prores_ks", "-profile:v", 4, "-pix_fmt", "yuva444p10le", encoder="prores_ks"),
    coded("qtrle.mov", "-c:v", "qtrle", encoder="qtrle"),
    coded("dnxhr.mov", "-c:v", "dnxhd", "-profile:v", "dnxhr_sq", "-pix_fmt", "yuv422p", encoder="dnxhd",
          height=144, width=256),
    coded("raw.y4m", "-pix_fmt", "yuv420p", encoder="rawvideo"),
    coded("raw.avi", "-c:v", "rawvideo", "-pix_fmt", "bgr24", encoder="rawvideo"),
    coded("wmv2.wmv", "-c:v", "wmv2", "-q:v", 3, encoder="wmv2"),
    coded("flv1.flv", "-c:v", "flv", "-q:v", 3, encoder="flv"),
    coded("theora.ogv", "-c:v", "libtheora", "-q:v", 8, "-g", 12, encoder="libtheora"),
    *(Sample(f"vp9_hidden.{kind}", hidden_packets, "libvpx-vp9") for kind in ("webm", "mp4")),
    *(Sample(f"fields.{kind}", field_packets, drawn=False) for kind in ("ts", "mkv", "mp4")),
    dropped_frames("dropped.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", encoder="mjpeg"),
    dropped_frames("dropped_b.avi", "-c:v", "mpeg4", "-bf", 2, "-q:v", 3, encoder="mpeg4"),
    dropped_frames("dropped_h264.avi", *X264, encoder="libx264"),
    coded("raw.dv", "-c:v", "dvvideo", "-pix_fmt", "yuv420p", encoder="dvvideo", height=576, width=720, rate=25,
          frames=4),
    Sample("late_stream.ts", late_stream, warning="1 damaged or incomplete packet"),  # packets are counted again
    Sample("two_streams.mkv", two_streams, warning="2 video streams, 0 .128x96., 1 .96x80., and stream 1 is read"),
    Sample("size_change.ts", size_change, warning="the frame size changes: 96x80 .* 128x96 from frame 20"),
    Sample("cut.mp4", cut_tail, warning=r"only \d+ of the 40 frames that the file claims.*it may be truncated"),
    damaged("damaged.mp4", 15, "frame 14 could not be decoded and left a gap", *X264),
    damaged("damaged_intra.avi", 15, "1 packet could not be decoded", "-c:v", "mjpeg", "-q:v", 3, encoder="mjpeg"),
    damaged("damaged_intra.mov", 15, "frame 15 could not be decoded and left a gap", "-c:v", "mjpeg", encoder="mjpeg"),
    damaged("damaged_ffv1.mkv", 15,
            "a checksum of FFV1 is wrong.*frames 15-23 could", "-c:v", "ffv1", "-slicecrc", 1, encoder="ffv1"),
]  # fmt: skip
