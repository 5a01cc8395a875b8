"""The files of the page: those of this room, with theme, layout and timeline of the reports."""

from __future__ import annotations

from importlib.resources import files

from ccnet3d.reports import template_text

__all__ = ["page_files"]


def page_files() -> list[tuple[str, str, str]]:
    """Return name, media type and text of each file; the page itself has the name "".

    >>> [(name, media_type) for name, media_type, _ in page_files()]
    [('', 'text/html'), ('live.css', 'text/css'), ('live.js', 'text/javascript')]
    """
    own = files("ccnet3d.serving") / "templates"
    html, style, script = ((own / f"live.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    shared_style = template_text("theme.css") + template_text("video.css")
    return [
        ("", "text/html", html),
        ("live.css", "text/css", shared_style + style),
        ("live.js", "text/javascript", template_text("timeline.js") + script),
    ]
