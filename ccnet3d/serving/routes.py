"""The routes of the application; imports FastAPI, so this module is itself imported in a function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from pydantic.json_schema import models_json_schema
from starlette.requests import ClientDisconnect

import ccnet3d
from ccnet3d.errors import UserError
from ccnet3d.inference import StreamingSegmenter
from ccnet3d.serving.answers import NDJSON, Contexts, FileAnswer, LinesAnswer
from ccnet3d.serving.guards import Guard
from ccnet3d.serving.jobs import MASKS_NAME, OVERLAY_NAME, Job, JobOptions, ServerLimits
from ccnet3d.serving.page import add_information, add_page
from ccnet3d.serving.schemas import DoneEvent, ErrorEvent, FrameEvent, Problem
from ccnet3d.serving.service import KEPT_RESULTS, BusyError, Service
from ccnet3d.serving.uploads import UploadError, check_bytes, receive

__all__ = ["build_app"]

_LARGEST_INPUT = 1 << 21
_EVENTS = (FrameEvent, DoneEvent, ErrorEvent)
_ANSWERS = {"zip": (MASKS_NAME, "application/zip"), "overlay": (OVERLAY_NAME, "video/mp4")}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "The request comes from another web page."},
    421: {"model": Problem, "description": "The request names another host."},
}
_JOB_PROBLEMS: dict[int | str, dict[str, Any]] = {
    408: {"model": Problem, "description": "The upload took too long."},
    413: {"model": Problem, "description": "The file, the video or the work on it is larger than the limits."},
    415: {"model": Problem, "description": "The body is a form; send the bytes of the file alone."},
    422: {"model": Problem, "description": "A parameter is invalid, or the file is neither a video nor a photo."},
    500: {"model": Problem, "description": "The server failed."},
    503: {"model": Problem, "description": "Too many requests are waiting; try again later."},
}


async def _gone(request: Request) -> None:
    """Return when the client has disconnected; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _unless_gone(request: Request, waiting: Any) -> Any:
    """Return what ``waiting`` returns.

    Raises:
        HTTPException: the client disconnected before.
    """
    gone, result = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(waiting)
    try:
        await asyncio.wait([gone, result], return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise HTTPException(408, "the client disconnected")
        return result.result()
    finally:
        gone.cancel()
        result.cancel()


async def _upload(request: Request, job: Job, limits: ServerLimits) -> None:
    """Receive the body of a request.

    Raises:
        HTTPException: a form, or an upload that takes too long.
        UserError: it is too large or empty.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(
            415, "forms are not read; send the bytes of the file, as with curl -X POST --upload-file video.mp4"
        )
    claimed = request.headers.get("content-length", "")
    check_bytes(int(claimed) if claimed.isdecimal() else 0, limits.max_bytes)
    try:
        async with asyncio.timeout(limits.max_seconds):
            await receive(request.stream(), job.upload, limits.max_bytes)
    except ClientDisconnect:
        raise HTTPException(408, "the client disconnected") from None
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {limits.max_seconds} seconds") from None


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, width = map(int, text.split("x"))
    if not min(height, width) >= 32 or height * width > _LARGEST_INPUT:
        raise UploadError(f"input_size must have sides of at least 32 and {_LARGEST_INPUT} pixels at most, got {text}")
    return height, width


def _class_names(service: Service, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = service.segmenter.info.class_names
    lower = {name.lower() for name in known}
    unknown = next((name for name in names if name.lower() not in lower), None)
    if not names or unknown:
        raise UploadError(f"classes must be names separated by commas, of {', '.join(known)}; got {unknown or text!r}")
    return names


def build_app(
    segmenter: StreamingSegmenter,
    limits: ServerLimits,
    hosts: Collection[str],
    smoothing_for: Callable[[float | None], int],
) -> FastAPI:
    """Return the application; see :func:`ccnet3d.serving.make_app`."""
    service = Service(segmenter, limits, smoothing_for)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="ccnet3d",
        version=ccnet3d.__version__,
        description="Video semantic segmentation. Send a video or a photo to `/segment`.",
        docs_url=None,  # these pages load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        responses=_PROBLEMS,
    )
    app.state.end_jobs = service.end_jobs
    app.add_middleware(Guard, hosts=hosts)
    _handle_errors(app)
    add_page(app)
    add_information(app, segmenter)
    _add_segment(app, service)
    _add_results(app, service)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422 if isinstance(error, UploadError) else 413)


def _add_segment(app: FastAPI, service: Service) -> None:
    binary = {"schema": {"type": "string", "format": "binary"}}
    events = {
        "oneOf": [{"$ref": f"#/components/schemas/{one.__name__}"} for one in (FrameEvent, DoneEvent, ErrorEvent)]
    }
    content = {NDJSON: {"schema": events}, **{media_type: binary for _, media_type in _ANSWERS.values()}}

    @app.post(
        "/segment",
        summary="Segment a video or a photo",
        description="The body is the file. Lines of JSON are sent while the masks are computed: one per frame "
        "(`FrameEvent`), then `DoneEvent` or, if the work ends early, `ErrorEvent`. With `output=zip` or "
        "`output=overlay` the answer is one file instead, sent at the end.",
        response_model=None,
        responses={200: {"description": "Masks", "content": content}, **_JOB_PROBLEMS},
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": binary}}},
    )
    async def segment(
        request: Request,
        output: Annotated[
            Literal["ndjson", "zip", "overlay"],
            Query(description="lines of JSON; a zip of palette PNGs and summary.json; an mp4 with the masks painted"),
        ] = "ndjson",
        causal: Annotated[bool | None, Query(description="predict each frame from itself and those before it")] = None,
        smooth: Annotated[
            int | None, Query(ge=0, le=16, description="frames on each side with which predictions are averaged")
        ] = None,
        classes: Annotated[str | None, Query(max_length=4000, description="names, separated by commas")] = None,
        input_size: Annotated[
            str | None, Query(pattern=r"^[0-9]{2,4}x[0-9]{2,4}$", description="working size, HEIGHTxWIDTH")
        ] = None,
        opacity: Annotated[float, Query(ge=0, le=1, description="share of the class color in the overlay")] = 0.5,
        pictures: Annotated[bool, Query(description="send each frame as a JPEG with its mask")] = False,
        keep: Annotated[
            bool, Query(description="keep zip and overlay for download after the last line of JSON")
        ] = False,
    ) -> Response:
        lines = output == "ndjson"
        options = JobOptions(
            class_names=_class_names(service, classes),
            smoothing=smooth,
            overlay=output == "overlay" or (keep and lines),
            archive=output == "zip" or (keep and lines),
            pictures=pictures and lines,
            opacity=opacity,
        )
        size = _parse_size(input_size)
        stack = Contexts()
        try:
            job = await stack.enter(service.job())
            await _upload(request, job, service.limits)
            await stack.enter(service.working(job, options, causal, size))
            event = await _unless_gone(request, job.next_event())
            while not lines and event["event"] == "frame":
                event = await _unless_gone(request, job.next_event())
            if event["event"] == "error":
                raise HTTPException(event["status"], event["detail"])
            if lines:
                return LinesAnswer(_lines(service, job, event, keep=keep), stack, service.limits)
            name, media_type = _ANSWERS[output]
            return FileAnswer(job.file(name), media_type, stack)
        except BaseException:
            await stack.close()
            raise


async def _lines(service: Service, job: Job, event: dict[str, Any], *, keep: bool) -> AsyncIterator[bytes]:
    """Yield the events of a job as lines, beginning with the one that is known."""
    while True:
        if event["event"] == "done":
            token = service.keep(job) if keep else None
            names = {"masks": MASKS_NAME, "overlay": OVERLAY_NAME}
            event["downloads"] = token and {key: f"/results/{token}/{name}" for key, name in names.items()}
        yield json.dumps(event, separators=(",", ":")).encode() + b"\n"
        if event["event"] != "frame":
            return
        event = await job.next_event()


def _add_results(app: FastAPI, service: Service) -> None:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for _, media_type in _ANSWERS.values()}

    @app.get(
        "/results/{token}/{name}",
        summary="Download what a request with keep=true made",
        response_model=None,
        responses={
            200: {"description": "The file", "content": content},
            404: {"model": Problem, "description": "Unknown, or removed because newer results followed."},
            422: {"model": Problem, "description": "A malformed address."},
        },
    )
    async def results(
        token: Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$")],
        name: Literal["masks.zip", "overlay.mp4"],
    ) -> Response:
        path = service.kept_file(token, name)
        if path is None:
            raise HTTPException(404, f"only the last {KEPT_RESULTS} results are kept; segment the file again")
        return FileResponse(path, filename=name)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the description of the interface, with the schemas of the lines, which FastAPI does not know."""
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        models: Any = [(one, "serialization") for one in (FrameEvent, DoneEvent, ErrorEvent)]
        _, extra = models_json_schema(models, ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= extra["$defs"]
        app.openapi_schema = schema
    return app.openapi_schema
