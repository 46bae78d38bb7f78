"""What we send and read against the vendor's own description, where that is at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from magichour_provider import exceptions as errors
from magichour_provider.api import models, wire
from magichour_provider.api.client import MagicHourClient, Settings
from magichour_provider.api.inputs import EXTENSIONS, TalkingPhotoInputs, VoiceInputs
from magichour_provider.api.wire import paid_call
from magichour_provider.emulator import Emulator
from magichour_provider.files.storage import Source

JOB = "/v1/video-projects/{id}"
AUDIO = "/v1/audio-projects/{id}"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[MagicHourClient]:
    with MagicHourClient(Settings(api_key=emulator.api_key, base_url=emulator.url, verify=False)) as client:
        yield client


@pytest.fixture
def paths(openapi: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((openapi / "openapi-2026-08.json").read_text("utf-8"))["paths"]
    return described


def content_schema(described: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = described["content"]["application/json"]["schema"]
    return schema


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"start_seconds": 0.25, "resolution": "480p"},
        {"max_resolution": 1024},
        {"generation_mode": "prompted", "prompt": "smile"},
        {"generation_mode": "expressive", "intensity": 0.5},
        *({"generation_mode": mode} for mode in ("realistic", "pro", "standard", "stable")),
    ],
    ids=str,
)
def test_a_submission_is_as_described(
    emulator: Emulator, client: MagicHourClient, paths: dict[str, Any], given: dict[str, Any]
) -> None:
    inputs = TalkingPhotoInputs.checked(
        {"image_file_path": "me.png", "audio_file_path": "hello.wav", "end_seconds": 1, **given}
    )
    image, audio = emulator.put_asset(b"photo", "png"), emulator.put_asset(b"voice", "wav")
    client.submit(paid_call(inputs, {"image_file_path": image, "audio_file_path": audio}, "n"))
    sent = emulator.requests("create")[-1]["json"]
    jsonschema.validate(sent, content_schema(paths["/v1/ai-talking-photo"]["post"]["requestBody"]))


def test_a_text_to_be_spoken_is_as_described(
    emulator: Emulator, client: MagicHourClient, paths: dict[str, Any]
) -> None:
    inputs = VoiceInputs(prompt="Good evening.", voice_name="Albert Einstein")
    client.submit(wire.paid_call(inputs, {}, "n"))
    schema = content_schema(paths["/v1/ai-voice-generator"]["post"]["requestBody"])
    sent = emulator.requests("create_voice")[-1]["json"]
    jsonschema.validate(sent, schema)
    assert not list(_unknown(sent, schema)), "the description would not mind a field that nobody knows"


def _unknown(sent: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    for name, value in sent.items():
        if name not in schema["properties"]:
            yield name
        elif isinstance(value, dict):
            yield from _unknown(value, schema["properties"][name])


def test_a_call_for_upload_urls_is_as_described(
    emulator: Emulator, client: MagicHourClient, paths: dict[str, Any], tmp_path: Path
) -> None:
    schema = content_schema(paths["/v1/files/upload-urls"]["post"]["requestBody"])
    sources = []
    for kind, extensions in EXTENSIONS.items():
        for extension in extensions:
            (tmp_path / f"file.{extension}").write_bytes(b"x")
            sources.append(Source.find("image_file_path", kind, f"{tmp_path}/file.{extension}"))
    client.upload(sources)
    jsonschema.validate(emulator.requests("upload_urls")[-1]["json"], schema)


@pytest.mark.parametrize("path", [JOB, AUDIO])
def test_every_status_that_is_described_is_known_as_ended_or_not(paths: dict[str, Any], path: str) -> None:
    schema = content_schema(paths[path]["get"]["responses"]["200"])
    ended = {
        status: models.Job.model_validate({"id": "job-1", "status": status}).ended
        for status in schema["properties"]["status"]["enum"]
    }
    assert ended == {
        "draft": False,
        "queued": False,
        "rendering": False,
        "complete": True,
        "error": True,
        "canceled": True,
    }


def examples(schema: dict[str, Any]) -> Any:
    """An answer put together from a schema's examples."""
    if "example" in schema:
        return schema["example"]
    if "properties" in schema:
        return {name: examples(part) for name, part in schema["properties"].items()}
    if "items" in schema:
        return [examples(schema["items"])]
    return {"boolean": True, "integer": 1, "number": 1.5}.get(schema.get("type", ""), "text")


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("get", JOB, wire.get_job("job-1")),
        ("get", AUDIO, wire.get_job("job-1", "audio")),
        (
            "post",
            "/v1/ai-voice-generator",
            wire.paid_call(VoiceInputs(prompt="Hello", voice_name="Albert Einstein"), {}, "n"),
        ),
        (
            "post",
            "/v1/ai-talking-photo",
            wire.paid_call(
                TalkingPhotoInputs(image_file_path="a.png", audio_file_path="a.wav", end_seconds=1), {}, "n"
            ),
        ),
        ("post", "/v1/files/upload-urls", wire.create_upload_slots([("image", "png"), ("audio", "mp3")])),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_the_answers_in_the_description_are_understood(
    paths: dict[str, Any], method: str, path: str, call: wire.Call[Any]
) -> None:
    answer = examples(content_schema(paths[path][method]["responses"]["200"]))
    if call.job_id:
        answer["id"] = call.job_id
    read = call.answer(200, {}, json.dumps(answer).encode())
    if isinstance(read, list):
        assert [slot.file_path for slot in read] == [item["file_path"] for item in answer["items"]]
    else:
        assert read.job_id == answer["id"]


@pytest.mark.parametrize("status", [400, 401, 402, 404, 422])
def test_every_refusal_that_is_described_is_known_by_its_cause(paths: dict[str, Any], status: int) -> None:
    assert str(status) in paths["/v1/ai-talking-photo"]["post"]["responses"]
    with pytest.raises(errors.RequestFailed) as refused:
        wire.get_job("job-1").answer(status, {}, b'{"message": "no"}')
    assert type(refused.value) is not errors.Unavailable
