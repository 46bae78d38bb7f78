"""The vendor's other paid calls: their checks, charges, statuses and files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from emulator_http import connect, ended
from PIL import Image

from magichour_provider.emulator import Emulator
from magichour_provider.emulator.tools import descriptions, project_type

if TYPE_CHECKING:
    from collections.abc import Iterator

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def stub() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def real() -> Iterator[Emulator]:
    with Emulator(fps=6, voice="tones") as emulator:
        yield emulator


def call(emulator: Emulator, method: str, path: str, body: object = None) -> httpx.Response:
    with connect(emulator) as http:
        return http.request(method, f"/v1/{path}", json=body)


def example(tool: str, emulator: Emulator, files: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the vendor's example of a body, with the paths of uploads."""
    files = files or {name: emulator.put_asset(b"a file", name) for name in ("png", "mp3", "mp4")}
    text = json.dumps(descriptions()[tool]["example"])
    for name in ("1234", "1235", "5678", "model", "outfit"):
        for folder in ("api-assets/id/", "image/id/"):
            text = text.replace(f"{folder}{name}.png", files["png"])
    for old, new in (("1234.mp3", "mp3"), ("1234.mp4", "mp4"), ("image.jpg", "png")):
        text = text.replace(f"api-assets/id/{old}", files[new])
    body: dict[str, Any] = json.loads(text)
    return body


