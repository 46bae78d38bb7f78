"""The MP4 of a job: its streams, its duration, and the failures of a render."""

from __future__ import annotations

import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from emulator_http import connect, ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magichour_provider.emulator import Emulator

# One client for all tests, without certificates: to load them is slow.
HTTP = httpx.Client(verify=False)
av = pytest.importorskip("av")
np = pytest.importorskip("numpy")


def render(emulator: Emulator, **changes: Any) -> dict[str, Any]:
    """Create a talking photo, and return the ended job."""
    body = {"start_seconds": 0, "end_seconds": 2, "max_resolution": 240} | changes
    with connect(emulator) as http:
        created = http.post("/v1/ai-talking-photo", json=body)
        assert created.status_code == 200, created.text
        return ended(http, f"/v1/video-projects/{created.json()['id']}")


def assets(emulator: Emulator, photo: Path, voice: Path) -> dict[str, str]:
    return {
        "image_file_path": emulator.put_asset(photo, photo.suffix[1:]),
        "audio_file_path": emulator.put_asset(voice, voice.suffix[1:]),
    }


def download(job: dict[str, Any], folder: Path) -> Path:
    assert job["status"] == "complete", job["error"]
    path = folder / f"{job['id']}.mp4"
    path.write_bytes(HTTP.get(job["downloads"][0]["url"]).content)
    return path


def test_a_video_is_playable_and_as_long_as_its_clip(
    real: Emulator, photo: Path, voice: Path, tmp_path: Path
) -> None:
    job = render(real, assets=assets(real, photo, voice), start_seconds=0.25, end_seconds=1.75, name="x")
    path = download(job, tmp_path)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "a player cannot stream the file"
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.codec_context.pix_fmt == "yuv420p"
        assert (video.width, video.height) == (job["width"], job["height"])
        assert float(video.average_rate) == 30 == job["fps"]
        assert float(video.duration * video.time_base) == pytest.approx(1.5, abs=0.001)
        assert float(audio.duration * audio.time_base) == pytest.approx(1.5, abs=0.03)
        assert video.frames == 45


def test_the_audio_is_the_clip_and_the_picture_follows_it(
    real: Emulator, photo: Path, voice: Path, tmp_path: Path
) -> None:
    path = download(render(real, assets=assets(real, photo, voice)), tmp_path)
    with av.open(str(path)) as file:
        samples = np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)])
    with av.open(str(path)) as file:
        pictures = [f.to_ndarray(format="gray").astype(float) for f in file.decode(video=0)]
    quiet, loud = samples[: 48_000 // 3], samples[48_000 * 2 // 3 : 48_000 * 4 // 3]
    assert np.abs(quiet).max() < 0.02
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(0.6 * 32_000 / 32_768 / 2**0.5, rel=0.1)

    def difference(first: int, second: int) -> float:
        return float(np.abs(pictures[first] - pictures[second]).mean())

    noise = difference(2, 10)
    assert difference(2, 30) > 5 * noise + 0.2, "nothing moves during the voice"
    assert difference(2, 59) < difference(2, 30) / 2, "the movement does not stop in the silence"


def test_audio_that_ends_early_makes_a_shorter_video(
    real: Emulator, photo: Path, voice: Path, tmp_path: Path
) -> None:
    job = render(real, assets=assets(real, photo, voice), start_seconds=1, end_seconds=60)
    with av.open(str(download(job, tmp_path))) as file:
        assert file.duration / av.time_base == pytest.approx(1, abs=0.05)


def test_a_clip_beyond_the_end_of_the_audio_ends_in_a_refunded_error(
    real: Emulator, photo: Path, voice: Path
) -> None:
    job = render(real, assets=assets(real, photo, voice), start_seconds=2, end_seconds=3)
    assert job["status"] == "error"
    assert job["error"]["code"] == "invalid_parameters"
    assert job["credits_charged"] == 0


@pytest.mark.parametrize("broken", ["image", "audio"])
@pytest.mark.parametrize(
    "content",
    [b"", b"not media", b"\x89PNG\r\n\x1a\n" + bytes(50), b"RIFF" + struct.pack("<I", 4) + b"WAVE"],
)
def test_a_file_that_cannot_be_decoded_ends_in_a_refunded_error(
    real: Emulator, photo: Path, voice: Path, broken: str, content: bytes
) -> None:
    before = real.credits
    files = assets(real, photo, voice)
    extension = "png" if broken == "image" else "wav"
    files[f"{broken}_file_path"] = real.put_asset(content, extension)
    job = render(real, assets=files)
    assert job["status"] == "error"
    assert job["error"]["code"] == "invalid_file_format"
    assert "/" not in job["error"]["message"], "the message contains a local path"
    assert real.credits == before


def test_equal_requests_are_rendered_once(real: Emulator, photo: Path, voice: Path) -> None:
    files = assets(real, photo, voice)
    first = render(real, assets=files, end_seconds=1.9)
    second = render(real, assets=assets(real, photo, voice), end_seconds=1.9)
    one, two = (HTTP.get(job["downloads"][0]["url"]) for job in (first, second))
    assert one.headers["etag"] == two.headers["etag"]
    # The second job keeps its file when the first one is deleted.
    real.delete(first["id"])
    assert HTTP.get(two.url).status_code == 200


@pytest.fixture
def web(photo: Path, voice: Path) -> Iterator[str]:
    """A web server that has only the photo and the voice."""

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert "Authorization" not in self.headers
            path = {".png": photo, ".wav": voice}.get(self.path[-4:])
            self.send_response(200 if path and "missing" not in self.path else 404)
            self.end_headers()
            if path:
                self.wfile.write(path.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_asset_is_fetched_from_its_url(real: Emulator, web: str) -> None:
    files = {"image_file_path": f"{web}/photo.png", "audio_file_path": f"{web}/voice.wav"}
    assert render(real, assets=files)["status"] == "complete"
    files["image_file_path"] = f"{web}/missing.png"
    assert render(real, assets=files)["error"]["code"] == "invalid_file_format"


def test_an_asset_on_another_machine_is_not_fetched(real: Emulator, voice: Path) -> None:
    files = {
        "image_file_path": "https://example.com/photo.png",
        "audio_file_path": real.put_asset(voice, "wav"),
    }
    job = render(real, assets=files)
    assert job["error"]["code"] == "invalid_file_format"
    assert "--fetch any" in job["error"]["message"]


def test_a_library_asset_has_a_stand_in(real: Emulator, tmp_path: Path) -> None:
    library = "https://magichour.ai/my-library"
    files = {
        "image_file_path": f"{library}?imageId=cm1",
        "audio_file_path": f"{library}?audioId=cm2",
    }
    with av.open(str(download(render(real, assets=files), tmp_path))) as file:
        assert file.duration / av.time_base == pytest.approx(2, abs=0.05)
