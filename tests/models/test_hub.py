"""The hub client itself, against a small server on this machine."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from ccnet3d.cli.model import main
from ccnet3d.errors import UserError
from ccnet3d.models import (
    ARCHITECTURES,
    CCNet3D,
    ModelInfo,
    describe_file,
    fingerprint,
    load_model,
    model_card,
    push_to_hub,
    save_model,
)
from ccnet3d.models.hub import HubAddress, parse_address

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """What the client needs of a hub: files of one repository and commits to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        prefix = "/yard/boxes/resolve/"
        revision, _, name = self.path.removeprefix(prefix).partition("/")
        if not self.path.startswith(prefix):
            self.answer(b"", 404, X_Error_Code="RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self.answer(b"", 404, X_Error_Code="RevisionNotFound")
        elif name not in self.server.files:
            self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            body = self.server.files[name]
            self.answer(body, ETag=f'"{sha256(body).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            answer: dict = {"url": "https://huggingface.co/yard/boxes"}
        elif "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {
                "commitUrl": f"https://huggingface.co/yard/boxes/commit/{COMMIT}",
                "commitOid": COMMIT,
                "success": True,
            }
        else:
            answer = {}
        self.answer(json.dumps(answer).encode(), Content_Type="application/json")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "not-a-real-token")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_pushed_model_is_loaded_again(
    hub: Hub, tiny_model: CCNet3D, tiny_info: ModelInfo, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(tiny_checkpoint), "yard/boxes"]) == 0
    assert capsys.readouterr().out == f"https://huggingface.co/yard/boxes/commit/{COMMIT}\n"
    assert hub.files["model.safetensors"] == tiny_checkpoint.read_bytes()
    assert hub.files["README.md"].decode() == model_card(tiny_checkpoint, "yard/boxes")
    for address in ("hf://yard/boxes", "hf://yard/boxes/model.safetensors@v1"):
        model, info = load_model(address)
        assert info == tiny_info
        expected = load_model(tiny_checkpoint)[0].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert main(["show", "hf://yard/boxes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["ground", "box", "rail"]
    push_to_hub((tiny_model, tiny_info), "yard/boxes")
    assert hub.files["model.safetensors"] == tiny_checkpoint.read_bytes()


def test_what_a_hub_refuses(hub: Hub, tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="hf://yard/other: there is no such repository, or it is private"):
        load_model("hf://yard/other")
    with pytest.raises(UserError, match="hf://yard/boxes: the repository has no such file; give hf://ORG/NAME/FILE"):
        load_model("hf://yard/boxes")
    with pytest.raises(UserError, match="hf://yard/boxes@v9: the repository has no such revision"):
        load_model("hf://yard/boxes@v9")
    hub.files["model.safetensors"] = tiny_checkpoint.read_bytes()[:-100]
    with pytest.raises(UserError, match="is not a ccnet3d model file"):
        load_model("hf://yard/boxes")


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hub_package = pytest.importorskip("huggingface_hub")
    httpx = pytest.importorskip("httpx")

    def fail(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(hub_package.HfApi, "hf_hub_download", fail)
    assert main(["show", "hf://yard/boxes"]) == 2
    message = "ccnet3d-model: error: hf://yard/boxes cannot be reached, and is not in the cache; check the connection"
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://a/b", ("a/b", "model.safetensors", None)),
        ("hf://a/b/c/d.safetensors", ("a/b", "c/d.safetensors", None)),
        ("hf://a/b@refs/pr/1", ("a/b", "model.safetensors", "refs/pr/1")),
        ("hf://a/b/d.safetensors@v1", ("a/b", "d.safetensors", "v1")),
    ],
)
def test_addresses(text: str, parts: tuple[str, str, str | None]) -> None:
    assert parse_address(text) == HubAddress(*parts)


def test_bad_addresses() -> None:
    for text in ("hf://", "hf://a", "hf://a/b@", "hf:///a/b", "hf://../b/c.safetensors", "hf://a/b@v1@v2"):
        with pytest.raises(UserError, match="expected hf://ORG/NAME"):
            parse_address(text)
    for text in ("hf://a/b/model.pt", "hf://a/b/model.bin@v1", "hf://a/b/../c.safetensors"):
        with pytest.raises(UserError, match="only .safetensors files are loaded from a hub"):
            parse_address(text)
    with pytest.raises(UserError, match="expected the repository as ORG/NAME, got 'boxes'"):
        push_to_hub(None, "boxes")


def test_show_and_card(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tiny_checkpoint)]) == 0
    shown = capsys.readouterr().out
    assert "3 classes        ground, box, rail\n" in shown
    assert "clip length      3\ninput size       32x48 (height x width)\ntrained on       yard, split train\n" in shown
    assert main(["show", "default", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    weights = REPOSITORY / "ccnet3d" / "weights" / "ccnet3d_b0_camvid.safetensors"
    assert table["bytes"] == weights.stat().st_size
    assert main(["card", str(tiny_checkpoint)]) == 0
    card = capsys.readouterr().out
    assert card.startswith("---\nlibrary_name: ccnet3d\n")
    assert "| 1 | box | 200, 40, 40 |" in card
    assert "yard, split train" in card
    assert main(["show", "nothing.safetensors"]) == 2
    assert "there is no model file at nothing.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("architecture", ["ccnet3d_b0", "ccnet3d_lite"])
def test_show_equals_the_loaded_model(tmp_path: Path, architecture: str, dtype: torch.dtype) -> None:
    config = replace(ARCHITECTURES[architecture], num_classes=3, embedding_channels=4 if "lite" in architecture else 0)
    model = CCNet3D(config)
    info = ModelInfo(config, ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), 5, (48, 64), "yard", {"seed": 1})
    save_model(tmp_path / "m.safetensors", model, info, dtype=dtype)
    loaded, _ = load_model(tmp_path / "m.safetensors")
    table = describe_file(tmp_path / "m.safetensors")
    assert table["parameters"] == sum(parameter.numel() for parameter in loaded.parameters())
    assert table["weights_sha256"] == fingerprint(loaded)
    assert (table["dataset"], table["recipe"], table["input_size"]) == ("yard", {"seed": 1}, [48, 64])


def test_show_and_card_do_not_import_pytorch(tiny_checkpoint: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from ccnet3d.cli.model import main; sys.exit(main(sys.argv[1:]))"
    for arguments in (["show", tiny_checkpoint], ["show", "--help"], ["card", tiny_checkpoint]):
        done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    damaged = tiny_checkpoint.with_name("damaged.safetensors")
    damaged.write_bytes(tiny_checkpoint.read_bytes()[:-10])
    done = subprocess.run([sys.executable, "-c", code, "show", damaged], capture_output=True, text=True)
    damaged.unlink()
    assert done.returncode == 2
    assert done.stderr.startswith(f"ccnet3d-model: error: {damaged} is not a ccnet3d model file (")
    assert done.stderr.count("\n") == 1
