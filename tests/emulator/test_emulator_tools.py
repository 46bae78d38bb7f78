"""The vendor's other paid calls: each is checked, charged, moved through its statuses, and makes a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from magichour_provider.emulator import Emulator
from magichour_provider.emulator.tools import described, type_of

if TYPE_CHECKING:
    from collections.abc import Iterator

av = pytest.importorskip("av")

ROUTES = {"video": "video-projects", "image": "image-projects", "audio": "audio-projects"}


@pytest.fixture(scope="module")
def stub() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def real() -> Iterator[Emulator]:
    with Emulator(fps=6, voice="tones") as emulator:
        yield emulator


def call(emulator: Emulator, method: str, path: str, body: object = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    return httpx.request(method, f"{emulator.url}/v1/{path}", headers=headers, json=body, timeout=60)


def example(tool: str, emulator: Emulator, files: dict[str, Any] | None = None) -> dict[str, Any]:
    """The vendor's example of a body, with files that were uploaded."""
    files = files or {name: emulator.put_asset(b"a file", name) for name in ("png", "mp3", "mp4")}
    text = json.dumps(described()[tool]["example"])
    for name in ("1234", "1235", "5678", "model", "outfit"):
        for folder in ("api-assets/id/", "image/id/"):
            text = text.replace(f"{folder}{name}.png", files["png"])
    for old, new in (("1234.mp3", "mp3"), ("1234.mp4", "mp4"), ("image.jpg", "png")):
        text = text.replace(f"api-assets/id/{old}", files[new])
    made: dict[str, Any] = json.loads(text)
    return made


