"""A file given to the page in a headless Chromium, with the real server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from conftest import MakeVideo
from PIL import Image
from reports.browser import PROGRAM, Browser

from ccnet3d.cli.infer import main
from ccnet3d.models import CCNet3D, ModelInfo, save_model

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")

PALETTE = np.array([(90, 140, 60), (200, 40, 40), (40, 40, 220)])


@pytest.fixture
def checkpoint(torn_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path) -> Path:
    path = tmp_path / "torn.safetensors"
    save_model(path, torn_model, tiny_info)
    return path


@pytest.fixture
def address(checkpoint: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "ccnet3d.cli.serve", "--port", "0", "--checkpoint", str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        match = re.match(r"open (http://127\.0\.0\.1:\d+/) in a browser", server.stdout.readline())
        assert match
        yield match[1]
        server.send_signal(signal.SIGINT)
        _, stderr = server.communicate(timeout=30)
        assert (server.returncode, stderr) == (130, "ccnet3d-serve: interrupted\n")


@pytest.fixture
def browser(tmp_path: Path, address: str) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    browser.call("Emulation.setDeviceMetricsOverride", width=1000, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Page.navigate", url=address)
    browser.wait_for("document.documentElement?.dataset.state === 'idle'")
    yield browser
    browser.evaluate("0")
    assert [one for one in browser.complaints if not one.startswith(address)] == []
    browser.close()


def give(browser: Browser, path: Path) -> None:
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)


def drop_a_photo(browser: Browser) -> None:
    """Dropped by a script: a DevTools drag needs a window."""
    browser.evaluate(
        """(async () => {
          const drawn = Object.assign(document.createElement("canvas"), { width: 60, height: 40 });
          drawn.getContext("2d").fillRect(5, 5, 20, 20);
          const blob = await new Promise((done) => drawn.toBlob(done, "image/png"));
          const transfer = new DataTransfer();
          transfer.items.add(new File([blob], "photo.png"));
          dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
        })()"""
    )
    browser.wait_for("!document.getElementById('downloads').hidden")
    assert browser.evaluate("document.getElementById('progress').textContent") == "1 mask, complete"
    assert browser.evaluate("document.getElementById('facts').textContent") == "photo.png"
    assert browser.evaluate("[canvas.width, canvas.height]") == [60, 40]


def test_a_photo_a_video_and_no_video(
    browser: Browser, address: str, checkpoint: Path, make_video: MakeVideo, tmp_path: Path
) -> None:
    drop_a_photo(browser)
    video, out = make_video(frames=6), tmp_path / "masks"
    assert main([str(video), "-o", str(out), "--checkpoint", str(checkpoint), "-q"]) == 0
    give(browser, video)
    browser.wait_for("data.numbers.length === 6 && !document.getElementById('downloads').hidden")
    assert browser.evaluate("document.getElementById('progress').textContent") == "6 masks, complete"
    browser.evaluate("opacity = 1; paint()")
    for index in (5, 0, 3):
        browser.evaluate(f"jump({index})")
        browser.wait_for(f"document.documentElement.dataset.frame === '{index}' && painted === {index}")
        copy = "Object.assign(document.createElement('canvas'), {width: 64, height: 48}).getContext('2d')"
        read = (
            "[...copy.getImageData(0, 0, 64, 48).data]"  # from a copy: Chromium warns of canvases that are read often
        )
        shown = browser.evaluate(f"(() => {{ const copy = {copy}; copy.drawImage(overlay, 0, 0); return {read} }})()")
        shown = np.array(shown).reshape(48, 64, 4)
        with Image.open(out / f"{index:06d}.png") as image:
            mask = np.array(image)
        np.testing.assert_array_equal(shown[..., :3], PALETTE[mask])
        shares = browser.evaluate("[...document.querySelectorAll('.now')].map((cell) => cell.textContent)")
        assert shares == [f"{(mask == i).mean() * 100:.1f}%" for i in range(3)]
    before = [np.array(Image.open(out / f"{i:06d}.png")) for i in (2, 3)]
    assert browser.evaluate("data.change[3]") == pytest.approx(float((before[0] != before[1]).mean()))
    link = browser.evaluate("document.getElementById('masks').href")
    assert link.startswith(address)
    archive = tmp_path / "masks.zip"
    archive.write_bytes(urlopen(link).read())
    with zipfile.ZipFile(archive) as file:
        assert file.read("000003.png") == (out / "000003.png").read_bytes()
        assert json.loads(file.read("summary.json"))["frames"] == 6
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 99)
    give(browser, bad)
    browser.wait_for("!document.getElementById('problem').hidden")
    assert "cannot be read as a video" in browser.evaluate("document.getElementById('problem').textContent")
    assert browser.evaluate("document.getElementById('downloads').hidden && canvas.hidden")
    browser.complaints[:] = [one for one in browser.complaints if '"status of 422' not in one and "422" not in one]
