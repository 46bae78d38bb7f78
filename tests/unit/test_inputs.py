"""What a talking photo is made from: bad input gets a clear answer before anything is paid."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from magichour_provider.api.inputs import EXTENSIONS, TalkingPhotoInputs, VoiceInputs, extension_of
from magichour_provider.api.tools import ToolInputs
from magichour_provider.exceptions import InvalidInput

GOOD = {"image_file_path": "/data/me.png", "audio_file_path": "/data/hello.mp3", "end_seconds": 7.5}
LIBRARY = "https://magichour.ai/my-library"


def inputs(**changes: Any) -> TalkingPhotoInputs:
    return TalkingPhotoInputs.checked({**GOOD, **changes})


BAD: list[tuple[dict[str, Any], str, Any, str]] = [
    # what is given, the field that the message names, the value, and a word of the remedy
    ({"image_file_path": None}, "image_file_path", None, "a URL, an api-assets/ path, or a file"),
    ({"audio_file_path": None}, "audio_file_path", None, "a URL, an api-assets/ path, or a file"),
    ({"image_file_path": "/data/me.gif"}, "image_file_path", "/data/me.gif", ".png, .jpg, .jpeg"),
    ({"image_file_path": "/data/me"}, "image_file_path", "/data/me", ".png, .jpg, .jpeg"),
    ({"image_file_path": "/data/photos/"}, "image_file_path", "/data/photos/", ".png, .jpg, .jpeg"),
    ({"audio_file_path": "/data/me.png"}, "audio_file_path", "/data/me.png", ".mp3, .wav, .aac"),
    ({"image_file_path": "https://x.example/me.gif"}, "image_file_path", "https://x.example/me.gif", ".png"),
    ({"image_file_path": "https://[x/me.png"}, "image_file_path", "https://[x/me.png", "URL"),
    ({"image_file_path": "s3://bucket/me.txt"}, "image_file_path", "s3://bucket/me.txt", ".png, .jpg"),
    ({"image_file_path": ""}, "image_file_path", "", "rendered to nothing"),
    ({"image_file_path": "  "}, "image_file_path", "  ", "rendered to nothing"),
    ({"audio_file_path": "None"}, "audio_file_path", "None", "rendered to nothing"),
    ({"image_file_path": ["me.png"]}, "image_file_path", ["me.png"], "must be text"),
    *(
        (
            {"end_seconds": None, "audio_file_path": audio},
            "end_seconds",
            None,
            "the second at which the clip ends",
        )
        for audio in ("https://x.example/hello.mp3", "api-assets/hello.mp3")
    ),
    ({"end_seconds": 0}, "end_seconds", 0, "0.1 or more"),
    ({"end_seconds": 5, "start_seconds": 5}, "end_seconds", 5.0, "greater than start_seconds=5.0"),
    ({"end_seconds": 4, "start_seconds": 5}, "end_seconds", 4.0, "greater than start_seconds=5.0"),
    ({"start_seconds": -1}, "start_seconds", -1, "0 or more"),
    ({"start_seconds": math.nan}, "start_seconds", math.nan, "finite"),
    ({"end_seconds": math.inf}, "end_seconds", math.inf, "finite"),
    ({"end_seconds": "nan"}, "end_seconds", "nan", "finite"),
    ({"end_seconds": 1e308}, "end_seconds", 1e308, "give 1000000 or less"),
    ({"end_seconds": "soon"}, "end_seconds", "soon", "not a number"),
    ({"end_seconds": ""}, "end_seconds", "", "rendered to nothing"),
    ({"end_seconds": True}, "end_seconds", True, "not a number"),
    ({"end_seconds": [7]}, "end_seconds", [7], "not a number"),
    ({"generation_mode": "fast"}, "generation_mode", "fast", "'realistic', 'prompted', 'pro'"),
    ({"generation_mode": ""}, "generation_mode", "", "rendered to nothing"),
    ({"intensity": 1.0}, "intensity", 1.0, "generation_mode='expressive'"),
    ({"intensity": 1.0, "generation_mode": "stable"}, "intensity", 1.0, "generation_mode='expressive'"),
    ({"intensity": 0.125, "generation_mode": "expressive"}, "intensity", 0.125, "2 decimals"),
    ({"intensity": "high", "generation_mode": "expressive"}, "intensity", "high", "such as 0.5"),
    ({"intensity": math.nan, "generation_mode": "expressive"}, "intensity", math.nan, "finite"),
    ({"resolution": "1080p"}, "resolution", "1080p", "'480p' or '720p'"),
    ({"max_resolution": 0}, "max_resolution", 0, "greater than 0"),
    ({"max_resolution": 1024.5}, "max_resolution", 1024.5, "whole number"),
    ({"max_resolution": "big"}, "max_resolution", "big", "whole number"),
    ({"max_resolution": [1024]}, "max_resolution", [1024], "whole number"),
    ({"max_resolution": True}, "max_resolution", True, "not a number"),
    ({"prompt": " "}, "prompt", " ", "rendered to nothing"),
    ({"name": ""}, "name", "", "rendered to nothing"),
    ({"styl": "x"}, "styl", "x", "image_file_path, audio_file_path, start_seconds"),
]


@pytest.mark.parametrize(("given", "field", "value", "remedy"), BAD, ids=lambda part: str(part)[:50])
def test_bad_input_is_refused_naming_field_value_and_remedy(
    given: dict[str, Any], field: str, value: Any, remedy: str
) -> None:
    with pytest.raises(InvalidInput, match=re.escape(remedy)) as refused:
        inputs(**given)
    assert str(refused.value).startswith(f"{field}={value!r}: ")
    assert (refused.value.charged, refused.value.retryable) == ("no", False)


def test_a_refusal_does_not_repeat_the_signature_of_a_url() -> None:
    with pytest.raises(InvalidInput) as refused:
        inputs(image_file_path="https://x.example/me.gif?X-Amz-Signature=s3cr3t")
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("extension", EXTENSIONS["image"] + tuple(e.upper() for e in EXTENSIONS["image"]))
def test_every_photo_format_of_the_vendor_is_taken(extension: str) -> None:
    image, _ = inputs(image_file_path=f"/data/me.{extension}").uploads()
    assert image == ("image_file_path", "image", f"/data/me.{extension}")


@pytest.mark.parametrize("extension", EXTENSIONS["audio"])
def test_every_audio_format_of_the_vendor_is_taken(extension: str) -> None:
    assert inputs(audio_file_path=f"s3://aws@bucket/me.{extension}").audio_file_path


@pytest.mark.parametrize(
    "asset",
    [
        "https://x.example/me.png",
        "HTTPS://x.example/me.png?X-Amz-Signature=1",
        "api-assets/id/abc.png",
        "api-assets/id/abc",
        "saved-items/id/abc.png",
        f"{LIBRARY}?imageId=abc",
        f"{LIBRARY}/?imageId=abc",
    ],
)
def test_what_magic_hour_reads_by_itself_is_not_uploaded(asset: str) -> None:
    assert [upload.field for upload in inputs(image_file_path=asset).uploads()] == ["audio_file_path"]


@pytest.mark.parametrize("path", ["/data/me.png", "me.png", "file:///data/me.png", "s3://aws@bucket/me.png"])
def test_a_file_of_ours_is_uploaded(path: str) -> None:
    assert inputs(image_file_path=path).uploads()[0] == ("image_file_path", "image", path)


def test_a_path_object_is_a_path() -> None:
    assert inputs(image_file_path=Path("/data/me.png")).image_file_path == "/data/me.png"


def test_what_a_template_rendered_to_text_is_read_as_what_it_means() -> None:
    rendered = inputs(
        image_file_path=" /data/me.png\n",
        start_seconds="1",
        end_seconds=" 7.5 ",
        generation_mode="expressive",
        intensity="0.25",
        max_resolution="1024",
    )
    assert rendered == inputs(
        start_seconds=1, end_seconds=7.5, generation_mode="expressive", intensity=0.25, max_resolution=1024
    )


@pytest.mark.parametrize("mode", ["realistic", "prompted", "pro", "standard", "stable", "expressive"])
def test_every_mode_of_the_vendor_is_taken_in_its_own_word(mode: str) -> None:
    assert inputs(generation_mode=mode).generation_mode == mode


# --- at DAG parse some values are not known yet ---


@pytest.mark.parametrize(
    ("given", "unknown"),
    [
        ({"image_file_path": "{{ photo }}"}, {"image_file_path"}),
        ({"start_seconds": "{{ start }}", "end_seconds": 1}, {"start_seconds"}),
        ({"start_seconds": 9, "end_seconds": "{{ end }}"}, {"end_seconds"}),
        ({"intensity": 0.5, "generation_mode": "{{ mode }}"}, {"generation_mode"}),
        ({"end_seconds": None, "audio_file_path": "api-assets/hello.mp3"}, {"end_seconds"}),
    ],
)
def test_a_rule_that_needs_a_value_not_known_yet_waits_for_it(
    given: dict[str, Any], unknown: set[str]
) -> None:
    TalkingPhotoInputs.checked({**GOOD, **given}, unknown=unknown)
    with pytest.raises(InvalidInput):
        TalkingPhotoInputs.checked({**GOOD, **given})


@pytest.mark.parametrize(
    "given", [{"audio_file_path": "/data/me.txt"}, {"resolution": "4k"}, {"start_seconds": -1}]
)
def test_what_is_known_at_parse_is_refused_at_parse(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        TalkingPhotoInputs.checked(
            {**GOOD, "image_file_path": "{{ photo }}", **given}, unknown={"image_file_path"}
        )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:s3cr3t@x.example/me.gif", "'https://***@x.example/me.gif'"),
        ("https://s3cr3t@x.example/me.gif", "'https://***@x.example/me.gif'"),
        ("https://x.example/me.gif?sig=s3cr3t#top", "'https://x.example/me.gif?…'"),
        ("https://ada:s3cr3t@[x/me.png", "'https://***@[x/me.png'"),
        ("https://ada:p[s3cr3t]@x/me.png", "'https://***@x/me.png'"),
        ("https://ada:s3cr3t\uff1a@x/me.png", "'https://***@x/me.png'"),
    ],
)
def test_no_message_shows_a_secret_that_is_in_a_url(url: str, shown: str) -> None:
    body = json.dumps({"assets": {"image_file_path": url}, "style": "a body that is cut off"})[:-1]
    for use, said in (
        (lambda: inputs(image_file_path=url), f"image_file_path={shown}"),
        (lambda: ToolInputs.checked({"tool": "face-swap-photo", "body": body}), "body="),
        (
            lambda: ToolInputs.checked(
                {"tool": "ai-qr-code-generator", "body": {"content": [url], "style": {"art_style": "x"}}}
            ),
            "content=",
        ),
    ):
        with pytest.raises(InvalidInput) as refused:
            use()
        assert said in str(refused.value)
        assert "s3cr3t" not in str(refused.value)


# --- what is the vendor's to judge, free of charge ---


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"end_seconds": 300.5}, "above 300 s, the longest realistic clip"),
        ({"end_seconds": 50, "start_seconds": 4.5, "generation_mode": "prompted"}, "45.5 s is above 45 s"),
        ({"prompt": "smile"}, "prompt='smile' is ignored by Magic Hour unless generation_mode='prompted'"),
        ({"resolution": "480p", "max_resolution": 1024}, "max_resolution=1024 is ignored"),
    ],
)
def test_what_will_likely_not_do_what_was_meant_is_a_warning(given: dict[str, Any], warning: str) -> None:
    [said] = inputs(**given).warnings()
    assert warning in said


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"end_seconds": 300},
        {"end_seconds": 45, "generation_mode": "prompted", "prompt": "smile"},
        {"resolution": "720p"},
        {"max_resolution": 1024},
    ],
)
def test_usual_input_gives_no_warning(given: dict[str, Any]) -> None:
    assert inputs(**given).warnings() == []


@pytest.mark.parametrize(
    ("given", "price"),
    [
        ({"end_seconds": 10}, 480),
        ({"end_seconds": 10, "generation_mode": "pro"}, 480),
        ({"end_seconds": 10, "generation_mode": "stable"}, 480),
        ({"end_seconds": 10, "generation_mode": "prompted"}, 200),
        ({"end_seconds": 10, "generation_mode": "standard"}, 200),
        ({"end_seconds": 10, "generation_mode": "expressive"}, 200),
        ({"end_seconds": 10, "start_seconds": 7.5}, 120),
        ({"end_seconds": 0.11}, 6),  # 5.28, rounded up
        ({"end_seconds": 0.3, "start_seconds": 0.1, "generation_mode": "prompted"}, 4),  # not 4.0000000000001
    ],
)
def test_the_estimate_is_the_clips_seconds_at_the_price_of_its_mode(
    given: dict[str, Any], price: int
) -> None:
    assert inputs(**given).estimated_credits == price


# --- what counts as the same input ---


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"name": "a"}, {"name": "b"}),
        ({}, {"name": "b"}),
        ({}, {"start_seconds": 0}),
        ({"end_seconds": 7}, {"end_seconds": "7.0"}),
        ({"max_resolution": 1024}, {"max_resolution": "1024"}),
        ({"image_file_path": "/data/me.png"}, {"image_file_path": Path("/data/me.png")}),
        (
            {"image_file_path": "https://x.example/me.png?sig=1"},
            {"image_file_path": "https://x.example/me.png?sig=2#top"},
        ),
    ],
)
def test_the_same_input(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert inputs(**one).fingerprint() == inputs(**other).fingerprint()


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({}, {"image_file_path": "/data/you.png"}, "image_file_path"),
        ({}, {"audio_file_path": "/data/bye.mp3"}, "audio_file_path"),
        ({}, {"start_seconds": 1}, "start_seconds"),
        ({}, {"end_seconds": 8}, "end_seconds"),
        ({}, {"generation_mode": "prompted"}, "generation_mode"),
        ({"generation_mode": "expressive"}, {"generation_mode": "expressive", "intensity": 0.5}, "intensity"),
        ({"prompt": "smile"}, {"prompt": "frown"}, "prompt"),
        ({}, {"resolution": "480p"}, "resolution"),
        ({"max_resolution": 1024}, {"max_resolution": 512}, "max_resolution"),
        (
            {"image_file_path": "https://x.example/me.png"},
            {"image_file_path": "https://x.example/you.png"},
            "image_file_path",
        ),
        (
            {"image_file_path": f"{LIBRARY}?imageId=1"},
            {"image_file_path": f"{LIBRARY}?imageId=2"},
            "image_file_path",
        ),
    ],
)
def test_another_input_differs_in_the_field_that_changed(
    one: dict[str, Any], other: dict[str, Any], field: str
) -> None:
    before, after = inputs(**one).fingerprint(), inputs(**other).fingerprint()
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == {field}


def test_the_fingerprint_shows_nothing_of_what_it_stands_for() -> None:
    shown = str(inputs(image_file_path="https://x.example/me.png?sig=s3cr3t", prompt="smile").fingerprint())
    assert not any(word in shown for word in ("x.example", "s3cr3t", "smile"))


@pytest.mark.parametrize(
    ("path", "extension"),
    [
        ("/a/b.PNG", "png"),
        ("b.tar.jpg", "jpg"),
        ("https://x.example/b.png?name=c.gif#d.bmp", "png"),
        ("/a.b/c", ""),
    ],
)
def test_the_extension_is_that_of_the_file(path: str, extension: str) -> None:
    assert extension_of(path) == extension


# --- an end that is left out ---


@pytest.mark.parametrize(
    "audio",
    [
        *("/data/hello.wav", "s3://conn@bucket/hello.MP3", "hello.m4a", "hello.weba", "hello.AMR"),
        "https://magichour.ai/my-library?audioId=cm1",
    ],
)
def test_the_end_may_be_left_out_where_it_can_be_measured(audio: str) -> None:
    assert inputs(audio_file_path=audio, end_seconds=None).end_seconds is None


def test_an_end_that_is_left_out_is_an_input_of_its_own_whatever_the_audio_measures() -> None:
    left_out, given = inputs(end_seconds=None).fingerprint(), inputs(end_seconds=7.5).fingerprint()
    assert "end_seconds" not in left_out
    assert {field for field in given if given[field] != left_out.get(field)} == {"end_seconds"}


def test_a_clip_without_an_end_has_no_price_yet_rather_than_none() -> None:
    with pytest.raises(InvalidInput, match=r"^end_seconds=None: is needed for an estimate"):
        inputs(end_seconds=None).estimated_credits  # noqa: B018


# --- voices ---

SPOKEN = {"prompt": "Good evening.", "voice_name": "Albert Einstein"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": None}, "^prompt=None: is needed"),
        ({"prompt": " "}, "^prompt=' ': is empty; if it is a template"),
        ({"prompt": ["7"]}, "prompt=.*must be text"),
        ({"prompt": "x" * 1001}, r"^prompt='x{30}…': has 1001 characters, .* takes 1000 .*shorten it"),
        ({"voice_name": None}, "^voice_name=None: is needed"),
        ({"voice_name": ""}, "^voice_name='': is empty"),
        ({"speed": 2}, "^speed=2: is not an input; there are .*prompt, voice_name"),
    ],
)
def test_what_cannot_be_spoken_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        VoiceInputs.checked(SPOKEN | given)


def test_a_text_and_a_voice_that_are_known_later_are_checked_then() -> None:
    VoiceInputs.checked({"prompt": "{{ text }}" * 1000, "voice_name": None}, unknown={"prompt", "voice_name"})


@pytest.mark.parametrize("voice", ["Albert Einstein", "a voice of next year's"])
def test_the_voices_are_an_open_list(voice: str) -> None:
    assert VoiceInputs.checked(SPOKEN | {"voice_name": voice}).voice_name == voice


@pytest.mark.parametrize(("characters", "estimate"), [(1, 1), (10, 1), (11, 2), (1000, 100)])
def test_the_estimate_of_a_voice_is_a_tenth_of_a_credit_a_character(characters: int, estimate: int) -> None:
    assert VoiceInputs.checked(SPOKEN | {"prompt": "x" * characters}).estimated_credits == estimate


def test_the_fingerprint_of_a_voice_is_its_text_and_voice_not_its_name() -> None:
    one = VoiceInputs.checked(SPOKEN).fingerprint()
    assert VoiceInputs.checked(SPOKEN | {"name": "another"}).fingerprint() == one
    assert VoiceInputs.checked(SPOKEN | {"prompt": "Good morning."}).fingerprint() != one
    assert VoiceInputs.checked(SPOKEN | {"voice_name": "Anybody"}).fingerprint() != one


@pytest.mark.parametrize("voice", ["Albert Einstien", "ALBERT EINSTEIN", "Einstein"])
def test_the_hint_about_an_unknown_voice_names_the_nearest_one(voice: str) -> None:
    hint = VoiceInputs.checked(SPOKEN | {"voice_name": voice}).hint()
    assert hint == f"{voice!r} is none of the 1266 voices of 2026-10; the nearest one is 'Albert Einstein'"


def test_the_hint_names_no_voice_where_none_is_near() -> None:
    hint = VoiceInputs.checked(SPOKEN | {"voice_name": "qqqq"}).hint()
    assert hint == "'qqqq' is none of the 1266 voices of 2026-10"


def test_there_is_no_hint_about_a_voice_that_is_known() -> None:
    assert VoiceInputs.checked(SPOKEN).hint() == ""