def finished(emulator: Emulator, tool: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create a job, and poll it to its end."""
    created = call(emulator, "POST", tool, body)
    assert created.status_code == 200, created.text
    route = ROUTES[described()[tool]["job_type"]]
    job = ended(emulator, f"{route}/{created.json()['id']}")
    assert job["status"] == "complete", job
    return job


def ended(emulator: Emulator, path: str) -> dict[str, Any]:
    """Poll a job to its end: a poll waits for its file, but not for ever."""
    while True:
        job: dict[str, Any] = call(emulator, "GET", path).json()
        if job["status"] not in ("queued", "rendering"):
            return job


def downloaded(job: dict[str, Any]) -> list[bytes]:
    return [httpx.get(one["url"]).raise_for_status().content for one in job["downloads"]]


@pytest.mark.parametrize("tool", described())
def test_the_vendors_example_is_taken_charged_and_made(stub: Emulator, tool: str) -> None:
    body = example(tool, stub)
    before, charges = stub.credits, stub.charges()
    job = finished(stub, tool, body)
    assert job["type"] == type_of(tool)
    assert job["name"] == body.get("name", job["name"])
    assert stub.charges() == charges + 1
    assert before - stub.credits == job["credits_charged"]
    files = downloaded(job)
    assert len(files) == body.get("image_count", 1)
    assert all(files)
    assert stub.job(job["id"])["job_type"] == described()[tool]["job_type"]


@pytest.mark.parametrize(
    ("tool", "change", "words"),
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
    stub: Emulator, tool: str, change: dict[str, Any], words: str
) -> None:
    charges = stub.charges()
    refused = call(stub, "POST", tool, example(tool, stub) | change)
    assert refused.status_code == 422
    assert words in refused.json()["message"]
    assert stub.charges() == charges


def test_without_enough_credits_nothing_is_made(stub: Emulator) -> None:
    credits_before = stub.credits
    stub.credits = 24
    try:
        refused = call(stub, "POST", "ai-clothes-changer", example("ai-clothes-changer", stub))
    finally:
        stub.credits = credits_before
    assert refused.status_code == 402
    assert "this costs 25 credits and the account has 24" in refused.json()["message"]


def test_a_job_is_only_found_as_what_it_is_and_can_be_deleted(stub: Emulator) -> None:
    job = finished(stub, "photo-colorizer", example("photo-colorizer", stub))
    assert call(stub, "GET", f"video-projects/{job['id']}").status_code == 404
    assert call(stub, "DELETE", f"image-projects/{job['id']}").status_code == 204
    gone = call(stub, "GET", f"image-projects/{job['id']}").json()
    assert (gone["enabled"], gone["downloads"]) == (False, [])
    assert httpx.get(job["downloads"][0]["url"]).status_code == 404


def test_faults_and_statuses_are_those_of_the_others() -> None:
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
        kinds = [entry["entry_type"] for entry in emulator.ledger("UGC")]
        assert kinds == ["charge", "refund"]


# --- what stands in for the results ---


@pytest.fixture(scope="module")
def files(real: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A picture, a sound, and a video of the two, uploaded."""
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
    """Seconds, kinds of streams, and the colour in the middle of the first picture."""
    with av.open(io.BytesIO(content)) as file:
        kinds = {stream.type for stream in file.streams}
        picture = next(file.decode(video=0)).to_image()
        return float(file.duration / av.time_base), kinds, picture.getpixel((picture.width // 2, 20))


@pytest.mark.parametrize("tool", [name for name, tool in described().items() if tool["job_type"] == "video"])
def test_a_video_is_as_long_as_was_asked_and_shows_its_input(
    real: Emulator, files: dict[str, str], tool: str
) -> None:
    body = example(tool, real, files) | {"end_seconds": 2}
    seconds, kinds, colour = media_of(downloaded(finished(real, tool, body))[0])
    assert seconds == pytest.approx(2, abs=0.1)
    assert kinds == {"video", "audio"}
    if tool != "text-to-video":
        assert colour[0] > 200 > 80 > colour[2]


def test_the_images_say_what_was_asked_for_and_differ(real: Emulator) -> None:
    body = {"image_count": 4, "style": {"prompt": "a lighthouse"}, "aspect_ratio": "16:9"}
    job = finished(real, "ai-image-generator", body)
    pictures = downloaded(job)
    assert len({bytes(one) for one in pictures}) == job["image_count"] == 4
    assert {Image.open(io.BytesIO(one)).size for one in pictures} == {(640, 360)}
    other = downloaded(finished(real, "ai-image-generator", body | {"style": {"prompt": "a harbour"}}))
    assert not set(other) & set(pictures)


def test_an_edited_image_is_its_input(real: Emulator, files: dict[str, str]) -> None:
    (content,) = downloaded(finished(real, "photo-colorizer", example("photo-colorizer", real, files)))
    assert Image.open(io.BytesIO(content)).convert("RGB").getpixel((160, 20)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("output_format", "name"), [("gif", "gif"), ("mp4", "mov,mp4,m4a"), ("webm", "matroska,webm")]
)
def test_a_gif_is_of_the_format_that_was_asked_for(real: Emulator, output_format: str, name: str) -> None:
    body = {"style": {"prompt": "a dot"}, "output_format": output_format}
    job = finished(real, "ai-gif-generator", body)
    assert job["downloads"][0]["url"].partition("?")[0].endswith(f".{output_format}")
    with av.open(io.BytesIO(downloaded(job)[0])) as file:
        assert file.format.name.startswith(name)
        assert sum(1 for _ in file.decode(video=0)) > 1


@pytest.mark.parametrize(("tool", "seconds"), [("ai-music-generator", 15), ("ai-voice-cloner", 2)])
def test_a_sound_is_as_long_as_was_asked(
    real: Emulator, files: dict[str, str], tool: str, seconds: float
) -> None:
    body = example(tool, real, files) | ({"duration": 15} if tool == "ai-music-generator" else {})
    (content,) = downloaded(finished(real, tool, body))
    with av.open(io.BytesIO(content)) as file:
        assert file.duration / av.time_base == pytest.approx(seconds, rel=0.3)


def test_an_image_is_handed_on_by_its_library_url(real: Emulator, files: dict[str, str]) -> None:
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
    created = call(real, "POST", "auto-subtitle-generator", body).json()
    job = ended(real, f"video-projects/{created['id']}")
    assert (job["status"], job["error"]["code"], job["credits_charged"]) == ("error", "invalid_video_file", 0)
