"""Jobs: their progression, credits, uploads and files, and the limits of what is kept."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import httpx
import pytest
from emulator_http import connect, ended, talking_photo

from magichour_provider.emulator import Emulator

# One client for all tests, without certificates: to load them is slow.
HTTP = httpx.Client(verify=False)
DAY = 24 * 3600


def statuses(api: Any, job_id: str, polls: int) -> list[str]:
    return [api.get(job_id)["status"] for _ in range(polls)]


def test_an_instant_job_is_complete_at_the_first_poll(api: Any) -> None:
    job = api.get(api.create())
    assert job["status"] == "complete"
    assert len(job["downloads"]) == 1
    assert job["download"] == job["downloads"][0]


def test_a_job_progresses_with_its_polls(api: Any) -> None:
    api.emulator.progression = "polls:5"
    progress = ["queued", "queued", "rendering", "rendering", "complete", "complete"]
    assert statuses(api, api.create(), 6) == progress


def test_a_job_progresses_with_the_clock_that_the_tester_sets_forward(api: Any) -> None:
    api.emulator.progression = "seconds:100"
    job_id = api.create()
    assert api.get(job_id)["status"] == "queued"
    api.emulator.advance(50)
    assert api.get(job_id)["status"] == "rendering"
    assert api.get(job_id)["downloads"] == []
    api.emulator.advance(51)
    assert api.get(job_id)["status"] == "complete"


def test_a_manual_job_progresses_only_when_it_is_moved(api: Any) -> None:
    api.emulator.progression = "manual"
    job_id = api.create()
    assert statuses(api, job_id, 3) == ["queued"] * 3
    api.emulator.move(job_id, "rendering")
    assert statuses(api, job_id, 2) == ["rendering"] * 2
    api.emulator.move(job_id, "complete")
    assert api.get(job_id)["status"] == "complete"
    with pytest.raises(ValueError, match="complete"):
        api.emulator.move(job_id, "rendering")


@pytest.mark.parametrize(("progression", "median"), [("realistic", 174), ("realistic:40", 40)])
def test_realistic_times_have_the_median_of_the_vendor_or_another(progression: str, median: int) -> None:
    with Emulator(render="stub", progression=progression, seed=7) as emulator, connect(emulator) as http:
        assert emulator.progression == progression
        body = talking_photo(emulator)
        began = time.monotonic()
        for _ in range(200):
            http.post("/v1/ai-talking-photo", json=body)
        assert emulator.state()["calls"]["create"] == 200
        age = (time.monotonic() - began) / 2  # of the average job: a crowded machine takes long to make them
        emulator.advance(median - age)
        done = sum(job["status"] == "complete" for job in emulator.jobs())
        assert 70 <= done <= 130


def test_a_change_of_progression_applies_to_jobs_in_progress(api: Any) -> None:
    api.emulator.progression = "manual"
    job_id = api.create()
    api.emulator.progression = "instant"
    assert api.emulator.job(job_id)["status"] == "complete"


@pytest.mark.parametrize("progression", ["soon", "polls", "seconds:x", "polls:1.5", ""])
def test_an_unknown_progression_is_refused_with_the_choices(stub: Emulator, progression: str) -> None:
    with pytest.raises(ValueError, match="choose instant"):
        stub.progression = progression


@pytest.mark.parametrize(
    ("mode", "price"),
    [
        (None, 48),
        ("realistic", 48),
        ("pro", 48),
        ("stable", 48),
        ("prompted", 20),
        ("standard", 20),
        ("expressive", 20),
    ],
)
def test_a_job_is_charged_the_price_of_its_mode(api: Any, mode: str | None, price: int) -> None:
    style = {"generation_mode": mode} if mode else {}
    # 1.1 - 0.1 is slightly more than 1 in binary, but the price is that of one second.
    job_id = api.create(style=style, start_seconds=0.1, end_seconds=1.1)
    assert api.get(job_id)["credits_charged"] == price
    assert api.emulator.credits == 100_000 - price
    assert api.emulator.charges() == 1
    assert api.emulator.ledger() == [
        {
            "entry_type": "charge",
            "job_id": job_id,
            "job_type": "video",
            "name": "test",
            "credits": price,
            "at": api.emulator.ledger()[0]["at"],
        }
    ]


def test_the_charge_is_corrected_by_the_frame_rate(photo: Any, voice: Any) -> None:
    with Emulator(render="stub", fps=25, progression="manual") as emulator, connect(emulator) as http:
        body = talking_photo(emulator, photo, voice)
        created = http.post("/v1/ai-talking-photo", json=body).json()
        job = http.get(f"/v1/video-projects/{created['id']}").json()
        assert (job["credits_charged"], job["fps"]) == (48, 30)
        emulator.move(created["id"], "complete")
        job = http.get(f"/v1/video-projects/{created['id']}").json()
        assert (job["credits_charged"], job["fps"]) == (40, 25)
        assert [(entry["entry_type"], entry["credits"]) for entry in emulator.ledger()] == [
            ("charge", 48),
            ("correction", -8),
        ]
        assert emulator.credits == 100_000 - 40


def test_without_enough_credits_no_job_is_made(api: Any) -> None:
    api.emulator.credits = 48
    api.create()
    response = api("POST", "/v1/ai-talking-photo", json=api.body())
    assert response.status_code == 402
    assert len(api.emulator.jobs()) == 1


def test_a_failed_job_is_refunded(api: Any) -> None:
    api.emulator.progression = "manual"
    job_id = api.create()
    api.emulator.fail(job_id, "no_source_face")
    job = api.get(job_id)
    assert job["status"] == "error"
    assert job["error"]["code"] == "no_source_face"
    assert "detectable face" in job["error"]["message"]
    assert job["credits_charged"] == 0
    assert api.emulator.credits == 100_000
    assert [entry["entry_type"] for entry in api.emulator.ledger()] == ["charge", "refund"]


def test_a_canceled_job_is_refunded(api: Any) -> None:
    api.emulator.progression = "manual"
    job_id = api.create()
    api.emulator.cancel(job_id)
    assert api.get(job_id)["status"] == "canceled"
    assert api.emulator.credits == 100_000


@pytest.mark.parametrize(
    ("ends", "status"),
    [("error:processing_timeout", "error"), ("canceled", "canceled"), ("deleted", "complete")],
)
def test_a_fault_decides_how_a_job_ends(api: Any, ends: str, status: str) -> None:
    api.emulator.fault("create", ends=ends, name="doomed")
    doomed, other = api.create(name="doomed 1"), api.create()
    job = api.get(doomed)
    assert job["status"] == status
    assert job["downloads"] == []
    assert job["enabled"] is (ends != "deleted")
    assert api.get(other)["downloads"]


def test_a_deleted_video_is_gone_and_stays_paid(api: Any) -> None:
    job_id = api.create()
    url = api.get(job_id)["downloads"][0]["url"]
    response = api("DELETE", f"/v1/video-projects/{job_id}")
    assert response.status_code == 204
    assert response.content == b""
    job = api.get(job_id)
    assert job["enabled"] is False
    assert job["downloads"] == []
    assert job["credits_charged"] == 48
    assert HTTP.get(url).status_code == 404


def test_a_job_that_is_deleted_while_it_renders_continues_and_stays_paid(api: Any) -> None:
    api.emulator.progression = "manual"
    job_id = api.create()
    api("DELETE", f"/v1/video-projects/{job_id}")
    api.emulator.move(job_id, "complete")
    job = api.get(job_id)
    assert (job["status"], job["enabled"], job["downloads"]) == ("complete", False, [])
    assert job["credits_charged"] == 48


def upload(api: Any, content: bytes, extension: str = "png") -> tuple[str, str]:
    media_type = "image" if extension == "png" else "audio"
    items = [{"type": media_type, "extension": extension}]
    item = api("POST", "/v1/files/upload-urls", json={"items": items}).json()["items"][0]
    assert item["file_path"].startswith("api-assets/")
    return item["upload_url"], item["file_path"]


def test_upload_urls_have_the_order_of_the_request(api: Any) -> None:
    types = {"png": "image", "mp3": "audio", "mp4": "video", "wav": "audio"}
    items = [{"type": media_type, "extension": extension} for extension, media_type in types.items()]
    response = api("POST", "/v1/files/upload-urls", json={"items": items}).json()
    assert [item["file_path"].rpartition(".")[2] for item in response["items"]] == list(types)


def test_an_upload_can_be_used_once_its_bytes_have_arrived(api: Any) -> None:
    url, path = upload(api, b"")
    body = api.body()
    body["assets"]["image_file_path"] = path
    response = api("POST", "/v1/ai-talking-photo", json=body)
    assert response.status_code == 422
    assert "never uploaded" in response.json()["message"]
    stored = HTTP.put(url, content=b"picture")
    assert stored.status_code == 200
    assert stored.headers["etag"] == f'"{hashlib.md5(b"picture").hexdigest()}"'
    assert api("POST", "/v1/ai-talking-photo", json=body).status_code == 200
    assert api("POST", "/v1/ai-talking-photo", json=body).status_code == 200


def test_uploads_are_kept_for_seven_days(api: Any) -> None:
    body = api.body()
    api.emulator.advance(7 * DAY - 60)
    assert api("POST", "/v1/ai-talking-photo", json=body).status_code == 200
    api.emulator.advance(120)
    assert api("POST", "/v1/ai-talking-photo", json=body).status_code == 422


def test_the_seven_days_begin_with_the_bytes_of_the_upload(api: Any) -> None:
    url, path = upload(api, b"")
    api.emulator.advance(DAY - 60)
    assert HTTP.put(url, content=b"picture").status_code == 200
    api.emulator.advance(7 * DAY - 60)
    body = api.body()
    body["assets"]["image_file_path"] = path
    assert api("POST", "/v1/ai-talking-photo", json=body).status_code == 200
    api.emulator.advance(120)
    assert api("POST", "/v1/ai-talking-photo", json=body).status_code == 422


def test_an_upload_that_a_render_needs_is_kept_longer(photo: Any, voice: Any) -> None:
    with Emulator(progression="polls:2") as emulator, connect(emulator) as http:
        create = "/v1/ai-talking-photo"
        body = talking_photo(emulator, photo, voice, max_resolution=64)
        # There is one worker, so the second job waits for the first.
        jobs = [http.post(create, json=body | {"end_seconds": end}).json()["id"] for end in (1, 1.5)]
        emulator.advance(8 * DAY)
        assert http.post(create, json=body).status_code == 422
        for job in jobs:
            emulator.move(job, "complete")
            assert emulator.job(job)["status"] == "complete"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e15])
def test_the_clock_cannot_go_back_or_beyond_the_calendar(api: Any, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        api.emulator.advance(seconds)
    assert api("POST", "/v1/ai-talking-photo", json=api.body()).status_code == 200


def test_an_upload_url_expires(api: Any) -> None:
    url, _ = upload(api, b"")
    api.emulator.advance(DAY + 1)
    response = HTTP.put(url, content=b"x")
    assert response.status_code == 403
    assert "<Code>AccessDenied</Code><Message>Request has expired</Message>" in response.text


def test_a_download_url_expires_and_a_poll_gives_a_fresh_one(api: Any) -> None:
    job_id = api.create()
    old = api.get(job_id)["downloads"][0]["url"]
    assert HTTP.get(old).status_code == 200
    api.emulator.advance(DAY + 1)
    assert HTTP.get(old).status_code == 403
    new = api.get(job_id)["downloads"][0]["url"]
    assert new != old
    assert HTTP.get(new).status_code == 200


def test_the_storage_host_refuses_an_api_key(api: Any) -> None:
    put, _ = upload(api, b"")
    get = api.get(api.create())["downloads"][0]["url"]
    headers = {"Authorization": f"Bearer {api.emulator.api_key}"}
    for response in (HTTP.put(put, content=b"x", headers=headers), HTTP.get(get, headers=headers)):
        assert response.status_code == 400
        assert "Only one auth mechanism allowed" in response.text
    for call in ("put", "download"):
        assert "authorization" in api.emulator.requests(call)[-1]["headers"]


@pytest.mark.parametrize("changed", ["X-Amz-Expires", "X-Amz-Nonce", "X-Amz-Signature", "path"])
def test_a_signature_holds_for_one_file_and_one_time(api: Any, changed: str) -> None:
    url = httpx.URL(api.get(api.create())["downloads"][0]["url"])
    if changed == "path":
        other = httpx.URL(api.get(api.create())["downloads"][0]["url"])
        url = url.copy_with(path=other.path, query=url.query)
    else:
        url = url.copy_merge_params({changed: "9" + url.params[changed][1:] + "0"})
    response = HTTP.get(url)
    assert response.status_code == 403
    assert "SignatureDoesNotMatch" in response.text
    assert HTTP.get(url.copy_with(query=None)).status_code == 403


def test_a_url_for_get_does_not_allow_put(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    assert HTTP.put(url, content=b"x").status_code == 403
    put, _ = upload(api, b"")
    assert HTTP.get(put).status_code == 403


def test_an_upload_without_a_length_is_refused(api: Any) -> None:
    url, _ = upload(api, b"")
    response = HTTP.put(url, content=iter([b"a", b"b"]))
    assert response.status_code == 411
    assert "MissingContentLength" in response.text


def test_a_download_can_be_read_in_ranges(api: Any) -> None:
    url = api.get(api.create())["downloads"][0]["url"]
    full = HTTP.get(url)
    assert full.headers["content-type"] == "video/mp4"
    assert int(full.headers["content-length"]) == len(full.content)
    assert full.content[4:8] == b"ftyp"
    head = HTTP.head(url)
    assert head.headers["content-length"] == full.headers["content-length"]
    assert head.content == b""
    part = HTTP.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    size = len(full.content)
    assert part.headers["content-range"] == f"bytes 4-7/{size}"
    assert HTTP.get(url, headers={"Range": f"bytes={size}-"}).status_code == 416
    assert api.emulator.requests("download")[-1]["status"] == 416


def test_the_oldest_ended_jobs_are_dropped() -> None:
    with Emulator(render="stub", max_jobs=3, progression="manual") as emulator, connect(emulator) as http:
        body = {"style": {"prompt": "Hello", "voice_name": "Elon Musk"}}
        for name in "abcde":
            http.post("/v1/ai-voice-generator", json={"name": name, **body})
        assert [job["name"] for job in emulator.jobs()] == list("abcde")
        for job in emulator.jobs()[1:]:
            emulator.move(job["id"], "complete")
        http.post("/v1/ai-voice-generator", json={"name": "f", **body})
        assert [job["name"] for job in emulator.jobs()] == list("aef")


def test_the_disk_usage_of_results_is_limited() -> None:
    with Emulator(voice="tones", max_disk_mb=1) as emulator, connect(emulator) as http:
        for number in range(6):
            # This makes ten seconds of speech, which are half a megabyte.
            style = {"prompt": f"{number}" * 150, "voice_name": "Elon Musk"}
            job = http.post("/v1/ai-voice-generator", json={"style": style}).json()
            assert ended(http, f"/v1/audio-projects/{job['id']}")["status"] == "complete"
        assert 1 <= len(emulator.jobs()) <= 3


def test_every_request_is_recorded(api: Any) -> None:
    job_id = api.create()
    api.get(job_id)
    create, poll = api.emulator.requests()
    assert create["call"] == "create"
    assert create["status"] == 200
    assert create["json"]["name"] == "test"
    assert create["headers"]["authorization"] == f"Bearer {api.emulator.api_key}"
    assert (poll["call"], poll["method"]) == ("get_video", "GET")
    assert poll["path"] == f"/v1/video-projects/{job_id}"
    assert api.emulator.requests("get_video") == [poll]


def test_jobs_and_charges_can_be_selected_by_name(api: Any) -> None:
    api.create(name="red 1")
    api.create(name="red 2")
    api.create(name="blue")
    assert api.emulator.charges("red") == 2
    assert [job["name"] for job in api.emulator.jobs("blue")] == ["blue"]
    assert api.emulator.charges("green") == 0


@pytest.mark.parametrize(("progression", "retry_after"), [("seconds:6", "1"), ("realistic", None)])
def test_an_accepted_job_says_how_soon_to_poll_unless_its_time_is_realistic(
    api: Any, progression: str, retry_after: str | None
) -> None:
    api.emulator.progression = progression
    response = api("POST", "/v1/ai-talking-photo", json=api.body())
    assert response.headers.get("retry-after") == retry_after
    voice = {"style": {"prompt": "Hello", "voice_name": "Elon Musk"}}
    assert api("POST", "/v1/ai-voice-generator", json=voice).headers.get("retry-after") == retry_after
