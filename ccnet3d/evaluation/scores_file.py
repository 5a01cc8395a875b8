"""The file of scores that an evaluation may replace: an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ccnet3d.config import parse_json
from ccnet3d.errors import UserError

__all__ = ["check_scores_file"]


def check_scores_file(path: Path) -> None:
    """Check that scores can be written to a file without replacing one of others, before they are computed.

    Raises:
        UserError: there is a folder, a link, or a file of another kind.
    """
    if path.is_dir():
        raise UserError(f"the scores are one file, and {path} is a folder; give the name of a .json file")
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not replaced; give another name")
    if path.exists() and not _has_scores(path):
        raise UserError(f"{path} exists, and is no file of scores that ccnet3d-evaluate wrote; give another name")


def _has_scores(path: Path) -> bool:
    try:
        table: dict[str, Any] = parse_json(path.read_bytes()) if path.is_file() else {}
    except (UserError, OSError):
        return False
    record, clean = table.get("record"), table.get("clean")
    return (isinstance(record, dict) and "version" in record) or (isinstance(clean, dict) and "miou" in clean)
