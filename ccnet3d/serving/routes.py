"""The routes of the application; imports FastAPI, so this module is itself imported in a function."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic.json_schema import models_json_schema

import ccnet3d
from ccnet3d.errors import UserError
from ccnet3d.inference import VideoSegmenter
from ccnet3d.serving.guards import Guard
from ccnet3d.serving.jobs import MASKS_NAME, OVERLAY_NAME, Job, JobOptions, ServerLimits
from ccnet3d.serving.page import page_files
from ccnet3d.serving.schemas import DoneEvent, ErrorEvent, FrameEvent, Health, ModelDescription, Problem, describe
from ccnet3d.serving.uploads import UploadError, check_bytes, receive

__all__ = ["build_app"]

_KEPT_RESULTS = 4
_LARGEST_INPUT = 1 << 21
_NDJSON = "application/x-ndjson"
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


class _Service:
    """The model, its thread, the jobs and the results that are kept for download."""

    def __init__(
        self, segmenter: VideoSegmenter, limits: ServerLimits, smoothing_for: Callable[[float | None], int]
    ) -> None:
        self.segmenter, self.limits, self.smoothing_for = segmenter, limits, smoothing_for
        self._thread = ThreadPoolExecutor(1, "ccnet3d-model")
        self._active: set[Job] = set()
        self._kept: OrderedDict[str, Job] = OrderedDict()

    @asynccontextmanager
    async def job(self) -> AsyncIterator[Job]:
        """Yield a job; what it made is gone when the block ends, unless it is kept.

        Raises:
            HTTPException: too many are active.
        """
        if len(self._active) > self.limits.max_waiting:
            raise HTTPException(503, "the server is busy; try again later", {"Retry-After": "5"})
        job = Job(self.limits)
        self._active.add(job)
        try:
            yield job
        finally:
            self._active.discard(job)
            if job not in self._kept.values():
                job.remove()

    @asynccontextmanager
    async def working(
        self, job: Job, options: JobOptions, causal: bool | None, input_size: tuple[int, int] | None
    ) -> AsyncIterator[None]:
        """Run the work of a job in the model's thread; it has ended when the block has."""
        work = asyncio.get_running_loop().run_in_executor(
            self._thread, job.work, lambda: self._variant(causal, input_size), self.smoothing_for, options
        )
        try:
            yield
        finally:
            job.stop()
            await asyncio.shield(work)

    def _variant(self, causal: bool | None, input_size: tuple[int, int] | None) -> VideoSegmenter:
        own = self.segmenter
        causal = own.causal if causal is None else causal
        input_size = input_size or own.input_size
        if (causal, input_size) == (own.causal, own.input_size):
            return own
        return VideoSegmenter(
            own.model,
            own.info,
            clip_length=own.clip_length,
            clip_stride=own.clip_stride,
            causal=causal,
            input_size=input_size,
            dtype=own.dtype,
            batch_size=own.batch_size,
        )

    def keep(self, job: Job) -> str:
        """Keep the files of a job until others follow; return their secret name."""
        token = secrets.token_hex(16)
        self._kept[token] = job
        while len(self._kept) > _KEPT_RESULTS:
            self._kept.popitem(last=False)[1].remove()
        return token

    def kept_file(self, token: str, name: str) -> Path | None:
        job = self._kept.get(token)
        path = job.file(name) if job else None
        return path if path and path.is_file() else None

    def close(self) -> None:
        for job in self._active:
            job.stop()
        self._thread.shutdown()
        for job in self._kept.values():
            job.remove()


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
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {limits.max_seconds} seconds") from None


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, width = map(int, text.split("x"))
    if not min(height, width) >= 32 or height * width > _LARGEST_INPUT:
        raise UploadError(f"input_size must have sides of at least 32 and {_LARGEST_INPUT} pixels at most, got {text}")
    return height, width


def _class_names(service: _Service, text: str | None) -> tuple[str, ...]:
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
    segmenter: VideoSegmenter,
    limits: ServerLimits,
    hosts: Collection[str],
    smoothing_for: Callable[[float | None], int],
) -> FastAPI:
    """Return the application; see :func:`ccnet3d.serving.make_app`."""
    service = _Service(segmenter, limits, smoothing_for)

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
    app.add_middleware(Guard, hosts=hosts)
    _handle_errors(app)
    _add_page(app)
    _add_information(app, segmenter)
    _add_segment(app, service)
    _add_results(app, service)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422 if isinstance(error, UploadError) else 413)


def _add_page(app: FastAPI) -> None:
    def add(name: str, media_type: str, text: str) -> None:
        @app.get(f"/{name}", include_in_schema=False, response_model=None)
        async def read() -> Response:
            return Response(text, media_type=media_type)

    for file in page_files():
        add(*file)


def _add_information(app: FastAPI, segmenter: VideoSegmenter) -> None:
    @app.get("/health", summary="Whether the server runs")
    async def health() -> Health:
        return Health()

    @app.get("/classes", summary="The model and its classes")
    async def classes() -> ModelDescription:
        return describe(segmenter)


def _add_segment(app: FastAPI, service: _Service) -> None:
    binary = {"schema": {"type": "string", "format": "binary"}}
    events = {
        "oneOf": [{"$ref": f"#/components/schemas/{one.__name__}"} for one in (FrameEvent, DoneEvent, ErrorEvent)]
    }
    content = {_NDJSON: {"schema": events}, **{media_type: binary for _, media_type in _ANSWERS.values()}}

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
        stack = _Stack()
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
                return _Stream(_lines(service, job, event, keep=keep), stack, service.limits)
            name, media_type = _ANSWERS[output]
            return _File(job.file(name), media_type, stack)
        except BaseException:
            await stack.close()
            raise


async def _lines(service: _Service, job: Job, event: dict[str, Any], *, keep: bool) -> AsyncIterator[bytes]:
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


class _Stack:
    """Contexts that outlive the function that enters them: until the answer is sent, or its client is gone."""

    def __init__(self) -> None:
        self._contexts = AsyncExitStack()

    async def enter(self, context: Any) -> Any:
        return await self._contexts.enter_async_context(context)

    async def close(self) -> None:
        """Leave the contexts, also if this task is being cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._contexts.aclose()))


class _Stream(StreamingResponse):
    """Lines that are sent until they end, the client disconnects, or it reads too slowly."""

    def __init__(self, lines: AsyncIterator[bytes], stack: _Stack, limits: ServerLimits) -> None:
        super().__init__(lines, media_type=_NDJSON)
        self._stack, self._seconds = stack, 2 * limits.max_seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        finally:
            await self._stack.close()


class _File(FileResponse):
    """A file of a job that is removed when it is sent."""

    def __init__(self, path: Path, media_type: str, stack: _Stack) -> None:
        super().__init__(path, media_type=media_type, filename=path.name)
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stack.close()


def _add_results(app: FastAPI, service: _Service) -> None:
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
            raise HTTPException(404, f"only the last {_KEPT_RESULTS} results are kept; segment the file again")
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
