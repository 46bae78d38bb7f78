"""Any body for any tool, checked against what the vendor says of it."""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from magichour_provider.api.prices import price_of
from magichour_provider.api.tools import ToolInputs, all_tools
from magichour_provider.exceptions import InvalidInput

FACE_SWAP = {
    "start_seconds": 0,
    "end_seconds": 5,
    "assets": {
        "video_source": "file",
        "video_file_path": "api-assets/v.mp4",
        "image_file_path": "/data/me.png",
    },
}


def checked(tool: str, body: object, **more: object) -> ToolInputs:
    return ToolInputs.checked({"tool": tool, "body": body, **more})


def changed(body: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with another value at ``a.b.c``."""
    name, _, rest = path.partition(".")
    return {**body, name: changed(body.get(name, {}), rest, value) if rest else value}


# --- the vendor's own examples ---


def test_there_are_all_31_tools_of_three_types() -> None:
    types = [tool.job_type for tool in all_tools().values()]
    assert {job_type: types.count(job_type) for job_type in types} == {"image": 14, "video": 14, "audio": 3}


@pytest.mark.parametrize("tool", all_tools())
def test_the_vendors_example_passes_without_a_warning_and_is_sent_as_it_is(tool: str) -> None:
    example = dict(all_tools()[tool].example)
    inputs = checked(tool, example)
    assert inputs.warnings() == []
    assert inputs.request({}, example.get("name")) == example


@pytest.mark.parametrize("tool", all_tools())
def test_without_a_required_field_an_example_is_refused(tool: str) -> None:
    for field in all_tools()[tool].schema["required"]:
        with pytest.raises(InvalidInput, match=rf"^{field}=None: is needed by {tool}"):
            checked(tool, changed(dict(all_tools()[tool].example), field, None))


# --- what can never work, and what the server judges ---


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("end_seconds", "soon", r"^end_seconds='soon': is of another type; face-swap takes: number"),
        ("end_seconds", True, "^end_seconds=True: is of another type"),
        ("end_seconds", math.nan, "^end_seconds=nan: cannot be sent as JSON"),
        ("end_seconds", 10**400, "^end_seconds=1.*: cannot be sent as JSON"),
        ("end_seconds", 0, "^end_seconds=0: must be greater than start_seconds"),
        (
            "assets",
            "api-assets/v.mp4",
            "^assets='api-assets/v.mp4': is of another type; face-swap takes: object",
        ),
        ("assets.video_source", None, "^assets.video_source=None: is needed by face-swap"),
        (
            "assets.face_mappings",
            [{"new_face": "x.png"}],
            r"^assets.face_mappings\[0\].original_face=None: is needed",
        ),
        ("assets.image_file_path", "", "^assets.image_file_path='': is empty; if it is a template"),
        (
            "assets.image_file_path",
            "/data/me.mp3",
            "^assets.image_file_path='/data/me.mp3': is not a known image",
        ),
        ("assets.image_file_path", "data:image/png;base64,aa", "is a data: URI"),
        ("style.version", datetime(2026, 1, 1), "^style.version=.*: cannot be sent as JSON"),
        ("name", " ", "^name='': is empty"),
    ],
)
def test_what_can_never_work_is_an_error_that_names_the_field(path: str, value: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        checked("face-swap", changed(FACE_SWAP, path, value))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            "style.version",
            "v9",
            "style.version='v9' is none of v1, v2, default, by Magic Hour's OpenAPI of 2026-08",
        ),
        ("end_seconds", 0.05, "end_seconds=0.05 does not satisfy minimum=0.1"),
        (
            "assets.face_mappings",
            6 * [{"original_face": "api-assets/a.png", "new_face": "api-assets/b.png"}],
            "maxItems=5",
        ),
        ("style.glitter", 1, "style.glitter is not known; the known fields are version"),
        ("speed", "fast", "speed is not known; the known fields are assets, "),
    ],
)
def test_what_the_description_excludes_is_a_warning_and_is_sent(path: str, value: object, words: str) -> None:
    body = changed(FACE_SWAP, path, value)
    inputs = checked("face-swap", body)
    (warning,) = inputs.warnings()
    assert words in warning
    assert warning.endswith("may refuse it (free of charge)")
    assert inputs.request({}, None) == body


def test_a_tool_that_is_not_known_is_refused_with_the_list() -> None:
    with pytest.raises(InvalidInput, match=r"^tool='faceswap': is not known; use one of ai-"):
        checked("faceswap", {})


@pytest.mark.parametrize("body", [None, 5, ["x"], "not JSON"])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidInput, match=r"^body="):
        checked("face-swap", body)


# --- what templates and manifests make of values ---


def test_text_becomes_what_the_field_is_and_none_is_left_out() -> None:
    inputs = checked(
        "image-to-video",
        {
            "end_seconds": " 5 ",
            "audio": "False",
            "model": None,
            "style": {"prompt": 2026},
            "assets": {"image_file_path": Path("/data/me.png"), "end_image_file_path": None},
        },
    )
    assert inputs.warnings() == []
    assert inputs.request({}, "n") == {
        "name": "n",
        "end_seconds": 5,
        "audio": False,
        "style": {"prompt": "2026"},
        "assets": {"image_file_path": "/data/me.png"},
    }


def test_null_is_sent_where_the_vendor_takes_it() -> None:
    body = changed(dict(all_tools()["video-to-video"].example), "style.prompt", None)
    assert checked("video-to-video", body).request({}, None)["style"]["prompt"] is None


def test_a_body_that_a_template_rendered_as_json_is_read() -> None:
    assert checked("photo-colorizer", '{"assets": {"image_file_path": "me.png"}}').uploads() == [
        ("assets.image_file_path", "image", "me.png")
    ]


# --- files ---


def test_files_are_found_anywhere_by_their_fields_and_remote_ones_are_passed() -> None:
    assets: dict[str, Any] = {
        "video_source": "file",
        "video_file_path": "s3://conn@bucket/v.mov",
        "image_file_path": "https://x.example/me.png?signature=1",
        "face_mappings": [
            {"original_face": "api-assets/0-0.png", "new_face": "/data/a.webp"},
            {
                "original_face": "saved-items/0-1.png",
                "new_face": "https://magichour.ai/my-library?imageId=cm1",
            },
        ],
        "voice_file_path": "/data/next_years_field.png",
    }
    inputs = checked("face-swap", {**FACE_SWAP, "assets": assets})
    assert inputs.uploads() == [
        ("assets.video_file_path", "video", "s3://conn@bucket/v.mov"),
        ("assets.face_mappings[0].new_face", "image", "/data/a.webp"),
        ("assets.voice_file_path", "image", "/data/next_years_field.png"),
    ]
    sent = inputs.request({"assets.face_mappings[0].new_face": "api-assets/up.webp"}, None)["assets"]
    assert sent == {
        **assets,
        "face_mappings": [
            {**assets["face_mappings"][0], "new_face": "api-assets/up.webp"},
            assets["face_mappings"][1],
        ],
    }


def test_each_file_of_a_list_is_uploaded() -> None:
    paths = ["/a.png", "api-assets/b.png", "/c.jpg"]
    inputs = checked("ai-image-editor", {"style": {"prompt": "x"}, "assets": {"image_file_paths": paths}})
    assert [asset.field for asset in inputs.uploads()] == [
        "assets.image_file_paths[0]",
        "assets.image_file_paths[2]",
    ]


def test_a_gif_goes_as_a_gif_where_a_video_is_asked_for() -> None:
    inputs = checked("face-swap", changed(FACE_SWAP, "assets.video_file_path", "/data/dance.gif"))
    assert inputs.uploads()[0] == ("assets.video_file_path", "gif", "/data/dance.gif")


def test_the_fingerprint_names_the_place_that_changed_and_forgets_signatures_and_names() -> None:
    one = changed(FACE_SWAP, "assets.image_file_path", "https://x.example/me.png?signature=1")
    two = changed(
        changed(one, "assets.image_file_path", "https://x.example/me.png?signature=2"), "name", "other"
    )
    assert checked("face-swap", one).fingerprint() == checked("face-swap", two).fingerprint()
    before = checked("face-swap", one).fingerprint()
    after = checked("face-swap", changed(one, "end_seconds", 6)).fingerprint()
    assert {field for field in before if before[field] != after[field]} == {"end_seconds"}
    assert before.keys() == {
        "tool",
        "start_seconds",
        "end_seconds",
        "assets.video_source",
        "assets.video_file_path",
        "assets.image_file_path",
    }


# --- names and prices ---


def test_the_page_lists_each_tool_with_its_type_and_whether_it_takes_a_name() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| [^|]+ \| (yes|\*\*no\*\*) \|", page, re.MULTILINE)
    assert {name: (job_type, name_is_taken == "yes") for name, job_type, name_is_taken in rows} == {
        name: (tool.job_type, tool.takes_name) for name, tool in all_tools().items()
    }


def test_only_the_ugc_ad_takes_no_name() -> None:
    assert [name for name, tool in all_tools().items() if not tool.takes_name] == ["ai-ugc-ad"]


@pytest.mark.parametrize(
    ("tool", "body", "estimate"),
    [
        ("ai-clothes-changer", {}, 25),
        ("ai-qr-code-generator", {}, 0),
        ("ai-image-upscaler", {"scale_factor": 2}, 50),
        ("ai-image-upscaler", {"scale_factor": 4, "style": {"mode": "preserve"}}, 100),
        ("ai-image-upscaler", {"scale_factor": 3}, None),
        ("ai-voice-cloner", {"style": {"prompt": "x" * 101}}, 11),
        ("ai-music-generator", {"duration": 120}, 120),
        ("lip-sync", {"start_seconds": 1, "end_seconds": 3, "style": {"generation_mode": "pro"}}, 120),
        ("lip-sync", {"start_seconds": 0, "end_seconds": 2, "max_fps_limit": 12}, 24),
        ("ai-talking-photo", {"start_seconds": 0.1, "end_seconds": 1.1}, 48),
        ("ai-talking-photo", {"end_seconds": 2, "style": {"generation_mode": "expressive"}}, 40),
        ("ai-image-generator", {"image_count": 1, "model": "flux-schnell"}, None),
        ("body-swap", {"resolution": "1k"}, None),
        ("face-swap", {"start_seconds": 0, "end_seconds": 2}, None),
    ],
)
def test_a_price_is_the_published_one_or_none(tool: str, body: dict[str, Any], estimate: int | None) -> None:
    price = price_of(tool, body)
    assert price.credits == estimate
    assert "2026" in price.text


def test_a_value_that_is_null_is_the_same_as_one_that_is_not_given() -> None:
    body = {
        "start_seconds": 0,
        "end_seconds": 2,
        "assets": {"video_source": "file", "video_file_path": "https://x.example/a.mp4"},
    }
    style = {"art_style": "Dragonball", "version": "default", "prompt_type": "default"}
    null = checked("video-to-video", body | {"style": style | {"prompt": None}})
    assert null.body["style"]["prompt"] is None
    assert null.fingerprint() == checked("video-to-video", body | {"style": style}).fingerprint()


def test_the_users_own_estimate_stands_for_a_price() -> None:
    inputs = checked("face-swap", FACE_SWAP, estimated_credits=99.5)
    assert (inputs.estimated_credits, inputs.price.text) == (100, "by estimated_credits")


@pytest.mark.parametrize(
    ("path", "media_type"), [("/a.png", "image"), ("/a.mp4", "video"), ("/a.mp3", "audio")]
)
def test_a_field_that_is_only_called_file_path_takes_any_media_type(path: str, media_type: str) -> None:
    body = {
        "end_seconds": 5,
        "style": {"prompt": "a dog"},
        "references": [{"name": "dog", "file_path": path}],
    }
    (asset,) = checked("text-to-video", body).uploads()
    assert asset == ("references[0].file_path", media_type, path)
