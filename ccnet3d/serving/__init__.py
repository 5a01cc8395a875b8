"""A local web server: videos and photos in, masks out while they are computed, as a page and a REST interface."""

from __future__ import annotations

from ccnet3d.serving.app import make_app
from ccnet3d.serving.jobs import ServerLimits

__all__ = ["ServerLimits", "make_app"]
