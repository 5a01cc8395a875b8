"""What the server answers, as its OpenAPI description states it; imports pydantic, which comes with FastAPI."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

import ccnet3d
from ccnet3d.inference import StreamingSegmenter

__all__ = ["DoneEvent", "ErrorEvent", "FrameEvent", "Health", "ModelDescription", "Problem", "describe"]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Health(BaseModel):
    """The server runs."""

    status: Literal["ok"] = "ok"
    version: str = ccnet3d.__version__


class ClassDescription(BaseModel):
    """A class of the model."""

    id: int = Field(ge=0, le=254, description="value of its pixels in masks")
    name: str
    color: tuple[int, int, int] = Field(description="RGB")


class ModelDescription(BaseModel):
    """The model and how it is run."""

    dataset: str = Field(description="what it was trained on")
    clip_length: int
    input_size: tuple[int, int] = Field(description="working size, height and width")
    causal: bool
    classes: list[ClassDescription]


class FrameEvent(BaseModel):
    """A frame and its mask."""

    event: Literal["frame"]
    frame: int = Field(ge=0, description="frame index in the video")
    expected_frames: int | None = Field(description="number of frames of the video, as far as its file says")
    pts_seconds: float | None = Field(description="presentation time")
    width: int
    height: int
    shares: dict[str, float] = Field(description="share of the pixels of each class that occurs")
    mask: str = Field(description="palette PNG in Base64; pixel value = class id, 255 = not one of `classes`")
    picture: str | None = Field(None, description="the frame as a JPEG in Base64, with `pictures=true`")


class Downloads(BaseModel):
    """Addresses of what was kept."""

    masks: str
    overlay: str


class DoneEvent(BaseModel):
    """The last line: all frames are segmented."""

    event: Literal["done"]
    frames: int
    summary: dict[str, Any] = Field(description="summary.json of ccnet3d-infer")
    downloads: Downloads | None = Field(description="with `keep=true`")


class ErrorEvent(BaseModel):
    """The last line if the work ended early."""

    event: Literal["error"]
    status: int = Field(description="the status code, had it been known earlier")
    detail: str


def describe(segmenter: StreamingSegmenter) -> ModelDescription:
    """Return what clients need to know about a model."""
    info = segmenter.info
    return ModelDescription(
        dataset=info.dataset,
        clip_length=segmenter.clip_length,
        input_size=segmenter.input_size,
        causal=segmenter.causal,
        classes=[
            ClassDescription(id=i, name=name, color=color)
            for i, (name, color) in enumerate(zip(info.class_names, info.palette, strict=True))
        ],
    )
