"""The web application of a model, without the optional packages until it is made."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ccnet3d.errors import UserError
from ccnet3d.inference import StreamingSegmenter
from ccnet3d.serving.jobs import ServerLimits

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["make_app"]


def make_app(
    segmenter: StreamingSegmenter,
    limits: ServerLimits | None = None,
    *,
    hosts: Collection[str] = (),
    smoothing_for: Callable[[float | None], int] = lambda _: 0,
) -> FastAPI:
    """Return the application that ``ccnet3d-serve`` runs: ``POST /segment``, ``GET /classes`` and the page ``/``.

    Args:
        segmenter: the model and its settings, which a request may override.
        limits: of one request, and of how many may wait; the defaults of ServerLimits if None.
        hosts: host names by which clients may address the server, in addition to ``localhost`` and IP addresses.
        smoothing_for: the smoothing of a video with this number of frames per second, where a request names none.

    Raises:
        UserError: FastAPI is not installed.

    >>> from fastapi.testclient import TestClient
    >>> from ccnet3d.inference import VideoSegmenter
    >>> from ccnet3d.models import load_model
    >>> client = TestClient(make_app(VideoSegmenter(*load_model())), base_url="http://localhost")
    >>> [one["name"] for one in client.get("/classes").json()["classes"]][:3]
    ['Sky', 'Building', 'Pole']
    """
    try:
        from ccnet3d.serving.routes import build_app
    except ImportError as error:
        raise UserError("serving needs FastAPI; run: pip install 'ccnet3d[serve]'") from error
    return build_app(segmenter, limits or ServerLimits(), hosts, smoothing_for)
