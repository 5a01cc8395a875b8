"""Answers that end the work of their job when they are sent or their client is gone; imports FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse, StreamingResponse

from ccnet3d.serving.jobs import ServerLimits

__all__ = ["NDJSON", "Contexts", "FileAnswer", "LinesAnswer"]

NDJSON = "application/x-ndjson"


class Contexts:
    """Contexts that outlive the function that enters them: until the answer is sent, or its client is gone."""

    def __init__(self) -> None:
        self._contexts = AsyncExitStack()

    async def enter(self, context: Any) -> Any:
        return await self._contexts.enter_async_context(context)

    async def close(self) -> None:
        """Leave the contexts, also if this task is being cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._contexts.aclose()))


class LinesAnswer(StreamingResponse):
    """Lines that are sent until they end, the client disconnects, or it reads too slowly."""

    def __init__(self, lines: AsyncIterator[bytes], stack: Contexts, limits: ServerLimits) -> None:
        super().__init__(lines, media_type=NDJSON)
        self._stack, self._seconds = stack, 2 * limits.max_seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            with suppress(TimeoutError):  # the connection is closed before the last line
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
        finally:
            await self._stack.close()


class FileAnswer(FileResponse):
    """A file of a job that is removed when it is sent."""

    def __init__(self, path: Path, media_type: str, stack: Contexts) -> None:
        super().__init__(path, media_type=media_type, filename=path.name)
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stack.close()
