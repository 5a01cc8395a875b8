"""A page to look through the masks of a video."""

from ccnet3d.viewer.page import write_page

__all__ = ["write_page"]
