"""Requests: the emulator accepts and refuses the same requests as the vendor, and names the wrong field."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import httpx
import pytest
from emulator_http import connect, talking_photo

from magichour_provider.emulator import Emulator, validation
from magichour_provider.emulator.exceptions import ApiError

CREATE = "/v1/ai-talking-photo"
UPLOADS = "/v1/files/upload-urls"
VOICE = "/v1/ai-voice-generator"


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set or remove a field of ``body``."""
    *parents, field = path.split(".")
    inner = body
    for parent in parents:
        inner = inner.setdefault(parent, {})
    if value is MISSING:
        del inner[field]
    else:
        inner[field] = value
    return body


MISSING = object()
LIBRARY = "https://magichour.ai/my-library"


def body() -> dict[str, Any]:
    """Return a request for a talking photo that is accepted."""
    assets = {"image_file_path": "https://a/photo.png", "audio_file_path": "api-assets/1/voice.mp3"}
    return {"name": "test", "start_seconds": 0, "end_seconds": 1, "assets": assets}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "Ünïcødé 🎬"),
        ("name", MISSING),
        ("start_seconds", 0.25),
        ("end_seconds", 300),
        ("style", {}),
        ("style.prompt", "smiling"),
        ("style.generation_mode", "realistic"),
        ("style.generation_mode", "prompted"),
        ("style.generation_mode", "pro"),
        ("style.generation_mode", "standard"),
        ("style.generation_mode", "stable"),
        ("style", {"generation_mode": "expressive", "intensity": 1.55}),
        ("style", {"generation_mode": "expressive", "intensity": 2}),
        ("resolution", "480p"),
        ("resolution", "720p"),
        ("max_resolution", 640),
        ("max_resolution", 1_000_000),
        ("assets.image_file_path", "https://example.com/a/b.JPEG?token=1"),
        ("assets.audio_file_path", "http://example.com/voice%2Emp3"),
        ("assets.image_file_path", f"{LIBRARY}?imageId=cm123"),
        ("assets.audio_file_path", f"{LIBRARY}?audioId=cm123"),
    ],
)
def test_a_talking_photo_that_the_vendor_documents_is_accepted(field: str, value: Any) -> None:
    request = validation.check_talking_photo(changed(body(), field, value), "business")
    assert request.price > 0


def test_an_accepted_job_has_its_price_in_the_deprecated_field_too(api: Any) -> None:
    response = api("POST", CREATE, json=api.body()).json()
    # The vendor's SDK requires the deprecated field.
    assert response["estimated_frame_cost"] == response["credits_charged"] == 48


NOT_NUMBERS = ["1", True, None, [], {}]
NOT_TEXTS: list[Any] = [1, True, None, [], {}]
NOT_OBJECTS: list[Any] = [None, [], "x"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field in ("start_seconds", "end_seconds") for value in NOT_NUMBERS],
        *[("name", value) for value in NOT_TEXTS],
        *[("style.prompt", value) for value in NOT_TEXTS],
        *[("style.generation_mode", value) for value in [*NOT_TEXTS, "Realistic", ""]],
        *[("style.intensity", value) for value in NOT_NUMBERS],
        *[("assets.image_file_path", value) for value in [*NOT_TEXTS, "", " ", MISSING]],
        *[("assets.audio_file_path", value) for value in [*NOT_TEXTS, "", MISSING]],
        *[("assets", value) for value in [*NOT_OBJECTS, MISSING]],
        *[("style", value) for value in NOT_OBJECTS],
        ("start_seconds", MISSING),
        ("end_seconds", MISSING),
        ("start_seconds", -0.1),
        ("start_seconds", 10**400),
        ("end_seconds", 0.09),
        ("end_seconds", 0),
        ("end_seconds", 300.01),
        ("resolution", "1080p"),
        ("resolution", 720),
        ("resolution", None),
        ("max_resolution", "640"),
        ("max_resolution", 640.5),
        ("max_resolution", 0),
        ("max_resolution", True),
        ("max_resolution", None),
        ("extra", 1),
        ("style.extra", 1),
        ("assets.extra", "x"),
        ("assets.image_file_path", "photo.png"),
        ("assets.image_file_path", "s3://bucket/photo.png"),
        ("assets.image_file_path", "https://example.com/photo"),
        ("assets.image_file_path", "https://example.com/photo.gif"),
        ("assets.image_file_path", "https:///photo.png"),
        ("assets.image_file_path", "https://[/photo.png"),
        ("assets.image_file_path", f"{LIBRARY}?audioId=cm1"),
        ("assets.audio_file_path", "api-assets/1/never.png"),
        ("assets.audio_file_path", f"{LIBRARY}?imageId=cm1"),
    ],
)
def test_a_wrong_talking_photo_is_refused_with_the_name_of_the_field(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as refused:
        validation.check_talking_photo(changed(body(), field, value), "business")
    assert refused.value.status == 422
    assert field.split(".")[-1] in refused.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("end_seconds", 300.01),
        ("assets.image_file_path", "api-assets/1/never.png"),
        ("assets.image_file_path", "api-assets/../../etc/passwd.png"),
        ("assets.audio_file_path", "api-assets/1/never.mp3"),
    ],
)
def test_a_refused_request_is_answered_with_422_and_charges_nothing(api: Any, field: str, value: str) -> None:
    response = api("POST", CREATE, json=changed(api.body(), field, value))
    assert response.status_code == 422, response.text
    assert field.split(".")[-1] in response.json()["message"]
    assert api.emulator.charges() == 0


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"intensity": 1}, "expressive"),
        ({"generation_mode": "prompted", "intensity": 1}, "expressive"),
        ({"generation_mode": "expressive", "intensity": 1.123}, "2 decimal"),
    ],
)
def test_an_intensity_is_only_accepted_with_expressive_and_two_decimals(
    style: dict[str, Any], message: str
) -> None:
    with pytest.raises(ApiError, match=f"style.intensity: .*{message}"):
        validation.check_talking_photo(body() | {"style": style}, "business")


