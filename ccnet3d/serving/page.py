"""What clients read: the page, with theme, layout and timeline of the reports, and facts about the model."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

from ccnet3d.inference import StreamingSegmenter
from ccnet3d.reports import template_text
from ccnet3d.serving.schemas import Health, ModelDescription, describe

__all__ = ["add_information", "add_page", "page_files"]


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
        ("live.js", "text/javascript", template_text("timeline.js") + template_text("classes.js") + script),
    ]


def add_page(app: FastAPI) -> None:
    """Serve the files of the page, read once."""

    def add(name: str, media_type: str, text: str) -> None:
        @app.get(f"/{name}", include_in_schema=False, response_model=None)
        async def read() -> Response:
            return Response(text, media_type=media_type)

    for file in page_files():
        add(*file)


def add_information(app: FastAPI, segmenter: StreamingSegmenter) -> None:
    """Answer ``/health`` and ``/classes``."""

    @app.get("/health", summary="Whether the server runs")
    async def health() -> Health:
        return Health()

    @app.get("/classes", summary="The model and its classes")
    async def classes() -> ModelDescription:
        return describe(segmenter)
