"""The names of the files of a run, and which of them its summary says that it wrote."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from ccnet3d.config import parse_json
from ccnet3d.errors import UserError
from ccnet3d.journal import is_regular, relative_name
from ccnet3d.masks.formats import FORMATS
from ccnet3d.masks.png_format import PNG

__all__ = [
    "BESIDE_KEYS",
    "JOURNAL_NAME",
    "PROBABILITIES_NAME",
    "SUMMARY_NAME",
    "is_plain_name",
    "load_summary",
    "numbered_files",
    "summarized_names",
]

SUMMARY_NAME = "summary.json"
JOURNAL_NAME = ".ccnet3d-run.jsonl"
PROBABILITIES_NAME = "probabilities"
BESIDE_KEYS = ("overlay_file", "alpha_file", "shares_file")
"""Keys of the summary for files that a run writes elsewhere."""
_NUMBERED = re.compile(r"(\d{6,})\.(png|npz)", re.IGNORECASE)
"""Masks and probabilities; some file systems ignore case."""


def load_summary(path: Path) -> dict[str, Any] | None:
    """Return the summary of a run, None without a file.

    Raises:
        UserError: the file is something else.
    """
    try:
        # A named pipe would wait for its writer.
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        summary = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; move it, or give another folder") from error
    if not isinstance(summary.get("settings", {}), dict) or "frames" not in summary:
        raise UserError(f"{path} is not a summary that ccnet3d-infer wrote; move it, or give another folder")
    return summary


def numbered_files(folder: Path, suffix: str) -> Iterator[tuple[Path, int]]:
    """Yield the files of a folder that are named like masks or probabilities, and their frame indices."""
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NUMBERED.fullmatch(path.name)
        if match and f"{int(match[1]):06d}.{suffix}" == path.name.lower():
            yield path, int(match[1])


def is_plain_name(name: str) -> bool:
    """Return whether a name is that of a file in a folder, and leads nowhere else."""
    return bool(name) and Path(name).name == name and name != ".." and "\0" not in name


def summarized_names(folder: Path) -> set[str]:
    """Return the names of the files that ``summary.json`` says a run wrote."""
    path = folder / SUMMARY_NAME
    summary = load_summary(path) if is_regular(path) else None
    if summary is None:
        return set()
    mask_format = FORMATS.get(str(summary.get("format", "png")))
    numbers, frames = summary.get("frame_numbers"), summary["frames"]
    if numbers is None and isinstance(frames, int):
        indices: Container[object] = range(frames)
    else:
        indices = {number for number in numbers if isinstance(number, int)} if isinstance(numbers, list) else ()
    names = {SUMMARY_NAME, *(name for key in BESIDE_KEYS if isinstance(name := summary.get(key), str))}
    numbered = []
    if mask_format is PNG and "mask_files" in summary:
        given = summary["mask_files"] if isinstance(summary["mask_files"], list) else []
        names |= {name for name in given if isinstance(name, str) and name.endswith(".png") and is_plain_name(name)}
    elif mask_format is PNG:
        numbered += [*numbered_files(folder, "png")]
    elif mask_format and mask_format.file_name:
        names.add(mask_format.file_name)
    if summary.get("settings", {}).get("probabilities"):
        numbered += [*numbered_files(folder / PROBABILITIES_NAME, "npz")]
    names |= {relative_name(folder, file) for file, index in numbered if index in indices}
    return names