def test_the_length_of_a_clip_is_limited_and_not_its_place() -> None:
    inside = body() | {"start_seconds": 1000, "end_seconds": 1045, "style": {"generation_mode": "prompted"}}
    assert validation.check_talking_photo(inside, "business").price == 45 * 20
    with pytest.raises(ApiError, match="maximum in prompted mode is 45"):
        validation.check_talking_photo(inside | {"end_seconds": 1045.1}, "business")
    with pytest.raises(ApiError, match="end_seconds: must be greater"):
        validation.check_talking_photo(inside | {"end_seconds": 1000}, "business")


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_refused_with_the_name_of_the_field(api: Any, bad: str) -> None:
    content = api.http.build_request("POST", CREATE, json=api.body()).content
    response = api(
        "POST", CREATE, content=content.replace(b'"end_seconds":1', f'"end_seconds":{bad}'.encode())
    )
    assert response.status_code == 422
    assert "end_seconds" in response.json()["message"]


@pytest.mark.parametrize("path", [CREATE, UPLOADS, VOICE])
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"  ", 400),
        (b"{", 400),
        (b"{'a': 1}", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"null", 422),
        (b" " * (1 << 21), 413),
    ],
)
def test_a_body_that_is_not_an_object_is_refused(api: Any, path: str, content: bytes, status: int) -> None:
    response = api("POST", path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert response.json()["message"]


def test_a_body_that_is_not_compressed_as_its_header_says_is_refused(api: Any) -> None:
    # The response closes the connection, so the client can send the same again.
    for _ in range(2):
        response = api("POST", CREATE, content=b"not gzip", headers={"Content-Encoding": "gzip"})
        assert response.status_code == 400
        assert response.json()["message"]
    assert api.emulator.charges() == 0


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("items", {}),
        ("items", {"items": None}),
        ("items", {"items": {}}),
        ("items", {"items": []}),
        ("items[0]", {"items": ["png"]}),
        ("items[0].type", {"items": [{"extension": "png"}]}),
        ("items[0].type", {"items": [{"type": "text", "extension": "gif"}]}),
        ("items[0].type", {"items": [{"type": 1, "extension": "png"}]}),
        ("items[0].extension", {"items": [{"type": "image"}]}),
        ("items[0].extension", {"items": [{"type": "image", "extension": None}]}),
        ("items[0].extension", {"items": [{"type": "image", "extension": ".png"}]}),
        ("items[0].extension", {"items": [{"type": "image", "extension": "PNG"}]}),
        ("items[0].extension", {"items": [{"type": "audio", "extension": "mp4"}]}),
        ("items[0].extension", {"items": [{"type": "image", "extension": "gif"}]}),
        ("items[0].size", {"items": [{"type": "image", "extension": "png", "size": 1}]}),
        ("more", {"items": [{"type": "image", "extension": "png"}], "more": 1}),
    ],
)
def test_a_wrong_request_for_upload_urls_is_refused_with_the_name_of_the_field(
    field: str, body: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as refused:
        validation.check_upload_urls(body)
    assert refused.value.status == 422
    assert field in refused.value.message


def test_an_invalid_extension_is_refused_in_the_vendors_words(api: Any) -> None:
    response = api("POST", UPLOADS, json={"items": [{"type": "audio", "extension": "mp4"}]})
    assert response.status_code == 422
    assert (
        "'mp4' is an invalid audio extension. Possible extensions are"
        " 'mp3, wav, aac, flac, webm, weba, m4a, opus, ogg, oga, aiff, amr'"
    ) in response.json()["message"]


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("style", {}),
        ("style", {"style": None}),
        ("style.prompt", {"style": {"voice_name": "Elon Musk"}}),
        ("style.prompt", {"style": {"voice_name": "Elon Musk", "prompt": ""}}),
        ("style.prompt", {"style": {"voice_name": "Elon Musk", "prompt": "x" * 1001}}),
        ("style.voice_name", {"style": {"prompt": "x"}}),
        ("style.voice_name", {"style": {"prompt": "x", "voice_name": "Nobody At All"}}),
        ("name", {"name": None, "style": {"prompt": "x", "voice_name": "Elon Musk"}}),
        ("style.speed", {"style": {"prompt": "x", "voice_name": "Elon Musk", "speed": 2}}),
    ],
)
def test_a_wrong_request_for_a_voice_is_refused_with_the_name_of_the_field(
    field: str, body: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as refused:
        validation.check_voice(body)
    assert refused.value.status == 422
    assert field in refused.value.message


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic {key}", "{key}", "Token {key}"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CREATE),
        ("GET", "/v1/account"),
        ("GET", "/v1/video-projects/x"),
        ("POST", UPLOADS),
    ],
)
def test_a_request_without_the_key_is_answered_with_401(
    stub: Emulator, validate: Any, method: str, path: str, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header.format(key=stub.api_key)}
    response = httpx.request(method, stub.url + path, headers=headers, verify=False)
    assert response.status_code == 401
    assert response.json() == {"message": "Unauthorized"}
    validate(method, path, response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/video-projects/unknown", 404),
        ("DELETE", "/v1/video-projects/unknown", 404),
        ("GET", "/v1/audio-projects/unknown", 404),
        ("GET", "/v1/video-projects/", 404),
        ("GET", "/v1/video-projects/..%2F..%2Fx", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v2/account", 404),
        ("GET", CREATE, 405),
        ("PUT", CREATE, 405),
        ("POST", "/v1/account", 405),
        ("POST", "/v1/video-projects/x", 405),
        ("GET", "/v1/image-projects/x", 404),
        ("GET", "/v1/saved-items", 501),
        ("POST", "/v1/face-detection", 501),
    ],
)
def test_an_unknown_route_or_job_is_answered_with_the_right_status(
    api: Any, method: str, path: str, status: int
) -> None:
    response = api(method, path)
    assert response.status_code == status
    message = response.json()["message"]
    assert message == "Not Found" if status == 404 else message
    assert ("Allow" in response.headers) == (status == 405)


