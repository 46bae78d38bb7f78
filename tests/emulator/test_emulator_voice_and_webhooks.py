"""Voices and webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import shutil
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from emulator_http import connect, ended

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# One client for all tests, without certificates: to load them is slow.
HTTP = httpx.Client(verify=False)
av = pytest.importorskip("av")

SECRET = "whsec_test"
ENGINES = [
    "tones",
    pytest.param(
        "espeak-ng",
        marks=pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is missing"),
    ),
]


def seconds(url: str, folder: Path) -> float:
    path = folder / "voice.wav"
    path.write_bytes(HTTP.get(url).content)
    with av.open(str(path)) as file:
        return float(file.duration / av.time_base)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_voice_is_longer_for_a_longer_text_and_can_be_used_in_a_video(
    engine: str, validate: Any, tmp_path: Path
) -> None:
    with Emulator(voice=engine) as emulator, connect(emulator) as http:

        def speak(text: str) -> dict[str, Any]:
            body = {"style": {"prompt": text, "voice_name": "Morgan Freeman"}}
            created = http.post("/v1/ai-voice-generator", json=body)
            validate("POST", "/v1/ai-voice-generator", created)
            path = f"/v1/audio-projects/{created.json()['id']}"
            ended(http, path)
            response = http.get(path)
            validate("GET", path, response)
            return dict(response.json())

        short, long = speak("Hello there, you."), speak("Hello there, you. " * 8)
        assert (short["status"], short["type"]) == ("complete", "VOICE_GENERATOR")
        assert (short["credits_charged"], long["credits_charged"]) == (2, 15)
        short_seconds = seconds(short["downloads"][0]["url"], tmp_path)
        assert short_seconds > 0.5
        assert seconds(long["downloads"][0]["url"], tmp_path) > 5 * short_seconds
        assert {job["engine"] for job in emulator.jobs()} == {engine}

        # A talking photo can use the generated voice by its library URL.
        body = {
            "start_seconds": 0,
            "end_seconds": 0.5,
            "max_resolution": 64,
            "assets": {
                "image_file_path": "https://magichour.ai/my-library?imageId=any",
                "audio_file_path": f"https://magichour.ai/my-library?audioId={long['id']}",
            },
        }
        video = http.post("/v1/ai-talking-photo", json=body).json()
        assert ended(http, f"/v1/video-projects/{video['id']}")["status"] == "complete"

        assert http.delete(f"/v1/audio-projects/{short['id']}").status_code == 204
        assert http.get(f"/v1/audio-projects/{short['id']}").json()["enabled"] is False


class Receiver:
    """A server that receives events, and responds with the given statuses, then with 200."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.end_headers()
                receiver.events.put(({k.lower(): v for k, v in self.headers.items()}, body))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Return the next event. Check its signature as in the vendor's documentation."""
        headers, body = self.events.get(timeout=10)
        timestamp = headers["magic-hour-event-timestamp"]
        assert abs(time.time() - int(timestamp)) < 300
        signature = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
        assert headers["magic-hour-event-signature"] == signature.hexdigest()
        return dict(json.loads(body))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def test_the_events_of_videos_are_signed_and_as_the_vendor_describes(
    api: Any, receiver: Receiver, openapi: Path, conforms: Any
) -> None:
    events = json.loads((openapi / "webhooks-openapi-2026-08.json").read_text("utf-8"))["paths"]
    api.emulator.webhook(receiver.url, SECRET)
    api.emulator.progression = "manual"
    done, failed, canceled = api.create(name="a"), api.create(name="b"), api.create(name="c")
    api.emulator.move(done, "complete")
    api.emulator.cancel(canceled)
    received = [receiver.next() for _ in range(2)]
    api.emulator.fail(failed, "no_source_face")
    received += [receiver.next() for _ in range(2)]
    assert [(event["type"], event["payload"]["id"]) for event in received] == [
        ("video.started", done),
        ("video.completed", done),
        ("video.started", failed),
        ("video.errored", failed),
    ]
    for event in received:
        schema = events["/" + event["type"]]["post"]["requestBody"]["content"]["application/json"]
        conforms(schema["schema"], event)
    assert HTTP.get(received[1]["payload"]["downloads"][0]["url"]).status_code == 200
    assert len(api.emulator.deliveries()) == 4


def test_only_the_registered_event_types_are_sent(api: Any, receiver: Receiver) -> None:
    api.emulator.webhook(receiver.url, SECRET, ["audio.completed"])
    api.create()
    style = {"prompt": "Hello", "voice_name": "Elon Musk"}
    api("POST", "/v1/ai-voice-generator", json={"style": style})
    event = receiver.next()
    assert event["type"] == "audio.completed"
    assert event["payload"]["type"] == "VOICE_GENERATOR"
    assert [delivery["type"] for delivery in api.emulator.deliveries()] == ["audio.completed"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "nonsense"}, "url"),
        ({"url": 5}, "url"),
        ({"secret": 5}, "secret"),
        ({"events": ["video.canceled"]}, "video.canceled"),
    ],
)
def test_a_wrong_webhook_is_refused_with_the_field(
    api: Any, receiver: Receiver, wrong: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"url": receiver.url, "secret": SECRET} | wrong
    with pytest.raises(ValueError, match=message):
        api.emulator.webhook(**options)


def test_an_event_is_sent_again_until_it_is_delivered(api: Any, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 404, 200]
    api.emulator.webhook(receiver.url, SECRET, ["video.completed"])
    api.create()
    first = receiver.next()
    for attempts, delay in enumerate((5, 10, 20), start=1):
        # The receiver has the event before the emulator has the response.
        until(lambda: len(api.emulator.deliveries()[0]["attempts"]) == attempts)  # noqa: B023
        assert api.emulator.deliveries()[0]["delivered"] is False
        api.emulator.advance(delay)
        assert receiver.next() == first
    until(lambda: api.emulator.deliveries()[0]["delivered"])
    assert api.emulator.deliveries()[0]["attempts"] == [500, 302, 404, 200]


def test_an_event_is_given_up_after_a_day(api: Any, receiver: Receiver) -> None:
    receiver.server.shutdown()
    receiver.server.server_close()
    api.emulator.webhook(receiver.url, SECRET, ["video.completed"])
    api.create()
    until(lambda: api.emulator.deliveries())
    delivery: dict[str, Any] = {}

    def given_up_an_hour_later() -> bool:
        api.emulator.advance(3600)
        delivery.update(api.emulator.deliveries()[0])
        return bool(delivery["given_up"])

    until(given_up_an_hour_later)
    assert 5 < len(delivery["attempts"]) < 20


def until(condition: Any) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
