"""Paths as users write them on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["expand_home", "model_name", "path_or_url", "png_file", "user_path"]


def user_path(text: str) -> Path:
    """Parse a path, with ``~`` for the home folder where the shell left it, as in ``--output='~/masks'``."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(expand_home(text))


def expand_home(text: str) -> str:
    """Return a path with the home folder in place of a leading ``~``, unless there is a file of that name."""
    if not text.startswith("~") or Path(text).exists():
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # no such user
        return text


def model_name(text: str) -> str | Path:
    """Parse what names a model: a path or a name, as :func:`user_path` does, or the address of one on a hub."""
    return text if text.startswith("hf://") else user_path(text)


def path_or_url(text: str) -> Path | str:
    """Parse a path, or leave a URL as it is: a Path would lose one of its slashes."""
    return text if "://" in text else user_path(text)


def png_file(text: str) -> Path:
    """Parse the path of a PNG file."""
    path = user_path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a .png file, got {text!r}")
    return path