def test_a_voice_is_not_found_as_a_video_nor_a_video_as_a_voice(api: Any) -> None:
    voice = api("POST", VOICE, json={"style": {"prompt": "Hello", "voice_name": "Elon Musk"}}).json()
    assert api("GET", f"/v1/video-projects/{voice['id']}").status_code == 404
    assert api("GET", f"/v1/audio-projects/{api.create()}").status_code == 404


def test_the_account_shows_plan_and_remaining_credits(api: Any) -> None:
    api.create(end_seconds=1)
    account = api("GET", "/v1/account").json()
    assert account["credits"] == 100_000 - 48
    assert account["tier"] == "business"


def test_a_resolution_that_the_plan_lacks_is_refused_with_403() -> None:
    with Emulator(render="stub", tier="free") as emulator, connect(emulator) as http:
        assert http.get("/v1/account").json()["subscription"] is None
        body = talking_photo(emulator, resolution="720p")
        refused = http.post(CREATE, json=body)
        assert refused.status_code == 403
        assert "resolution" in refused.json()["message"]
        assert http.post(CREATE, json=body | {"resolution": "480p"}).status_code == 200


ANYTHING: list[Any] = [
    *(None, True, 0, -1, 0.1, 1e308, 10**400, float("nan"), float("-inf"), 1e-9),
    *("", "x", "\ud800", "\x00", "a" * 5000, "api-assets/", "https://", "https://a:99999/x.png"),
    *("https://a/%zz.png", "http://[::1/x.png", f"{LIBRARY}?imageId=", LIBRARY, "expressive"),
    *([], {}, [[]], {"a": 1}),
]


def test_random_input_never_causes_a_server_error(api: Any) -> None:
    generator = random.Random(7)
    options = {"style": {"generation_mode": "expressive", "intensity": 1.5}, "max_resolution": 640}
    for _ in range(200):
        body = api.body(**copy.deepcopy(options))
        fields = generator.choice([body, body["assets"], body["style"]])
        fields[generator.choice([*fields, "more"])] = generator.choice(ANYTHING)
        response = api.http.post(CREATE, content=json.dumps(body))
        assert response.status_code in (200, 402, 422), (body, response.text)
        items = [{"type": generator.choice(ANYTHING), "extension": generator.choice(ANYTHING)}]
        response = api.http.post(UPLOADS, content=json.dumps({"items": items}))
        assert response.status_code == 422, items
