"""Applications with a tiny model, and what they answer."""

from __future__ import annotations

import base64
import json
from typing import Any

from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.serving import ServerLimits, make_app

ADDRESS = "http://127.0.0.1"


def make_client(model: CCNet3D, info: ModelInfo, limits: ServerLimits | None = None, **options: Any) -> Any:
    from fastapi.testclient import TestClient

    segmenter = options.pop("segmenter", None) or VideoSegmenter(model, info)
    return TestClient(make_app(segmenter, limits, **options), base_url=ADDRESS)


def events_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def pngs_of(events: list[dict[str, Any]]) -> dict[str, bytes]:
    """The masks by file name."""
    return {f"{one['frame']:06d}.png": base64.b64decode(one["mask"]) for one in events if one["event"] == "frame"}
