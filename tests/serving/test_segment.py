"""Masks over HTTP equal those of the command; limits, disconnects and hostile uploads."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeVideo, draw_scene
from PIL import Image
from serving.samples import ADDRESS, events_of, make_client, pngs_of

from ccnet3d.cli.infer import main
from ccnet3d.cli.serve import build_parser, chosen_smoothing
from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo, load_model, save_model
from ccnet3d.serving import ServerLimits
from ccnet3d.video import open_video

pytest.importorskip("fastapi")
pytest.importorskip("httpx")


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Uploads go here; at the end of a test nothing is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def checkpoint(torn_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path) -> Path:
    path = tmp_path / "torn.safetensors"
    save_model(path, torn_model, tiny_info)
    return path


@pytest.fixture
def client(checkpoint: Path) -> Iterator[Any]:
    arguments = build_parser().parse_args([])
    model, info = load_model(checkpoint)
    with make_client(model, info, smoothing_for=lambda rate: chosen_smoothing(arguments, rate)) as client:
        yield client


def infer(video: Path, out: Path, checkpoint: Path, *options: str) -> dict[str, bytes]:
    """The files that the command writes."""
    assert main([str(video), "-o", str(out), "--checkpoint", str(checkpoint), "-q", *options]) == 0
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", []),
        ("?causal=true&smooth=2", ["--causal", "--smooth", "2"]),
        ("?classes=box,Rail&input_size=40x64", ["--classes", "box,rail", "--input-size", "40x64"]),
    ],
)
def test_masks_are_those_of_the_command(
    client: Any, checkpoint: Path, tiny_info: ModelInfo, make_video: MakeVideo, tmp_path: Path, query: str, options
) -> None:
    video = make_video(frames=7, height=50, width=66)
    expected = infer(video, tmp_path / "masks", checkpoint, *options)
    events = events_of(client.post(f"/segment{query}", content=video.read_bytes()))
    assert pngs_of(events) == expected
    for event in events[:-1]:
        ids = np.array(Image.open(io.BytesIO(base64.b64decode(event["mask"]))))
        names = {name: float((ids == i).mean()) for i, name in enumerate(tiny_info.class_names) if (ids == i).any()}
        assert event["shares"] == pytest.approx(names)
        assert (event["height"], event["width"]) == ids.shape
        assert "picture" not in event
    done = events[-1]
    assert (done["event"], done["frames"], done["downloads"]) == ("done", 7, None)
    assert done["summary"]["pts_seconds"] == pytest.approx([n / 10 for n in range(7)], abs=1e-3)
    summary = json.loads((tmp_path / "masks" / "summary.json").read_text())
    for key in ("causal", "smoothing", "input_size", "clip_length", "weights_sha256"):
        assert done["summary"]["settings"][key] == summary["settings"][key]


def test_files(client: Any, checkpoint: Path, make_video: MakeVideo, tmp_path: Path) -> None:
    video = make_video(frames=4)
    expected = infer(video, tmp_path / "masks", checkpoint, "--overlay", str(tmp_path / "over.mp4"))
    answer = client.post("/segment?output=zip", content=video.read_bytes())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist() if name.endswith(".png")} == expected
        assert json.loads(archive.read("summary.json"))["frames"] == 4
    answer = client.post("/segment?output=overlay", content=video.read_bytes())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert answer.content == (tmp_path / "over.mp4").read_bytes()


def test_kept_results(client: Any, make_video: MakeVideo, own_temporary_folder: Path) -> None:
    body = make_video(frames=2).read_bytes()
    first = events_of(client.post("/segment?keep=true&pictures=true", content=body))
    picture = Image.open(io.BytesIO(base64.b64decode(first[0]["picture"])))
    assert picture.size == (64, 48)
    downloads = first[-1]["downloads"]
    with zipfile.ZipFile(io.BytesIO(client.get(downloads["masks"]).content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()[:2]} == pngs_of(first)
    overlay = client.get(downloads["overlay"])
    assert overlay.headers["content-type"] == "video/mp4"
    for _ in range(4):
        events_of(client.post("/segment?keep=true", content=body))
    assert client.get(downloads["masks"]).status_code == 404
    assert len(list(own_temporary_folder.iterdir())) == 4  # the fixture finds none after the server has ended
    for path in ("../../etc/passwd", "x" * 32 + "/masks.zip", "0" * 32 + "/upload", "0" * 32 + "/%2e%2e%2fupload"):
        assert client.get(f"/results/{path}").status_code in (404, 422)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_photo(client: Any, checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    photo = folder / f"photo{suffix}"
    Image.fromarray(draw_scene(3, 50, 66)[0]).save(photo, exif=exif)
    events = events_of(client.post("/segment", content=photo.read_bytes()))
    assert pngs_of(events) == infer(folder, tmp_path / "masks", checkpoint)
    assert (events[0]["width"], events[0]["height"], events[0]["pts_seconds"]) == (50, 66, None)


def post(client: Any, body: Any, query: str = "", **options: Any) -> tuple[int, str]:
    answer = client.post(f"/segment{query}", content=body, **options)
    assert set(answer.json()) == {"detail"}
    return answer.status_code, answer.json()["detail"]


def test_limits(torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, monkeypatch: Any) -> None:
    video = make_video(frames=5).read_bytes()
    with make_client(torn_model, tiny_info, ServerLimits(max_megabytes=1, max_frames=4)) as client:
        large = bytes(1_000_001)
        message = (413, "the file is larger than 1 MB, the most that this server accepts")
        assert post(client, large) == message
        assert post(client, iter([large[:500_000]] * 3)) == message  # without a length
        status, text = post(client, video)
        assert (status, "more than 4 frames" in text) == (413, True)
        monkeypatch.setattr("ccnet3d.serving.uploads._MOST_PIXELS", 48 * 64 - 1)
        status, text = post(client, make_video("short.mp4", frames=2).read_bytes())
        assert (status, "64x48 pixels" in text) == (413, True)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "PNG")
    with make_client(torn_model, tiny_info) as client:
        assert post(client, buffer.getvalue())[0] == 413


def test_too_much_time(torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, monkeypatch: Any) -> None:
    original = VideoSegmenter._encode

    def slow(self: VideoSegmenter, pictures: Any) -> Any:
        time.sleep(0.3)
        return original(self, pictures)

    monkeypatch.setattr(VideoSegmenter, "_encode", slow)
    segmenter = VideoSegmenter(torn_model, tiny_info, causal=True)
    with make_client(torn_model, tiny_info, ServerLimits(max_seconds=1), segmenter=segmenter) as client:
        events = events_of(client.post("/segment", content=make_video(frames=30).read_bytes()))
        assert 1 <= len(events) - 1 < 8
        assert events[-1] == {
            "event": "error",
            "status": 413,
            "detail": "the work took longer than 1 seconds, the most per request",
        }


@pytest.mark.parametrize(
    ("body", "query", "status", "text"),
    [
        (b"", "", 422, "the request has no body"),
        (b"no video" * 99, "", 422, "the upload cannot be read as a video"),
        (b"x", "?classes=Tree", 422, "of ground, box, rail; got 'Tree'"),
        (b"x", "?classes=,", 422, "names separated by commas"),
        (b"x", "?input_size=9999x9999", 422, "got 9999x9999"),
        (b"x", "?input_size=big", 422, "input_size: String should match"),
        (b"x", "?smooth=-1", 422, "smooth: "),
        (b"x", "?output=exe", 422, "output: "),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "", 422, "a list of other files"),
        (b"\xef\xbb\xbf \n#EXTM3U\n", "", 422, "a list of other files"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "", 422, "a list of other files"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "", 422, "a list of other files"),
        (b"<?xml version='1.0'?><MPD><BaseURL>http://example.org/</BaseURL></MPD>", "", 422, "a list of other files"),
    ],
)
def test_bad_requests(client: Any, body: bytes, query: str, status: int, text: str) -> None:
    got, detail = post(client, body, query)
    assert got == status
    assert text in detail
    assert "/tmp" not in detail
    assert "temporary" not in detail


def test_forms_and_file_names_do_nothing(client: Any, make_video: MakeVideo, tmp_path: Path) -> None:
    video = make_video(frames=2).read_bytes()
    answer = client.post("/segment", files={"file": ("../../evil.mp4", video)})
    assert (answer.status_code, "forms are not read" in answer.text) == (415, True)
    headers = {"content-disposition": 'attachment; filename="../../evil.mp4"', "x-filename": "/evil.mp4"}
    before = sorted(path for path in tmp_path.rglob("*") if "temporary" not in path.parts)
    events = events_of(client.post("/segment?path=../evil.mp4&name=/evil.mp4", content=video, headers=headers))
    assert events[-1]["summary"]["video"] == "upload"
    assert sorted(path for path in tmp_path.rglob("*") if "temporary" not in path.parts) == before


def test_foreign_pages_and_names_are_refused(client: Any, make_video: MakeVideo) -> None:
    video = make_video(frames=1).read_bytes()
    for headers in (
        {"origin": "http://example.org"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1234"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert post(client, video, headers=headers) == (403, "requests of other web pages are refused")
    for host in ("example.org", "127.0.0.1.example.org", "localhost.example.org:80", "[::1", ""):
        assert client.get("/health", headers={"host": host}).status_code == 421
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "192.168.7.7"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    answer = client.post("/segment", content=video, headers={"origin": ADDRESS, "sec-fetch-site": "same-origin"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.options("/segment", headers={"origin": "http://example.org"}).status_code == 403


def test_allowed_hosts(torn_model: CCNet3D, tiny_info: ModelInfo) -> None:
    with make_client(torn_model, tiny_info, hosts=["Box.lan"]) as client:
        assert client.get("/health", headers={"host": "box.lan:8000"}).status_code == 200


def test_the_sample_answers(client: Any, tiny_info: ModelInfo) -> None:
    assert client.get("/health").json()["status"] == "ok"
    model = client.get("/classes").json()
    assert [one["name"] for one in model["classes"]] == list(tiny_info.class_names)
    assert [tuple(one["color"]) for one in model["classes"]] == list(tiny_info.palette)
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("live.css", "live.js"):
        assert f'"{name}"' in page.text
        assert client.get(f"/{name}").status_code == 200
    for path in ("/docs", "/redoc"):  # FastAPI's load scripts from another host
        assert client.get(path).status_code == 404


async def _call(app: Any, body: bytes, disconnect: asyncio.Event, sent: list[dict[str, Any]]) -> None:
    """Run one request of a client that disconnects when the event is set."""
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "path": "/segment", "raw_path": b"/segment", "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await disconnect.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)


def slow_app(model: CCNet3D, info: ModelInfo, monkeypatch: Any, limits: ServerLimits) -> tuple[Any, list[int]]:
    """An application of a slow model, and a list that grows with each frame."""
    from ccnet3d.serving import make_app

    encoded: list[int] = []
    original = VideoSegmenter._encode

    def slow(self: VideoSegmenter, pictures: Any) -> Any:
        encoded.append(len(encoded))
        time.sleep(0.05)
        return original(self, pictures)

    monkeypatch.setattr(VideoSegmenter, "_encode", slow)
    return make_app(VideoSegmenter(model, info, causal=True), limits), encoded


@pytest.mark.parametrize("when", ["before the first mask", "while masks are sent"])
def test_disconnect_ends_the_work(
    torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, own_temporary_folder: Path, monkeypatch, when: str
) -> None:
    app, encoded = slow_app(torn_model, tiny_info, monkeypatch, ServerLimits())
    body = make_video(frames=100).read_bytes()

    async def scenario() -> None:
        disconnect, sent = asyncio.Event(), []
        task = asyncio.create_task(_call(app, body, disconnect, sent))
        if when == "before the first mask":
            disconnect.set()
        else:
            while len(sent) < 3:
                await asyncio.sleep(0.01)
            assert list(own_temporary_folder.iterdir())
            disconnect.set()
        await asyncio.wait_for(task, 20)

    asyncio.run(scenario())
    assert len(encoded) < 60
    assert list(own_temporary_folder.iterdir()) == []


def test_the_end_of_the_server_ends_the_work(
    torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, monkeypatch
) -> None:
    app, encoded = slow_app(torn_model, tiny_info, monkeypatch, ServerLimits())
    body = make_video(frames=100).read_bytes()

    async def scenario() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        task = asyncio.create_task(_call(app, body, asyncio.Event(), sent))
        while len(sent) < 3:
            await asyncio.sleep(0.01)
        app.state.end_jobs()
        await asyncio.wait_for(task, 20)
        return sent

    lines = b"".join(one.get("body", b"") for one in asyncio.run(scenario())).splitlines()
    assert json.loads(lines[-1]) == {"event": "error", "status": 503, "detail": "the server ends"}
    assert len(encoded) < 60


def test_a_full_queue(torn_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo, monkeypatch) -> None:
    app, _ = slow_app(torn_model, tiny_info, monkeypatch, ServerLimits(max_waiting=1))
    body = make_video(frames=10).read_bytes()

    async def scenario() -> list[list[dict[str, Any]]]:
        answers: list[list[dict[str, Any]]] = [[], [], []]
        tasks = [asyncio.create_task(_call(app, body, asyncio.Event(), sent)) for sent in answers]
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        return answers

    answers = asyncio.run(scenario())
    assert [sent[0]["status"] for sent in answers] == [200, 200, 503]
    assert (b"retry-after", b"5") in answers[2][0]["headers"]
    first, second = (b"".join(one.get("body", b"") for one in sent).splitlines() for sent in answers[:2])
    assert len(first) == len(second) == 11
    assert first[:-1] == second[:-1]


def test_a_damaged_video_gives_its_warnings_and_frames(client: Any, make_video: MakeVideo) -> None:
    body = make_video("clip.ts", frames=20, codec="mpeg2video").read_bytes()
    events = events_of(client.post("/segment", content=body[: len(body) * 2 // 3]))
    assert 0 < events[-1]["frames"] < 20
    assert all("/" not in warning for warning in events[-1]["summary"]["warnings"])


def test_a_bug_is_not_shown_to_clients(client: Any, make_video: MakeVideo, monkeypatch, capsys) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(VideoSegmenter, "predict", broken)
    assert post(client, make_video(frames=1).read_bytes()) == (500, "the server failed; its terminal shows the reason")
    assert "ZeroDivisionError: secret" in capsys.readouterr().err


def test_open_video_reads_what_is_kept(client: Any, make_video: MakeVideo, tmp_path: Path) -> None:
    events = events_of(client.post("/segment?keep=true", content=make_video(frames=3).read_bytes()))
    overlay = tmp_path / "overlay.mp4"
    overlay.write_bytes(client.get(events[-1]["downloads"]["overlay"]).content)
    assert len(list(open_video(overlay))) == 3
