"""Fixtures for the tests of the emulator: inputs, emulators, and a client that validates the responses."""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from emulator_http import connect, talking_photo

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

OPENAPI = Path(__file__).parents[3] / "shared" / "api"
# The seconds and the amplitude of each part: silence, a tone, silence.
QUIET_LOUD_QUIET = ((0.5, 0.0), (1.0, 0.6), (0.5, 0.0))


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    samples = [
        round(32_000 * amplitude * math.sin(2 * math.pi * 220 * index / 16_000))
        for seconds, amplitude in QUIET_LOUD_QUIET
        for index in range(round(seconds * 16_000))
    ]
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.effect_mandelbrot((640, 480), (-2, -1.5, 1, 1.5), 40).convert("RGB").save(path)
    return path


@pytest.fixture
def stub() -> Iterator[Emulator]:
    """An emulator that does not render."""
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def real() -> Iterator[Emulator]:
    """An emulator that renders. The tests of a module share it."""
    with Emulator() as emulator:
        yield emulator


class Api:
    """A client of the emulator that checks each response against the vendor's OpenAPI."""

    def __init__(self, emulator: Emulator, validate: Callable[..., None]) -> None:
        self.emulator = emulator
        self.validate = validate
        self.http = connect(emulator)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self.http.request(method, path, **options)
        self.validate(method, path, response)
        return response

    def body(self, **changes: Any) -> dict[str, Any]:
        """Return a request for a talking photo that is accepted."""
        return talking_photo(self.emulator, **changes)

    def create(self, **changes: Any) -> str:
        """Create a talking photo. Return its id."""
        response = self("POST", "/v1/ai-talking-photo", json=self.body(**changes))
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def get(self, job_id: str) -> dict[str, Any]:
        """Return the details of a talking photo."""
        response = self("GET", f"/v1/video-projects/{job_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())


@pytest.fixture(scope="session")
def validate() -> Callable[..., None]:
    """Return a function that checks a response against the vendor's OpenAPI, if that exists here."""
    path = OPENAPI / "openapi-2026-08.json"
    if not path.exists():
        return lambda *_: None
    import jsonschema

    paths = json.loads(path.read_text("utf-8"))["paths"]

    def check(method: str, path: str, response: httpx.Response) -> None:
        for template, operations in paths.items():
            if template != path and template.rpartition("/")[0] != path.rpartition("/")[0]:
                continue
            if "{" not in template and template != path:
                continue
            responses = operations.get(method.lower(), {}).get("responses", {})
            content = responses.get(str(response.status_code), {}).get("content", {})
            if "application/json" in content:
                schema = to_json_schema(content["application/json"]["schema"])
                jsonschema.validate(response.json(), schema)

    return check


def to_json_schema(schema: Any) -> Any:
    """Convert a schema of OpenAPI 3.0, which has ``nullable``, to JSON Schema."""
    if isinstance(schema, list):
        return [to_json_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: to_json_schema(part) for key, part in schema.items()}
    if converted.pop("nullable", False):
        return {"anyOf": [converted, {"type": "null"}]}
    return converted


@pytest.fixture(scope="session")
def conforms() -> Callable[[Any, Any], None]:
    """Return a function that checks a value against a schema of OpenAPI 3.0."""
    import jsonschema

    return lambda schema, value: jsonschema.validate(value, to_json_schema(schema))


@pytest.fixture
def api(stub: Emulator, validate: Callable[..., None]) -> Iterator[Api]:
    client = Api(stub, validate)
    yield client
    client.http.close()


@pytest.fixture
def openapi() -> Path:
    """The folder of the vendor's OpenAPI, which is not in this repository."""
    if not OPENAPI.exists():
        pytest.skip("the vendor's OpenAPI is not part of this repository")
    return OPENAPI
