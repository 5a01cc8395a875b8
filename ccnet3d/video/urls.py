"""Names of sources that are no files: URLs and cameras."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_address", "safe_name", "short_name"]

_ADDRESS = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]+://|camera:).")
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]*@")
_SECRET = re.compile(r"(?i)(?<=[?&])([^=&#]*(?:token|key|pass|pwd|secret|sig|auth)[^=&#]*)=[^&#]*")


def is_address(source: object) -> bool:
    """Return whether a source is a URL or a camera; a file of that name is a file.

    >>> is_address("rtsp://host/live"), is_address("camera:0"), is_address("walk:1.mp4")
    (True, True, False)
    """
    return isinstance(source, str) and bool(_ADDRESS.match(source)) and not Path(source).exists()


def safe_name(source: str) -> str:
    """Return a source without the password and the secret parameters of a URL.

    >>> safe_name("rtsp://me:hunter2@host/live?token=abc&n=1")
    'rtsp://me:***@host/live?token=***&n=1'
    """
    return _SECRET.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", source))


def short_name(address: str) -> str:
    """Return a file name for the outputs of an address.

    >>> short_name("https://host/drive.mp4?n=1"), short_name("rtsp://me:pw@host:554/"), short_name("camera:0")
    ('drive', 'host_554', 'camera_0')
    """
    rest = re.split(r"[?#]", address.partition("://")[2])[0].rstrip("/")
    host, *parts = rest.rpartition("@")[2].split("/")
    name = re.sub(r"\.\w+$", "", parts[-1]) if parts else host
    return re.sub(r"[^\w-]+", "_", name or address).strip("_") or "stream"
