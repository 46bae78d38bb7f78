"""What is sent: each call's method, path and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from magichour_provider.api import wire
from magichour_provider.api.inputs import TalkingPhotoInputs, VoiceInputs
from magichour_provider.exceptions import InvalidInput


def sent(**given: Any) -> Any:
    inputs = TalkingPhotoInputs.checked(
        {"image_file_path": "/me.png", "audio_file_path": "/hello.mp3", "end_seconds": 7.5, **given}
    )
    call = wire.paid_call(
        inputs,
        {"image_file_path": "api-assets/1.png", "audio_file_path": "https://x.example/2.mp3"},
        "dag.task [mh-1a2b3c4d]",
    )
    assert call.body is not None
    return json.loads(call.body)


MINIMAL = {
    "name": "dag.task [mh-1a2b3c4d]",
    "assets": {"image_file_path": "api-assets/1.png", "audio_file_path": "https://x.example/2.mp3"},
    "start_seconds": 0,
    "end_seconds": 7.5,
}


def test_what_is_not_given_is_left_out_but_for_the_name_and_the_start() -> None:
    assert sent() == MINIMAL


def test_an_empty_style_is_left_out_too() -> None:
    assert "style" not in sent(resolution="480p")


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({"start_seconds": 1.25}, {"start_seconds": 1.25}),
        ({"start_seconds": 0}, {}),
        ({"end_seconds": "9"}, {"end_seconds": 9}),
        *(
            ({"generation_mode": mode}, {"style": {"generation_mode": mode}})
            for mode in ("realistic", "prompted", "pro", "standard", "stable", "expressive")
        ),
        (
            {"generation_mode": "expressive", "intensity": 0.25},
            {"style": {"generation_mode": "expressive", "intensity": 0.25}},
        ),
        (
            {"generation_mode": "expressive", "intensity": 0},
            {"style": {"generation_mode": "expressive", "intensity": 0}},
        ),
        (
            {"generation_mode": "prompted", "prompt": "smile ☺"},
            {"style": {"generation_mode": "prompted", "prompt": "smile ☺"}},
        ),
        ({"resolution": "720p"}, {"resolution": "720p"}),
        ({"max_resolution": 1024}, {"max_resolution": 1024}),
        ({"name": "ours, not the wire's"}, {}),
    ],
)
def test_what_is_given_goes_to_its_place(given: dict[str, Any], added: dict[str, Any]) -> None:
    assert sent(**given) == MINIMAL | added


def test_a_voice_is_a_text_and_who_speaks_it() -> None:
    inputs = VoiceInputs.checked({"prompt": "Good evening ☺", "voice_name": "Anybody", "name": "not sent"})
    call = wire.paid_call(inputs, {}, "dag.task [mh-1a2b3c4d]")
    assert (call.method, call.path, call.pays) == ("POST", "/v1/ai-voice-generator", True)
    assert json.loads(call.body or b"") == {
        "name": "dag.task [mh-1a2b3c4d]",
        "style": {"prompt": "Good evening ☺", "voice_name": "Anybody"},
    }


def test_upload_urls_are_asked_for_all_files_at_once() -> None:
    call = wire.create_upload_slots([("image", "png"), ("audio", "mp3")])
    assert json.loads(call.body or b"") == {
        "items": [{"type": "image", "extension": "png"}, {"type": "audio", "extension": "mp3"}]
    }


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (wire.get_job("abc"), "GET", "/v1/video-projects/abc"),
        (wire.get_job(" abc\n"), "GET", "/v1/video-projects/abc"),
        (wire.get_job("../account?x=1"), "GET", "/v1/video-projects/..%2Faccount%3Fx%3D1"),
        (wire.delete_job("abc"), "DELETE", "/v1/video-projects/abc"),
        (wire.get_job("abc", "audio"), "GET", "/v1/audio-projects/abc"),
        (wire.delete_job("abc", "audio"), "DELETE", "/v1/audio-projects/abc"),
        (wire.create_upload_slots([]), "POST", "/v1/files/upload-urls"),
        (wire.get_account(), "GET", "/v1/account"),
    ],
)
def test_each_call_has_its_method_and_path(call: wire.Call[Any], method: str, path: str) -> None:
    assert (call.method, call.path, call.pays) == (method, path, False)


@pytest.mark.parametrize("job_id", ["", "  ", None])
@pytest.mark.parametrize("of", [wire.get_job, wire.delete_job])
def test_a_job_id_that_rendered_to_nothing_is_refused(of: Any, job_id: Any) -> None:
    with pytest.raises(InvalidInput, match=rf"^job_id={job_id!r}: is empty"):
        of(job_id)


def test_the_library_url_names_the_job() -> None:
    assert wire.library_url("a/b") == "https://magichour.ai/my-library?videoId=a%2Fb"
    assert wire.library_url("a/b", "audio") == "https://magichour.ai/my-library?audioId=a%2Fb"
