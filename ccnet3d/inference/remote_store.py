"""An fsspec file system whose errors are one line that names the URL as the user typed it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ccnet3d.errors import UserError

__all__ = ["Store", "is_remote", "split_url"]

_PACKAGES = {
    "s3": "'ccnet3d[s3]'",
    "s3a": "'ccnet3d[s3]'",
    "gs": "'ccnet3d[gcs]'",
    "gcs": "'ccnet3d[gcs]'",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "hdfs": "pyarrow",
    "hf": "huggingface_hub",
    "file": "fsspec",
    "memory": "fsspec",
}
"""What to install for each scheme of URLs that are files; other URLs are streams, or unknown."""

_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes whose URLs begin with the name of a bucket."""

_CLIENTS = {
    "adlfs",
    "aiobotocore",
    "aiohttp",
    "asyncio",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "huggingface_hub",
    "paramiko",
    "pyarrow",
    "requests",
    "s3fs",
}
"""Packages whose exceptions are problems of a store, and not bugs here."""


def is_remote(text: str) -> bool:
    """Return whether a text is a URL of files that fsspec reaches.

    >>> is_remote("s3://bucket/walk.mp4"), is_remote("rtsp://camera/1"), is_remote("walk.mp4")
    (True, False, False)
    """
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in _PACKAGES


def split_url(url: str) -> tuple[str, str]:
    """Return the start of a URL and its path, without empty parts.

    Raises:
        UserError: the path is empty, or leads upwards.

    >>> split_url("s3://bucket/masks/"), split_url("file:///data/masks")
    (('s3://', 'bucket/masks'), ('file:///', 'data/masks'))
    """
    scheme, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise UserError(f"expected a URL such as {scheme}://bucket/folder, got {url!r}")
    return f"{scheme}://{'/' if rest.startswith('/') else ''}", "/".join(parts)


class Store:
    """The file system of a URL.

    Args:
        url: any URL in it.

    Raises:
        UserError: its package is not installed, or its settings are wrong.
    """

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        self.prefix = split_url(url)[0]
        with self._errors(url):
            import fsspec

            options: dict[str, Any] = {"auto_mkdir": True} if scheme == "file" else {}
            try:
                self._files = fsspec.filesystem(scheme, **options)
            except ImportError as error:
                raise UserError(f"{url} needs a package; run: pip install {_PACKAGES[scheme]}") from error

    @contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _CLIENTS:
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, FileNotFoundError):
                reason = "there is no such file, folder or bucket"
            reason = str(reason).strip().splitlines()[0]
            raise UserError(f"cannot use {url}: {reason}; check the name, your credentials and your rights") from error

    def is_file(self, url: str) -> bool:
        with self._errors(url):
            self._files.invalidate_cache()
            try:
                return self._files.info(url)["type"] == "file"
            except FileNotFoundError:
                return False

    def check_bucket(self, url: str) -> None:
        """Check that the bucket of an output exists, which a store else says only when a file is written.

        Raises:
            UserError: it does not.
        """
        bucket = f"{self.prefix}{split_url(url)[1].partition('/')[0]}"
        if url.partition("://")[0] in _BUCKETS:
            with self._errors(url), suppress(PermissionError):  # to list it, which need not mean to write
                self._files.info(bucket)

    def match(self, pattern: str) -> list[str]:
        """Return the URLs of the files that match a pattern, sorted."""
        with self._errors(pattern):
            found = self._files.glob(pattern, detail=True)
            return self._urls(entry for entry in found.values() if entry["type"] == "file")

    def list_folder(self, url: str) -> list[str]:
        """Return the URLs of the files in a folder, sorted."""
        with self._errors(url):
            return self._urls(entry for entry in self._files.ls(url, detail=True) if entry["type"] == "file")

    def _urls(self, entries: Any) -> list[str]:
        names = [str(entry["name"]).lstrip("/") for entry in entries]
        return sorted(f"{self.prefix}{name}" for name in names if not PurePosixPath(name).name.startswith("."))

    def find(self, url: str, depth: int) -> list[str]:
        """Return the names of the files in a folder and ``depth - 1`` levels below, relative to it."""
        with self._errors(url):
            self._files.invalidate_cache()
            root = split_url(url)[1] + "/"
            found = [str(name).lstrip("/") for name in self._files.find(url, maxdepth=depth)]
            return [name.removeprefix(root) for name in found if name.startswith(root)]

    def fetch(self, url: str, folder: Path) -> Path:
        """Copy a file to a local folder.

        Raises:
            UserError: it does not exist, or there is no room for it.
        """
        name = PurePosixPath(split_url(url)[1]).name
        with self._errors(url):
            size, free = self._files.info(url).get("size") or 0, shutil.disk_usage(folder).free
            if size >= free:
                raise UserError(
                    f"{url} has {size >> 20} MiB, and {folder.parent} has room for {free >> 20} MiB; name a folder "
                    "with more room in the environment variable TMPDIR"
                )
            self._files.get_file(url, str(folder / name))
        return folder / name

    def read(self, url: str, most_bytes: int) -> bytes | None:
        """Return the contents of a file, None if there is none."""
        with self._errors(url):
            try:
                with self._files.open(url, "rb") as file:
                    data: bytes = file.read(most_bytes + 1)
            except FileNotFoundError:
                return None
            if len(data) > most_bytes:
                raise UserError(f"{url} is larger than {most_bytes >> 20} MiB, so ccnet3d did not write it")
            return data

    def write(self, url: str, data: bytes) -> None:
        with self._errors(url):
            self._files.pipe_file(url, data)

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Copy local files to URLs, several at a time where the store can."""
        if files:
            with self._errors(files[0][1]):
                self._files.put([str(path) for path, _ in files], [url for _, url in files])

    def remove(self, urls: Sequence[str]) -> None:
        for url in urls:
            with self._errors(url):
                try:
                    self._files.rm_file(url)
                except FileNotFoundError:
                    continue
