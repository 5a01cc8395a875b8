"""URLs: real servers on this machine, by FFmpeg and by Python."""

from __future__ import annotations

import gc
import importlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY

from ccnet3d.video import VideoError, is_address, open_video, write_sample_video
from ccnet3d.video.live_clock import Pace, StreamTimes

FRAMES = 25


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "clip.mp4"
    write_sample_video(path, frames=FRAMES)
    return path


def ffmpeg(*arguments: str) -> subprocess.Popen[bytes]:
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    return subprocess.Popen([program, "-v", "error", *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def stream(clip: Path, url: str, *, rate: str = "-re") -> subprocess.Popen[bytes]:
    options = [rate] if rate else []
    kind = "flv" if url.startswith("rtmp") else "mpegts"
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "5", "-pix_fmt", "yuv420p"]
    listen = ["-listen", "1"] if url.startswith(("rtmp", "http")) else []
    process = ffmpeg(*options, "-i", str(clip), *codec, "-f", kind, *listen, url)
    time.sleep(1)  # a probe of the port would be taken for the client
    return process


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_on_a_web_server_has_the_frames_of_the_file_and_none_is_dropped(clip: Path) -> None:
    with web_server(clip.parent) as url, open_video(f"{url}/clip.mp4") as served, open_video(clip) as local:
        assert not served.info.live
        pairs = list(zip(served, local, strict=True))
    assert len(pairs) == FRAMES
    for got, expected in pairs:
        assert got.index == expected.index
        np.testing.assert_array_equal(got.image, expected.image)


@pytest.mark.parametrize("scheme", ["rtmp", "http", "tcp"])
def test_a_stream_at_its_rate_gives_every_frame_in_order(clip: Path, scheme: str) -> None:
    port = free_port()
    url = f"{scheme}://127.0.0.1:{port}" + ("/live/clip" if scheme == "rtmp" else "")
    process = stream(clip, f"{url}?listen=1" if scheme == "tcp" else url)
    try:
        with open_video(url, reconnect=0) as reader:
            assert reader.info.live
            frames = list(reader)
    finally:
        process.kill()
    assert len(frames) >= FRAMES - 1  # a server may close before its last packet is out
    assert [frame.index for frame in frames] == list(range(len(frames)))
    times = [frame.pts_seconds for frame in frames]
    assert times == sorted(times)


def test_a_slow_reader_gets_the_newest_frames_and_a_count(clip: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    process = stream(clip, f"{url}?listen=1", rate="")
    try:
        with open_video(url, reconnect=0) as reader:
            indices = []
            for frame in reader:
                indices.append(frame.index)
                time.sleep(0.3)
    finally:
        process.kill()
    assert reader.info.dropped_frames > 0
    assert len(indices) + reader.info.dropped_frames == indices[-1] + 1
    assert "dropped" in reader.info.warnings[0]


def test_no_thread_is_left_within_ffmpeg_when_a_reader_is_closed(clip: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    process = stream(clip, f"{url}?listen=1")
    try:
        with open_video(url) as reader:
            next(iter(reader))
        assert "ccnet3d-receive" not in [thread.name for thread in threading.enumerate()]
    finally:
        process.kill()


def test_a_broken_connection_is_resumed_and_the_numbering_continues(clip: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    process = stream(clip, f"{url}?listen=1")
    try:
        with open_video(url, reconnect=8) as reader:
            frames = []
            for frame in reader:
                frames.append(frame)
                if len(frames) == 5:
                    process.kill()
                    process.wait()
                    process = stream(clip, f"{url}?listen=1")
                if reader.info.reconnections and len(frames) > 15:
                    reader.stop()
    finally:
        process.kill()
    assert reader.info.reconnections == 1
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    times = [frame.pts_seconds for frame in frames]
    assert times == sorted(times)
    assert times[-1] > 1  # the time of the break has passed


@pytest.fixture
def rtsp_server(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts" / "benchmarks"))
    server: Callable[..., Any] = importlib.import_module("rtsp_server").RtspServer
    return server


def test_rtsp_gives_the_frames_in_order_and_is_resumed_after_a_break(
    clip: Path, rtsp_server: Callable[..., Any]
) -> None:
    server, frames = rtsp_server(clip, copy=True), []
    try:
        with open_video(server.url, reconnect=15) as reader:
            for frame in reader:
                frames.append(frame)
                if len(frames) == 10:
                    server.close()
                    server = rtsp_server(clip, server.server_address[1], copy=True)
                if reader.info.reconnections and len(frames) > 20:
                    reader.stop()
    finally:
        server.close()
    assert reader.info.live
    assert reader.info.reconnections == 1
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    times = [frame.pts_seconds for frame in frames]
    assert times == sorted(times)
    with open_video(clip) as local:
        expected = [frame.image for frame in local]
    assert any(np.array_equal(frames[0].image, image) for image in expected)


def test_a_live_playlist_is_read_at_its_rate_and_loses_nothing(clip: Path, tmp_path: Path) -> None:
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-pix_fmt", "yuv420p"]
    playlist = ["-f", "hls", "-hls_time", "1", "-hls_list_size", "9", str(tmp_path / "live.m3u8")]
    process = ffmpeg("-re", "-stream_loop", "1", "-i", str(clip), *codec, *playlist)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "live.m3u8").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with web_server(tmp_path) as url, open_video(f"{url}/live.m3u8", reconnect=5) as reader:
            assert reader.info.live
            indices = [frame.index for frame in reader]
    finally:
        process.kill()
    assert reader.info.dropped_frames == 0
    assert indices == list(range(2 * FRAMES))


def test_the_time_of_a_stream_that_begins_again_follows_the_clock() -> None:
    """A sender over UDP is started again: its times begin at 0, and no connection breaks."""
    times = StreamTimes(live=True)
    assert [times.at(100 + i / 4, now=10 + i / 4) for i in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [times.at(i / 4, now=15 + i / 4) for i in range(3)] == [5.0, 5.25, 5.5]
    assert times.at(95443.5, now=15.75) == 5.75  # wraps around
    assert times.at(95444.5, now=15.75) == 6.75  # a burst
    file = StreamTimes(live=False)
    assert [file.at(seconds, now=0.0) for seconds in (3.0, 3.5, 60.0)] == [0.0, 0.5, 57.0]


def test_frames_of_a_playlist_are_due_at_their_times_and_late_ones_delay_the_rest() -> None:
    pace = Pace()
    assert [pace.delay(7 + i / 4, now=1.0) for i in range(3)] == [0.0, 0.25, 0.5]
    assert pace.delay(7.75, now=3.0) == 0.0  # 1.25 seconds late
    assert pace.delay(8.0, now=3.0) == 0.25
    assert pace.delay(900.0, now=3.0) == 0.0  # a jump
    assert pace.delay(900.25, now=3.0) == 0.25


def test_frames_are_freed_without_the_garbage_collector(clip: Path) -> None:
    """Reference cycles with pixels in them grow faster than the collector visits its oldest objects."""
    pytest.importorskip("av")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with web_server(clip.parent) as url:
            for source in (f"{url}/clip.mp4", clip):
                with open_video(source) as reader:
                    assert len(list(reader)) == FRAMES
        gc.collect()
        kinds = [type(one).__name__ for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert "VideoFrame" not in kinds


def test_a_protocol_that_pyav_lacks_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")

    def fake_open(*_: object, **__: object) -> None:
        raise av.error.ProtocolNotFoundError(1330794744, "Protocol not found")

    monkeypatch.setattr(av, "open", fake_open)
    with pytest.raises(VideoError, match="lacks the protocol; relay the stream with ffmpeg"):
        open_video("srt://127.0.0.1:9000")


def test_a_playlist_from_the_network_does_not_read_local_files(clip: Path, tmp_path: Path) -> None:
    secret = tmp_path / "private" / "secret.ts"
    secret.parent.mkdir()
    ffmpeg("-i", str(clip), "-f", "mpegts", str(secret)).wait()
    served = tmp_path / "served"
    served.mkdir()
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    (served / "list.m3u8").write_text(text)
    (served / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile 'file:{secret}'\n")
    with web_server(served) as url:
        for name in ("list.m3u8", "list.ffconcat"):
            with pytest.raises(VideoError):
                list(open_video(f"{url}/{name}"))


def test_errors_name_the_source_without_its_password() -> None:
    url = f"rtsp://me:hunter2@127.0.0.1:{free_port()}/live"
    with pytest.raises(VideoError, match=r"^rtsp://me:\*\*\*@127\.0\.0\.1:\d+/live cannot be opened") as caught:
        open_video(url)
    assert caught.value.__cause__ is None


def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        began = time.monotonic()
        with pytest.raises(VideoError, match="no answer in 0.5 seconds"):
            open_video(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live", timeout=0.5)
        assert time.monotonic() - began < 5


def test_a_file_named_like_a_url_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sample_video(tmp_path / "clip.mp4", frames=2)
    (tmp_path / "clip.mp4").rename("camera:0")
    assert not is_address("camera:0")
    with open_video("camera:0") as reader:
        assert len(list(reader)) == 2


def test_a_camera_that_is_not_there_is_one_line() -> None:
    with pytest.raises(VideoError, match="camera:77 cannot be opened"):
        open_video("camera:77")


def test_unknown_protocols_are_refused_by_name() -> None:
    with pytest.raises(VideoError, match="unknown protocol; choose http"):
        open_video("concat://a|b")


@pytest.mark.parametrize(
    ("platform", "source", "file_format", "name"),
    [
        ("linux", "camera:0", "v4l2", "/dev/video0"),
        ("linux", "camera:12", "v4l2", "/dev/video12"),
        ("darwin", "camera:1", "avfoundation", "1:none"),
        ("win32", "camera:Integrated Camera", "dshow", "video=Integrated Camera"),
    ],
)
def test_a_camera_is_opened_as_ffmpeg_names_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, source: str, file_format: str, name: str
) -> None:
    av = pytest.importorskip("av")
    calls: list[tuple[str, str | None]] = []

    def fake_open(target: str, *, format: str | None, **_: object) -> None:  # noqa: A002 - PyAV's name
        calls.append((target, format))
        raise OSError("no such camera")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "formats_available", {file_format})
    monkeypatch.setattr(av, "open", fake_open)
    with pytest.raises(VideoError, match=f"{source} cannot be opened"):
        open_video(source)
    assert calls == [(name, file_format)]


def test_a_build_without_cameras_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("av"), "formats_available", set())
    with pytest.raises(VideoError, match="reads no cameras here"):
        open_video("camera:0")