def finished(emulator: Emulator, tool: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create a job, and poll it until it is complete."""
    with connect(emulator) as http:
        created = http.post(f"/v1/{tool}", json=body)
        assert created.status_code == 200, created.text
        job_type = descriptions()[tool]["job_type"]
        job = ended(http, f"/v1/{job_type}-projects/{created.json()['id']}")
    assert job["status"] == "complete", job
    return job


def downloaded(job: dict[str, Any]) -> list[bytes]:
    with httpx.Client(verify=False) as http:
        return [http.get(item["url"]).raise_for_status().content for item in job["downloads"]]


@pytest.mark.parametrize("tool", descriptions())
def test_the_vendors_example_is_taken_charged_and_made(stub: Emulator, tool: str) -> None:
    body = example(tool, stub)
    before, charges = stub.credits, stub.charges()
    job = finished(stub, tool, body)
    assert job["type"] == project_type(tool)
    assert job["name"] == body.get("name", job["name"])
    assert stub.charges() == charges + 1
    assert before - stub.credits == job["credits_charged"]
    files = downloaded(job)
    assert len(files) == body.get("image_count", 1)
    assert all(files)
    assert stub.job(job["id"])["job_type"] == descriptions()[tool]["job_type"]


@pytest.mark.parametrize(
    ("tool", "change", "message"),
    [
        ("ai-image-generator", {"style": {}}, "style.prompt: required"),
        ("ai-image-generator", {"image_count": 17}, "image_count: 17 is greater than the maximum of 16"),
        ("ai-image-generator", {"image_count": None}, "image_count: None is not of type 'integer'"),
        ("ai-image-generator", {"colour": "red"}, "colour: unknown field"),
        ("ai-image-generator", {"model": "mona-lisa"}, "model: 'mona-lisa' is not one of"),
        ("face-swap", {"end_seconds": 0}, "end_seconds: 0 is less than the minimum of 0.1"),
        ("face-swap", {"start_seconds": 15}, "end_seconds: must be greater than start_seconds (15), got 15"),
        (
            "face-swap",
            {"assets": {"video_source": "file", "video_file_path": "a.mp4"}},
            "is neither an http(s) URL",
        ),
        (
            "face-swap",
            {"assets": {"video_source": "file", "video_file_path": "api-assets/gone.mp4"}},
            "api-assets/gone.mp4 was never uploaded",
        ),
        ("auto-subtitle-generator", {"style": {}}, "style: at least one of template and custom_config"),
    ],
)
def test_what_the_vendor_excludes_is_refused_and_not_charged(
    stub: Emulator, tool: str, change: dict[str, Any], message: str
) -> None:
    charges = stub.charges()
    refused = call(stub, "POST", tool, example(tool, stub) | change)
    assert refused.status_code == 422
    assert message in refused.json()["message"]
    assert stub.charges() == charges


@pytest.mark.parametrize("extension", ["png", "mp4", "mp3"])
def test_a_reference_can_have_any_media_type(stub: Emulator, extension: str) -> None:
    for path in (stub.put_asset(b"a file", extension), f"https://x.example/a.{extension}?signature=1"):
        body = example("text-to-video", stub) | {"references": [{"name": "dog", "file_path": path}]}
        assert call(stub, "POST", "text-to-video", body).status_code == 200
    body["references"][0]["file_path"] = "api-assets/id/a.txt"
    assert call(stub, "POST", "text-to-video", body).status_code == 422


def test_without_enough_credits_nothing_is_made(stub: Emulator) -> None:
    credits_before = stub.credits
    stub.credits = 24
    try:
        refused = call(stub, "POST", "ai-clothes-changer", example("ai-clothes-changer", stub))
    finally:
        stub.credits = credits_before
    assert refused.status_code == 402
    assert "this costs 25 credits and the account has 24" in refused.json()["message"]


def test_a_job_is_found_only_under_its_job_type_and_can_be_deleted(stub: Emulator) -> None:
    job = finished(stub, "photo-colorizer", example("photo-colorizer", stub))
    assert call(stub, "GET", f"video-projects/{job['id']}").status_code == 404
    assert call(stub, "DELETE", f"image-projects/{job['id']}").status_code == 204
    gone = call(stub, "GET", f"image-projects/{job['id']}").json()
    assert (gone["enabled"], gone["downloads"]) == (False, [])
    assert httpx.get(job["downloads"][0]["url"]).status_code == 404


def test_faults_and_statuses_are_like_those_of_a_talking_photo() -> None:
    with Emulator(render="stub", progression="polls:3") as emulator:
        body = example("face-swap", emulator)
        emulator.fault("create_tool", status=503, name="face-swap")
        emulator.fault("create_tool", ends="error:no_source_face", name="UGC")
        assert (
            call(emulator, "POST", "ai-clothes-changer", example("ai-clothes-changer", emulator)).status_code
            == 200
        )
        assert call(emulator, "POST", "face-swap", body).status_code == 503
        created = call(emulator, "POST", "face-swap", body | {"name": "UGC"}).json()
        polled = [call(emulator, "GET", f"video-projects/{created['id']}").json() for _ in range(3)]
        assert [job["status"] for job in polled] == ["queued", "rendering", "error"]
        assert [entry["entry_type"] for entry in emulator.ledger("UGC")] == ["charge", "refund"]


# --- the stand-ins for the results ---


@pytest.fixture(scope="module")
def files(real: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The paths of uploads: an image, a voice, and a video of the two."""
    media = Path(__file__).parents[2] / "example_dags" / "media"
    png = tmp_path_factory.mktemp("files") / "red.png"
    Image.new("RGB", (320, 240), "red").save(png)
    uploaded = {"png": real.put_asset(png, "png"), "mp3": real.put_asset(media / "ada.mp3", "mp3")}
    body = {
        "end_seconds": 2,
        "assets": {"image_file_path": uploaded["png"], "audio_file_path": uploaded["mp3"]},
    }
    (video,) = downloaded(finished(real, "audio-to-video", body))
    return uploaded | {"mp4": real.put_asset(video, "mp4")}


def media_of(content: bytes) -> tuple[float, set[str], tuple[int, ...]]:
    """Return the duration, the types of the streams, and a colour at the top of the first frame."""
    with av.open(io.BytesIO(content)) as file:
        types = {stream.type for stream in file.streams}
        picture = next(file.decode(video=0)).to_image()
        return float(file.duration / av.time_base), types, picture.getpixel((picture.width // 2, 20))


VIDEO_TOOLS = [name for name, tool in descriptions().items() if tool["job_type"] == "video"]


@pytest.mark.parametrize("tool", VIDEO_TOOLS)
def test_a_video_has_the_requested_duration_and_shows_its_input(
    real: Emulator, files: dict[str, str], tool: str
) -> None:
    body = example(tool, real, files) | {"end_seconds": 2}
    seconds, types, colour = media_of(downloaded(finished(real, tool, body))[0])
    assert seconds == pytest.approx(2, abs=0.1)
    assert types == {"video", "audio"}
    if tool != "text-to-video":
        assert colour[0] > 200 > 80 > colour[2]


def test_the_images_show_the_request_and_differ(real: Emulator) -> None:
    body = {"image_count": 4, "style": {"prompt": "a lighthouse"}, "aspect_ratio": "16:9"}
    job = finished(real, "ai-image-generator", body)
    pictures = downloaded(job)
    assert len(set(pictures)) == job["image_count"] == 4
    assert {Image.open(io.BytesIO(picture)).size for picture in pictures} == {(640, 360)}
    other = downloaded(finished(real, "ai-image-generator", body | {"style": {"prompt": "a harbour"}}))
    assert not set(other) & set(pictures)


def test_an_edited_image_is_its_input(real: Emulator, files: dict[str, str]) -> None:
    (content,) = downloaded(finished(real, "photo-colorizer", example("photo-colorizer", real, files)))
    assert Image.open(io.BytesIO(content)).convert("RGB").getpixel((160, 20)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("output_format", "name"), [("gif", "gif"), ("mp4", "mov,mp4,m4a"), ("webm", "matroska,webm")]
)
def test_a_gif_has_the_requested_format(real: Emulator, output_format: str, name: str) -> None:
    body = {"style": {"prompt": "a dot"}, "output_format": output_format}
    job = finished(real, "ai-gif-generator", body)
    assert job["downloads"][0]["url"].partition("?")[0].endswith(f".{output_format}")
    with av.open(io.BytesIO(downloaded(job)[0])) as file:
        assert file.format.name.startswith(name)
        assert sum(1 for _ in file.decode(video=0)) > 1


@pytest.mark.parametrize(("tool", "seconds"), [("ai-music-generator", 15), ("ai-voice-cloner", 2)])
def test_audio_has_the_requested_duration(
    real: Emulator, files: dict[str, str], tool: str, seconds: float
) -> None:
    body = example(tool, real, files) | ({"duration": 15} if tool == "ai-music-generator" else {})
    (content,) = downloaded(finished(real, tool, body))
    with av.open(io.BytesIO(content)) as file:
        assert file.duration / av.time_base == pytest.approx(seconds, rel=0.3)


def test_an_image_can_be_used_by_its_library_url(real: Emulator, files: dict[str, str]) -> None:
    red = finished(real, "photo-colorizer", example("photo-colorizer", real, files))
    library = f"https://magichour.ai/my-library?imageId={red['id']}"
    body = {"end_seconds": 1, "assets": {"image_file_path": library}}
    *_, colour = media_of(downloaded(finished(real, "image-to-video", body))[0])
    assert colour[0] > 200 > 80 > colour[2]


def test_a_damaged_video_ends_in_an_error_and_is_refunded(real: Emulator) -> None:
    files = {
        "png": real.put_asset(b"no", "png"),
        "mp3": real.put_asset(b"no", "mp3"),
        "mp4": real.put_asset(b"no", "mp4"),
    }
    body = example("auto-subtitle-generator", real, files) | {"name": "damaged", "end_seconds": 1}
    with connect(real) as http:
        created = http.post("/v1/auto-subtitle-generator", json=body).json()
        job = ended(http, f"/v1/video-projects/{created['id']}")
    assert (job["status"], job["error"]["code"], job["credits_charged"]) == ("error", "invalid_video_file", 0)
