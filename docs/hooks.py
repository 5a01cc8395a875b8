"""Build hooks of the site (see mkdocs.yml): pages from files outside docs/, option lists, docstring markup."""

from __future__ import annotations

import importlib
import logging
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "README.md": "index.md",
    "ccnet3d/weights/README.md": "model-card.md",
    **{
        f"datasets/{name}/README.md": f"{name}.md"
        for name in ("camvid", "cityscapes", "kitti_step", "vspw", "ade20k", "lip", "voc12")
    },
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages whose source lies outside docs/, by path in the repository."""

SOURCES = {page: source for source, page in PAGES.items()}

_LOG = logging.getLogger("mkdocs.hooks")  # warnings of this logger fail a strict build

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|(!\[[^\]]*\])\(([^)\s]+)\)")
_COMMAND = re.compile(r"<!-- options of (\w+)(?: (\w+))? -->")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([\w.]+)`")
_EXAMPLE = re.compile(r"(?m)^(?P<indent> *)>>> .*(?:\n(?! *$).*)*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between files of the repository into links between pages, and insert the commands' options."""
    uri = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(uri, f"docs/{uri}"))
    markdown = _LINK.sub(lambda match: _site_link(match, folder, uri), markdown)
    return _COMMAND.sub(lambda match: f"```text\n{_help_text(match[1], match[2])}```", markdown)


def _site_link(match: re.Match[str], folder: str, uri: str) -> str:
    """Return a link relative to the page ``uri``; a link to a file that is not on the site becomes its text."""
    target, hash_sign, anchor = (match[2] or match[4]).partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return match[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    if not (ROOT / path).exists():
        _LOG.warning("%s links to %s, which does not exist", uri, path)
    if path not in PAGES and not path.startswith("docs/"):
        return match[1]
    page = PAGES.get(path, path.removeprefix("docs/"))
    link = posixpath.relpath(page, posixpath.dirname(uri) or ".")
    return f"{match[3] or f'[{match[1]}]'}({link}{hash_sign}{anchor})"


def _help_text(command: str, subcommand: str | None) -> str:
    """Return what ``--help`` of an installed command, or of a subcommand of it, prints."""
    os.environ["COLUMNS"] = "100"
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    parser = importlib.import_module(f"ccnet3d.cli.{command}").build_parser()
    if subcommand:
        choices = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
        parser = choices[subcommand]
    return str(parser.format_help())


class Docstrings(griffe.Extension):
    """Show Sphinx roles as links and examples as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(_fenced, _ROLE.sub(_reference, obj.docstring.value))


def _reference(match: re.Match[str]) -> str:
    name = match[2].rpartition(".")[2] if match[1] else match[2]
    return f'<autoref identifier="{match[2]}" optional><code>{name}</code></autoref>'


def _fenced(match: re.Match[str]) -> str:
    return f"{match['indent']}```pycon\n{match[0]}\n{match['indent']}```"
