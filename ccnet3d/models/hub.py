"""Model files on the Hugging Face hub: ``hf://ORG/NAME[/FILE][@REVISION]``."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ccnet3d.errors import UserError

__all__ = ["HUB_FILE", "HUB_PREFIX", "HubAddress", "download", "parse_address", "upload"]

HUB_PREFIX = "hf://"
HUB_FILE = "model.safetensors"
"""Name of the model file in a repository, where an address does not name another."""

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_ADDRESS = re.compile(rf"hf://(?P<repository>{_NAME}/{_NAME})(/(?P<file>[^@]+))?(@(?P<revision>[^@]+))?", re.ASCII)


class HubAddress(NamedTuple):
    """The parts of an address."""

    repository: str
    """``ORG/NAME``."""
    file: str
    revision: str | None
    """A branch, a tag or a commit; None for the newest commit of the main branch."""


def parse_address(text: str) -> HubAddress:
    """Return the parts of an address.

    Raises:
        UserError: another text, or a file that is not safetensors: other formats can run code when they are loaded.

    >>> parse_address("hf://someone/street@v2")
    HubAddress(repository='someone/street', file='model.safetensors', revision='v2')
    """
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise UserError(f"expected hf://ORG/NAME, hf://ORG/NAME/FILE.safetensors, or with @REVISION, got {text!r}")
    file = match["file"] or HUB_FILE
    if not file.endswith(".safetensors") or ".." in file.split("/"):
        raise UserError(f"only .safetensors files are loaded from a hub, got {file!r}; other formats can run code")
    return HubAddress(match["repository"], file, match["revision"])


def download(text: str) -> Path:
    """Return the file at an address, from the hub client's cache if it is there and unchanged.

    Raises:
        UserError: no such address, or no connection and no file in the cache.
    """
    address = parse_address(text)
    from huggingface_hub import HfApi

    with _errors(text):
        return Path(HfApi().hf_hub_download(address.repository, address.file, revision=address.revision))


def upload(file: Path, card: str, repository: str, *, private: bool = False) -> str:
    """Write a model file and its card to a repository, in one commit, and return the commit's address.

    The repository is created if it is missing. The client's own login is used (``hf auth login``).

    Raises:
        UserError: not the name of a repository, no connection, or no permission.
    """
    if not re.fullmatch(f"{_NAME}/{_NAME}", repository, re.ASCII):
        raise UserError(f"expected the repository as ORG/NAME, got {repository!r}")
    from huggingface_hub import HfApi

    with _errors(f"{HUB_PREFIX}{repository}"), tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(file, Path(folder, HUB_FILE))
        Path(folder, "README.md").write_text(card, encoding="utf-8")
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a ccnet3d model")
        return str(commit.commit_url)


@contextmanager
def _errors(address: str) -> Iterator[None]:
    from huggingface_hub import errors as hub
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else every try of a connection is a warning
    try:
        yield
    except hub.RevisionNotFoundError as error:
        raise UserError(f"{address}: the repository has no such revision; give one of its branches or tags") from error
    except (hub.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise _unreachable(address) from error
    except hub.EntryNotFoundError as error:
        raise UserError(f"{address}: the repository has no such file; give hf://ORG/NAME/FILE.safetensors") from error
    except hub.RepositoryNotFoundError as error:
        raise UserError(
            f"{address}: there is no such repository, or it is private and you are not logged in (hf auth login)"
        ) from error
    except (hub.HfHubHTTPError, hub.HFValidationError, hub.LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{address}: the hub refused: {reason}") from error
    except Exception as error:
        if not _is_transport_error(error):
            raise
        raise _unreachable(address) from error
    finally:
        logging.set_verbosity(verbosity)


def _unreachable(address: str) -> UserError:
    return UserError(
        f"{address} cannot be reached, and is not in the cache; check the connection (and HF_ENDPOINT if it is set), "
        "or download the file elsewhere and give its path"
    )


def _is_transport_error(error: Any) -> bool:
    """Return whether the client's HTTP library found no connection; which library it is depends on its version."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests", "urllib3")
