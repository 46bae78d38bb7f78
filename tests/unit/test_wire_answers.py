"""How answers are read: leniently when they are the vendor's, suspiciously when they cost money."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.api import models, wire
from magichour_provider.api.inputs import TalkingPhotoInputs

INPUTS = TalkingPhotoInputs(image_file_path="me.png", audio_file_path="hello.mp3", end_seconds=1)
PAID = wire.paid_call(INPUTS, {"image_file_path": "me.png", "audio_file_path": "hello.mp3"}, "n")
FREE = wire.get_job("job-1")
VENDOR = b'{"message": "what the vendor says"}'
HTML = b"<html><body>502 Bad Gateway</body></html>"
JOB: dict[str, Any] = {"id": "job-1", "status": "queued"}


def answered(call: wire.Call[Any], status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> Any:
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    return call.answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, sent)


def refused(call: wire.Call[Any], status: int, body: bytes = b"", **headers: str) -> errors.MagicHourError:
    with pytest.raises(errors.MagicHourError) as error:
        answered(call, status, body, **headers)
    assert error.value.status_code == status
    return error.value


# --- answers ---


@pytest.mark.parametrize(
    "body",
    [
        {"id": "job-1", "credits_charged": 48},
        {"id": "job-1", "credits_charged": 48, "estimated_frame_cost": 48, "new_field": [1]},
        {"id": "job-1", "credits_charged": 48.0},
    ],
)
def test_an_accepted_job(body: dict[str, Any]) -> None:
    job = answered(PAID, 200, body)
    assert (job.job_id, job.credits_charged) == ("job-1", 48)


@pytest.mark.parametrize(
    ("retry_after", "poll_interval"),
    [("1", 1), ("7.5", 7.5), ("0.01", 1), ("86400", 60), ("0", None), ("soon", None), (None, None)],
)
def test_an_accepted_job_may_say_how_often_to_poll_within_reason(
    retry_after: str | None, poll_interval: float | None
) -> None:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    body = b'{"id": "job-1", "credits_charged": 48, "poll_interval": 5}'
    assert PAID.answer(200, headers, body).poll_interval == poll_interval


HUGE = 10**400
ODD: tuple[object, ...] = (
    HUGE,
    -HUGE,
    1e300,
    "9" * 5000,
    True,
    [],
    {},
    "soon",
    "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_no_value_of_an_optional_field_hides_the_id_of_a_paid_job(odd: object) -> None:
    job = answered(PAID, 200, {"id": "job-1", "credits_charged": odd}, retry_after=str(odd))
    assert (job.job_id, job.credits_charged) == ("job-1", None)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_no_value_of_an_optional_field_breaks_a_poll(odd: object) -> None:
    fields = dict.fromkeys(models.Job.model_fields, odd) | JOB
    del fields["job_id"]
    job = answered(FREE, 200, fields)
    assert (job.job_id, job.ended, job.clip_seconds, job.credits_charged) == ("job-1", False, None, None)


@pytest.mark.parametrize(("sent", "known"), [(" job-1\n", "job-1"), (17, "17")])
def test_an_id_is_text_without_white_space(sent: object, known: str) -> None:
    assert answered(PAID, 200, {"id": sent}).job_id == known


def test_an_id_with_a_control_character_is_shown_to_a_person_and_not_used() -> None:
    error = refused(PAID, 200, json.dumps({"id": "cm1\n2026 INFO forged \x1b[31m"}).encode())
    assert isinstance(error, errors.SubmissionUncertain)
    assert "cm1 2026 INFO forged" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("location", "shown"),
    [("https://[bad/", "https://[bad/"), ("http://[::1", "http://[::1"), ("\x00", "nowhere")],
)
@pytest.mark.parametrize("call", [PAID, FREE], ids=["paid", "free"])
def test_a_redirect_to_no_address_is_a_redirect(call: wire.Call[Any], location: str, shown: str) -> None:
    assert f"a redirect to {shown}. " in str(refused(call, 307, location=location))


@pytest.mark.parametrize("location", ["/v1/video-projects/cm1", "https://api.example/v1/video-projects/cm1"])
def test_a_redirect_of_the_paid_call_to_a_job_does_not_say_that_no_job_was_made(location: str) -> None:
    assert isinstance(refused(PAID, 302, location=location), errors.SubmissionUncertain)


def test_an_accepted_job_without_its_price_is_a_job() -> None:
    assert answered(PAID, 201, {"id": "job-1"}).credits_charged is None


def test_a_job_with_all_that_the_vendor_tells() -> None:
    job = answered(
        FREE,
        200,
        JOB
        | {
            "status": "complete",
            "name": None,
            "enabled": True,
            "start_seconds": 1.1,
            "end_seconds": 3.3,
            "width": 640,
            "height": -1,
            "fps": 29.97,
            "credits_charged": 106,
            "downloads": [{"url": "https://x.example/v.mp4", "expires_at": "2026-11-24T00:00:00Z"}],
            "download": None,
            "total_frame_cost": 106,
            "error": None,
        },
    )
    assert (job.ended, job.clip_seconds, job.fps, job.download.url) == (
        True,
        2.2,
        29.97,
        "https://x.example/v.mp4",
    )
    job.raise_unless_complete()


def test_fields_that_are_missing_or_unknown_are_no_error() -> None:
    job = answered(FREE, 200, JOB | {"brand_new": {"x": 1}})
    assert (job.ended, job.clip_seconds, job.download, job.credits_charged) == (False, None, None, None)


def test_fields_that_are_null_are_as_good_as_missing() -> None:
    nothing = dict.fromkeys(models.Job.model_fields, None) | JOB
    del nothing["job_id"]
    job = answered(FREE, 200, nothing)
    assert (job.ended, job.clip_seconds, job.download, job.credits_charged) == (False, None, None, None)


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        *((going, False) for going in ("draft", "queued", "rendering", "upscaling", "COMPLETE")),
        *((over, True) for over in ("complete", "error", "canceled")),
    ],
)
def test_a_status_that_is_not_known_counts_as_going_on(status: str, ended: bool) -> None:
    assert answered(FREE, 200, JOB | {"status": status}).ended is ended


def test_signed_urls_and_the_email_do_not_show_when_an_answer_is_printed() -> None:
    job = answered(FREE, 200, JOB | {"downloads": [{"url": "https://x.example/?sig=s3cr3t"}]})
    slots = answered(
        wire.create_upload_slots([("image", "png")]),
        200,
        {"items": [{"upload_url": "https://x.example/?sig=s3cr3t", "file_path": "api-assets/1.png"}]},
    )
    account = answered(wire.get_account(), 200, {"id": "a", "email": "s3cr3t@x.example"})
    for shown in (job, job.download, slots, account):
        assert "s3cr3t" not in f"{shown!r} {shown}"


@pytest.mark.parametrize(
    ("job", "kind", "charged", "retryable"),
    [
        ({"status": "canceled"}, errors.JobCanceled, "refunded", False),
        ({"status": "complete", "enabled": False}, errors.JobDeleted, "yes", False),
        ({"status": "error"}, errors.JobFailed, "refunded", True),
        *(
            (
                {"status": "error", "error": {"code": code, "message": "m"}},
                errors.JobFailed,
                "refunded",
                retryable,
            )
            for code, retryable in [
                ("no_source_face", False),
                ("invalid_file_format", False),
                ("file_too_large", False),
                ("insufficient_credits", False),
                ("invalid_parameters", False),
                ("invalid_video_file", False),
                ("content_policy_violation", False),
                ("text_too_long", False),
                ("invalid_voice", False),
                ("processing_timeout", True),
                ("unknown_error", True),
                ("a_code_of_next_year", True),
            ]
        ),
    ],
)
def test_a_job_that_ended_without_a_video(
    job: dict[str, Any], kind: type[errors.JobEnded], charged: str, retryable: bool
) -> None:
    seen = answered(FREE, 200, JOB | job)
    assert seen.ended
    with pytest.raises(kind) as ended:
        seen.raise_unless_complete()
    assert (ended.value.job_id, ended.value.charged, ended.value.retryable) == ("job-1", charged, retryable)
    if reason := job.get("error"):
        assert f"{reason['code']}: {reason['message']}" in str(ended.value)
        assert ended.value.code == reason["code"]


def test_upload_slots_are_as_many_as_files_or_none_at_all() -> None:
    call = wire.create_upload_slots([("image", "png"), ("audio", "mp3")])
    slot = {"upload_url": "https://x.example/1", "file_path": "api-assets/1"}
    assert [s.file_path for s in answered(call, 200, {"items": [slot, slot]})] == ["api-assets/1"] * 2
    assert isinstance(refused(call, 200, json.dumps({"items": [slot]}).encode()), errors.Unavailable)


def test_an_account_needs_no_more_than_its_id() -> None:
    assert answered(wire.get_account(), 200, {"id": "a"}).credits is None


def test_a_deletion_needs_no_body() -> None:
    assert answered(wire.delete_job("job-1"), 204) is None


# --- refusals ---

NAMED = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    402: errors.InsufficientCredits,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.InvalidRequest,
    407: errors.Unauthorized,
    413: errors.InvalidRequest,
    415: errors.InvalidRequest,
    422: errors.InvalidRequest,
    429: errors.RateLimited,
}
NO_JOB = (301, 302, 307, 308, 425, 521, 522, 523, 525, 526, 530)
UNNAMED = (199, 300, 303, 408, 409, 418, 499, 500, 501, 504, 520, 524, 529, 599)


@pytest.mark.parametrize("body", [VENDOR, HTML, b""], ids=["vendor", "html", "empty"])
@pytest.mark.parametrize("call", [PAID, FREE], ids=["paid", "free"])
@pytest.mark.parametrize(("status", "kind"), NAMED.items())
def test_a_refusal_made_no_job_whoever_says_it(
    call: wire.Call[Any], status: int, kind: type[errors.RequestFailed], body: bytes
) -> None:
    error = refused(call, status, body)
    assert type(error) is kind
    assert isinstance(error, errors.RequestFailed)
    assert (error.charged, error.retryable) == ("no", status == 429)
    assert (error.by_vendor, error.by_page, error.no_job_unproven) == (body is VENDOR, body is HTML, False)


@pytest.mark.parametrize("body", [VENDOR, HTML, b""], ids=["vendor", "html", "empty"])
@pytest.mark.parametrize("status", UNNAMED)
def test_any_other_status_leaves_it_open_whether_a_paid_call_was_heard(status: int, body: bytes) -> None:
    error = refused(PAID, status, body)
    assert isinstance(error, errors.SubmissionUncertain)
    assert (error.charged, error.retryable) == ("unknown", False)


@pytest.mark.parametrize("body", [VENDOR, HTML, b""], ids=["vendor", "html", "empty"])
@pytest.mark.parametrize("status", NO_JOB)
def test_a_call_that_did_not_reach_the_api_made_no_job(status: int, body: bytes) -> None:
    error = refused(PAID, status, body)
    assert type(error) is errors.Unavailable
    assert (error.charged, error.retryable) == ("no", True)


@pytest.mark.parametrize(
    "location", ["https://user:pw@eu.example/v1/x?sig=s3cr3t", "//user:pw@eu.example/v1/x?sig=s3cr3t#part"]
)
@pytest.mark.parametrize("call", [PAID, FREE], ids=["paid", "free"])
def test_a_redirect_names_its_target_without_user_password_and_query(
    call: wire.Call[Any], location: str
) -> None:
    said = str(refused(call, 307, location=location))
    assert "eu.example/v1/x." in said
    for secret in ("user", "pw", "sig", "s3cr3t", "part"):
        assert secret not in said.partition("a redirect to ")[2].partition(". The key")[0]


@pytest.mark.parametrize("status", [502, 503])
def test_a_strict_call_does_not_believe_a_502(status: int) -> None:
    error = refused(replace(PAID, strict=True), status, VENDOR)
    assert isinstance(error, errors.SubmissionUncertain)


@pytest.mark.parametrize("status", [502, 503])
@pytest.mark.parametrize(
    ("body", "kind", "charged"),
    [
        (VENDOR, errors.Unavailable, "no"),
        (HTML, errors.SubmissionUncertain, "unknown"),
        (b"", errors.SubmissionUncertain, "unknown"),
        (b'{"error": "not the vendor"}', errors.SubmissionUncertain, "unknown"),
        (b'{"message": null}', errors.SubmissionUncertain, "unknown"),
        (b'"message"', errors.SubmissionUncertain, "unknown"),
        (b"\xff\xfe", errors.SubmissionUncertain, "unknown"),
    ],
)
def test_a_502_made_no_job_by_the_vendors_word_and_not_by_a_gateways(
    status: int, body: bytes, kind: type[errors.MagicHourError], charged: str
) -> None:
    error = refused(PAID, status, body)
    assert (type(error), error.charged) == (kind, charged)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b'{"id": "jo', HTML, b'{"credits_charged": 5}', b"[]", b"0"),
        *(b'{"id": ""}', b'{"id": null}', b'{"id": " "}', b'{"id": ".."}'),
    ],
)
def test_a_paid_call_whose_success_cannot_be_read_is_uncertain(body: bytes) -> None:
    assert isinstance(refused(PAID, 200, body), errors.SubmissionUncertain)


@pytest.mark.parametrize(
    "body", [b"", b'{"id": "jo', HTML, b'{"id": "job-1"}', b"[]", b'{"id": "job-2", "status": "complete"}']
)
def test_a_free_call_whose_answer_cannot_be_read_may_be_asked_again(body: bytes) -> None:
    error = refused(FREE, 200, body)
    assert isinstance(error, errors.Unavailable)
    assert (error.retryable, error.charged, error.job_id) == (True, "no", "job-1")


@pytest.mark.parametrize("status", [*UNNAMED, 502, 503])
@pytest.mark.parametrize("body", [VENDOR, HTML, b""], ids=["vendor", "html", "empty"])
def test_a_free_call_that_failed_may_be_asked_again(status: int, body: bytes) -> None:
    error = refused(FREE, status, body)
    assert type(error) is errors.Unavailable
    assert error.retryable


@pytest.mark.parametrize("status", [*NAMED, *UNNAMED, 425, 502, 503, 521])
@pytest.mark.parametrize("call", [PAID, FREE], ids=["paid", "free"])
def test_the_vendors_words_are_passed_on(call: wire.Call[Any], status: int) -> None:
    said = str(refused(call, status, VENDOR))
    assert "what the vendor says" in said
    assert str(status) in said


def test_a_body_of_unknown_origin_is_described_and_not_shown() -> None:
    assert "an HTML page" in str(refused(FREE, 502, HTML))
    assert "an empty body" in str(refused(FREE, 502))
    assert "s3cr3t" not in str(refused(FREE, 502, b"token=s3cr3t"))
    assert "s3cr3t" not in str(refused(PAID, 200, b'{"number": 7, "token": "s3cr3t"}'))


# --- Retry-After ---


@pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("0.5", 0.5), ("-3", 0), ("0", 0)])
@pytest.mark.parametrize(
    ("status", "body"), [(429, VENDOR), (503, VENDOR), (503, HTML), (500, b"")], ids=lambda p: str(p)[:8]
)
def test_retry_after_in_seconds_comes_with_the_error(
    status: int, body: bytes, said: str, seconds: float
) -> None:
    error = refused(FREE, status, body, retry_after=said)
    assert isinstance(error, errors.RequestFailed)
    assert error.retry_after == seconds


@pytest.mark.parametrize(("ahead", "least", "most"), [(3600, 3500, 3600), (-3600, 0, 0)])
def test_retry_after_as_a_date_is_the_time_until_then(ahead: int, least: float, most: float) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    error = refused(FREE, 429, retry_after=date)
    assert isinstance(error, errors.RequestFailed)
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


@pytest.mark.parametrize("said", ["", "soon", "Wed, 99 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_says_nothing_is_as_good_as_none(said: str) -> None:
    error = refused(FREE, 429, retry_after=said)
    assert isinstance(error, errors.RequestFailed)
    assert error.retry_after is None


def test_only_what_is_needed_must_be_readable() -> None:
    strange = {
        "id": "job-1",
        "status": "complete",
        "name": 7,
        "created_at": 1700000000,
        "enabled": "perhaps",
        "width": 512.5,
        "fps": "many",
        "credits_charged": {"amount": 48},
        "error": "none",
        "downloads": [{"url": "https://storage.example/a.mp4", "expires_at": 1700000000}],
    }
    job = wire.get_job("job-1").answer(200, {}, json.dumps(strange).encode())
    assert job.download is not None
    assert job.download.url == "https://storage.example/a.mp4"
    assert (job.width, job.fps, job.credits_charged, job.error) == (None, None, None, None)


@pytest.mark.parametrize("amount", ["many", None, {}, float("inf"), float("nan")])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["", "with a byte order mark"])
def test_an_id_that_can_be_read_is_a_job_whatever_stands_beside_it(amount: object, start: bytes) -> None:
    body = start + json.dumps({"id": "job-1", "credits_charged": amount}).encode()
    submission = PAID.answer(200, {}, body)
    assert (submission.job_id, submission.credits_charged) == ("job-1", None)


def test_an_endlessly_nested_body_is_only_unreadable() -> None:
    with pytest.raises(errors.Unavailable):
        wire.get_job("job-1").answer(500, {}, b"[" * 100_000)


@pytest.mark.parametrize("job_id", [".", ".."])
def test_a_job_id_cannot_climb_to_another_route(job_id: str) -> None:
    with pytest.raises(errors.InvalidInput, match="job_id"):
        wire.delete_job(job_id)


# --- whose answer is it, and what is in it? ---


def test_an_answer_about_another_job_is_not_believed() -> None:
    error = refused(FREE, 200, b'{"id": "job-2", "status": "error", "error": {"code": "unknown_error"}}')
    assert isinstance(error, errors.Unavailable)
    assert "job-2" in str(error)


@pytest.mark.parametrize(
    ("call", "body"), [(PAID, {"id": 17}), (wire.get_job("17"), {"id": 17, "status": "queued"})]
)
def test_an_id_that_is_a_number_is_text(call: wire.Call[Any], body: dict[str, Any]) -> None:
    assert answered(call, 200, body).job_id == "17"


def test_an_id_in_an_unknown_envelope_is_shown_to_a_person() -> None:
    body = b'{"data": {"note": "hello", "project_id": "", "job_id": [], "id": "job-9"}}'
    assert "names an id (data.id='job-9')" in str(refused(PAID, 200, body))


@pytest.mark.parametrize("status", [201, 202, 299])
def test_every_success_with_an_id_is_a_job(status: int) -> None:
    assert answered(PAID, status, {"id": "job-1"}).job_id == "job-1"


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "check the API key"),
        (402, "buy credits"),
        (403, "plan"),
        (404, "check the job id"),
        (407, "proxy"),
    ],
)
def test_an_error_says_what_to_do_unless_something_between_has_answered(status: int, advice: str) -> None:
    assert advice in str(refused(PAID, status, VENDOR))
    page = str(refused(PAID, status, HTML))
    assert advice not in page
    assert "something between us and Magic Hour" in page


@pytest.mark.parametrize("status", [502, 503])
def test_only_of_a_paid_call_is_it_the_vendors_word_that_counts(status: int) -> None:
    of_paid, of_free = refused(PAID, status, VENDOR), refused(FREE, status, VENDOR)
    assert isinstance(of_paid, errors.RequestFailed)
    assert isinstance(of_free, errors.RequestFailed)
    assert (of_paid.no_job_unproven, of_free.no_job_unproven) == (True, False)


URL = {"url": "https://x.example/v.mp4"}


@pytest.mark.parametrize(
    "answer",
    [
        {"downloads": [URL]},
        {"downloads": [None, "v.mp4", {}, {"url": None}, {"url": "/v.mp4"}, URL]},
        {"downloads": [], "download": URL},
        {"downloads": None, "download": URL},
        {"download": URL},
    ],
)
def test_every_download_that_can_be_read_is_found(answer: dict[str, Any]) -> None:
    job = answered(FREE, 200, JOB | {"status": "complete"} | answer)
    assert [found.url for found in job.downloads] == [URL["url"]]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("one\ntwo\r\n[INFO] forged", "one two [INFO] forged"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07end\x00", "red end"),
        ("right\u202eleft", "right left"),
        ("x" * 1_000_000, "x" * 500 + "…"),
        ("see https://s.example/f.mp4?X-Amz-Signature=s3cr3t now", "see https://s.example/f.mp4?… now"),
        ("no file at HTTPS://ada:s3cr3t@s.example/f.mp4", "no file at HTTPS://***@s.example/f.mp4"),
    ],
    ids=["lines", "escapes", "direction", "length", "signature", "password"],
)
def test_the_vendors_words_are_cleaned_before_they_are_shown(said: str, shown: str) -> None:
    assert shown in str(refused(FREE, 422, json.dumps({"message": said}).encode()))
    job = answered(FREE, 200, JOB | {"status": "error", "error": {"code": said, "message": said}})
    assert (job.error.code, job.error.message) == (shown, shown)


@pytest.mark.parametrize("secret", ["s3cr3t", "S3CR3T", "zz"])
def test_a_secret_is_redacted_where_no_escape_is(secret: str) -> None:
    body = json.dumps({"message": f"the key {secret} is wrong"}).encode()
    with pytest.raises(errors.InvalidRequest) as error:
        FREE.answer(422, {}, body, lambda text: text.replace(secret, "mm"))
    assert secret not in str(error.value)
    assert "the key mm is wrong" in str(error.value)
    said = {"status": "error", "error": {"message": f"the key {secret} is wrong"}}
    job = FREE.answer(200, {}, json.dumps(JOB | said).encode(), lambda text: text.replace(secret, "mm"))
    assert job.error
    assert job.error.message == "the key mm is wrong"


def test_a_secret_is_redacted_after_the_escapes_of_json_are_decoded() -> None:
    body = b'{"message": "key \\u0073\\u0033cr3t", "id": "s3cr3t-1", "status": "queued"}'
    redact = lambda text: text.replace("s3cr3t", "***")  # noqa: E731
    with pytest.raises(errors.InvalidRequest) as error:
        FREE.answer(422, {}, body, redact)
    assert "s3cr3t" not in str(error.value)
    assert "***" in str(error.value)
    with pytest.raises(errors.Unavailable) as other:
        FREE.answer(200, {}, body, redact)
    assert "s3cr3t" not in str(other.value)


@pytest.mark.parametrize("job_id", [{"job_id": "cm1"}, ["cm1"], 1.5, True, None, "", "None"])
def test_what_cannot_be_a_job_id_is_refused_in_words_that_fit(job_id: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="job_id=") as error:
        wire.get_job(job_id)
    empty = job_id in (None, "", "None")
    assert ("is empty" in str(error.value)) == empty


def test_a_job_id_may_be_a_number_or_have_space_around_it() -> None:
    assert wire.get_job(17).path.endswith("/17")  # type: ignore[arg-type]
    assert wire.get_job(" cm1\n").path.endswith("/cm1")
