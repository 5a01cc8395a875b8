"""The OpenAPI description: complete, and true for whatever schemathesis sends."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MakeVideo
from serving.samples import ADDRESS, events_of, make_client

from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.serving import ServerLimits, make_app

pytest.importorskip("fastapi")
pytest.importorskip("httpx")


@pytest.fixture
def app(tiny_model: CCNet3D, tiny_info: ModelInfo) -> Any:
    from ccnet3d.inference import VideoSegmenter

    return make_app(VideoSegmenter(tiny_model, tiny_info), ServerLimits(max_megabytes=1, max_frames=100))


def test_every_request_is_answered_as_described(app: Any) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"host": "localhost"})
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def check(case: Any) -> None:
            case.headers["host"] = "localhost"
            # No schema can say that bytes are a video.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()


def test_lines_follow_their_schemas(tiny_model: CCNet3D, tiny_info: ModelInfo, make_video: MakeVideo) -> None:
    from pydantic import TypeAdapter

    from ccnet3d.serving.schemas import DoneEvent, ErrorEvent, FrameEvent

    adapter: TypeAdapter[Any] = TypeAdapter(FrameEvent | DoneEvent | ErrorEvent)
    with make_client(tiny_model, tiny_info) as client:
        schema = client.get("/openapi.json").json()
        content = schema["paths"]["/segment"]["post"]["responses"]["200"]["content"]
        names = [one["$ref"].rpartition("/")[2] for one in content["application/x-ndjson"]["schema"]["oneOf"]]
        assert names == ["FrameEvent", "DoneEvent", "ErrorEvent"]
        assert set(names) <= set(schema["components"]["schemas"])
        body = make_video(frames=2).read_bytes()
        for event in events_of(client.post("/segment?pictures=true&keep=true", content=body)):
            parsed = adapter.validate_python(event, strict=False)
            assert set(event) == set(type(parsed).model_fields)


def test_health_under_its_address(app: Any) -> None:
    from fastapi.testclient import TestClient

    answer = TestClient(app, base_url=ADDRESS).get("/health")
    assert set(answer.json()) == {"status", "version"}
