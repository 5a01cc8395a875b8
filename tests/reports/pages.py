"""Pages of a test, read without a browser."""

from __future__ import annotations

import base64
import io
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from conftest import draw_scene
from PIL import Image

from ccnet3d.masks.saved_masks import open_masks
from ccnet3d.reports import write_video_page
from ccnet3d.video import open_video


def scene_masks(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """The labels of the video that ``make_video`` writes, with "other" (255) at the top."""
    return [draw_scene(number, height, width)[1] for number in range(count)]


class Page(HTMLParser):
    """The scripts of a page by id, and the text and attributes of everything else."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.text: dict[str, str] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self._at: tuple[str, str] = ("", "")
        self.feed(path.read_text(encoding="utf-8"))
        self.data: dict[str, Any] = json.loads(self.scripts["data"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at = (tag, dict(attrs).get("id") or "")
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._at = ("", "")

    def handle_data(self, data: str) -> None:
        tag, name = self._at
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag:
            self.text[tag] = self.text.get(tag, "") + data

    def frame(self, index: int) -> np.ndarray:
        with Image.open(io.BytesIO(base64.b64decode(self.scripts[f"frame-{index}"]))) as image:
            assert image.format == "JPEG"
            return np.array(image)

    def mask(self, index: int) -> np.ndarray:
        height, width = self.frame(index).shape[:2]
        ids = zlib.decompress(base64.b64decode(self.scripts[f"mask-{index}"]))
        return np.frombuffer(ids, np.uint8).reshape(height, width)


def make_page(folder: Path, video: Path, **options: Any) -> Page:
    path = folder.parent / "view.html"
    write_video_page(open_masks(folder), open_video(video), path, overwrite=True, **options)
    return Page(path)
