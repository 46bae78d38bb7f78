"""Inputs, emulators, and the vendor's API as plain HTTP, for the emulator's own tests."""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPENAPI = Path(__file__).parents[3] / "shared" / "api"
# Half a second of silence, a second of tone, half a second of silence: two seconds in all.
QUIET_LOUD_QUIET = ((0.5, 0.0), (1.0, 0.6), (0.5, 0.0))


def write_wav(path: Path, parts: tuple[tuple[float, float], ...] = QUIET_LOUD_QUIET) -> Path:
    """A WAV of tones: (seconds, amplitude) one after the other."""
    samples = [
        round(32_000 * loud * math.sin(2 * math.pi * 220 * at / 16_000))
        for seconds, loud in parts
        for at in range(round(seconds * 16_000))
    ]
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("voice") / "voice.wav")


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.effect_mandelbrot((640, 480), (-2, -1.5, 1, 1.5), 40).convert("RGB").save(path)
    return path


@pytest.fixture
def stub() -> Iterator[Emulator]:
    """An emulator that renders nothing: for all that is not about the picture."""
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def real() -> Iterator[Emulator]:
    """An emulator that makes videos, shared by the tests of a module."""
    with Emulator() as emulator:
        yield emulator


class Api:
    """The vendor's API as plain HTTP, each 2xx answer checked against the vendor's OpenAPI."""

    def __init__(self, emulator: Emulator, validate: Callable[..., None]) -> None:
        self.emulator = emulator
        self.validate = validate
        self.http = httpx.Client(
            base_url=emulator.url,
            headers={"Authorization": f"Bearer {emulator.api_key}"},
            # Nothing here is encrypted, and loading certificates for it takes its time.
            verify=False,
        )

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.http.request(method, path, **options)
        self.validate(method, path, answer)
        return answer

    def body(self, **changes: Any) -> dict[str, Any]:
        """A request for a talking photo that is accepted."""
        return {
            "name": "test",
            "start_seconds": 0,
            "end_seconds": 1,
            "assets": {
                "image_file_path": self.emulator.put_asset(b"picture", "png"),
                "audio_file_path": self.emulator.put_asset(b"sound", "wav"),
            },
        } | changes

    def create(self, **changes: Any) -> str:
        answer = self("POST", "/v1/ai-talking-photo", json=self.body(**changes))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def get(self, job_id: str) -> dict[str, Any]:
        answer = self("GET", f"/v1/video-projects/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture(scope="session")
def validate() -> Callable[..., None]:
    """Checks an answer against the vendor's OpenAPI, where that is at hand."""
    path = OPENAPI / "openapi-2026-08.json"
    if not path.exists():
        return lambda *_: None
    import jsonschema

    paths = json.loads(path.read_text("utf-8"))["paths"]

    def check(method: str, called: str, answer: httpx.Response) -> None:
        for template, operations in paths.items():
            if template != called and template.rpartition("/")[0] != called.rpartition("/")[0]:
                continue
            if "{" not in template and template != called:
                continue
            promised = operations.get(method.lower(), {}).get("responses", {})
            content = promised.get(str(answer.status_code), {}).get("content", {})
            if "application/json" in content:
                schema = nullable(content["application/json"]["schema"])
                jsonschema.validate(answer.json(), schema)

    return check


def nullable(schema: Any) -> Any:
    """OpenAPI 3.0's ``nullable`` in the words of JSON Schema."""
    if isinstance(schema, list):
        return [nullable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: nullable(part) for key, part in schema.items()}
    if plain.pop("nullable", False):
        return {"anyOf": [plain, {"type": "null"}]}
    return plain


@pytest.fixture(scope="session")
def conforms() -> Callable[[Any, Any], None]:
    """Checks a value against a schema in OpenAPI's words."""
    import jsonschema

    return lambda schema, value: jsonschema.validate(value, nullable(schema))


@pytest.fixture
def api(stub: Emulator, validate: Callable[..., None]) -> Iterator[Api]:
    client = Api(stub, validate)
    yield client
    client.http.close()


@pytest.fixture
def openapi() -> Path:
    """The folder of the vendor's OpenAPI, which a clone of this repository does not hold."""
    if not OPENAPI.exists():
        pytest.skip("the vendor's OpenAPI is not part of this repository")
    return OPENAPI
