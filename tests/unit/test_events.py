"""The vendor's events: their signatures, and what is read from them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from magichour_provider.api.events import Arrivals, Event, is_recent, is_signed
from magichour_provider.emulator.webhooks import signed

BODY = b'{"type": "video.completed"}'


def check(secret: str = "whsec_1", body: bytes = BODY, **changed: str) -> bool:
    headers = signed("whsec_1", BODY)
    found = {
        "timestamp": headers["magic-hour-event-timestamp"],
        "signature": headers["magic-hour-event-signature"],
    }
    return is_signed(secret, body=body, **found | changed)


def test_a_signature_of_the_vendor_is_right() -> None:
    assert check()


def test_a_signature_made_by_openssl_is_right() -> None:
    """``printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec_1``."""
    signature = "c8cf6ed9fd9120874a1792902ffdf5b69559118b76d10974da8a20cf21f94bc5"
    assert is_signed("whsec_1", timestamp="1700000000", signature=signature, body=b"{}")


@pytest.mark.parametrize(
    "forged",
    [
        {"secret": "whsec_2"},
        {"secret": ""},
        {"body": BODY + b" "},
        {"body": b""},
        {"timestamp": "1"},
        {"timestamp": ""},
        {"timestamp": "٣"},
        {"signature": ""},
        {"signature": "0" * 64},
        {"signature": "\udcff£é"},
        {"signature": "x" * 100_000},
    ],
    ids=repr,
)
def test_a_forged_signature_is_wrong(forged: dict[str, Any]) -> None:
    assert not check(**forged)


def test_the_dot_between_time_and_body_cannot_be_moved() -> None:
    headers = signed("s", b"2.{}")
    signature = headers["magic-hour-event-signature"]
    moved = headers["magic-hour-event-timestamp"] + ".2"
    assert is_signed("s", timestamp=moved, signature=signature, body=b"{}")
    assert not is_recent(moved), "so a time with a dot is never recent"


@pytest.mark.parametrize(
    ("offset", "recent"), [(0, True), (-290, True), (290, True), (-310, False), (310, False)]
)
def test_an_event_is_recent_for_five_minutes_either_way(offset: int, recent: bool) -> None:
    assert is_recent(str(int(time.time()) + offset)) is recent


@pytest.mark.parametrize(
    "timestamp", ["", " ", "now", "-1", "+1", "1e9", "1_0", "٣", "²", "9" * 5000, "nan", "0x10"]
)
def test_what_is_no_time_is_not_recent(timestamp: str) -> None:
    assert not is_recent(timestamp)


def event(kind: object = "video.completed", **payload: object) -> Event:
    return Event.of(json.dumps({"type": kind, "payload": {"id": "cm1", "name": None, **payload}}).encode())


@pytest.mark.parametrize(
    ("kind", "status", "is_end"),
    [
        ("video.started", "rendering", False),
        ("video.completed", "complete", True),
        ("audio.completed", "complete", True),
        ("video.errored", "error", True),
        ("video.paused", None, False),
        ("", None, False),
    ],
)
def test_an_event_says_how_the_job_is(kind: str, status: str | None, is_end: bool) -> None:
    found = event(kind)
    assert (found.type, found.job_id, found.status, found.is_end) == (kind, "cm1", status, is_end)


@pytest.mark.parametrize(
    ("name", "short_id"),
    [
        ("dag.task [mh-1a2b3c4d]", "1a2b3c4d"),
        ("[mh-1a2b3c4d] \n", "1a2b3c4d"),
        ("[mh-00000000] [mh-1a2b3c4d]", "1a2b3c4d"),
        ("dag.task [mh-1a2b3c4d] (copy)", None),
        ("dag.task [mh-1A2B3C4D]", None),
        ("dag.task [mh-1a2b3c4]", None),
        ("dag.task", None),
        ("", None),
        (None, None),
    ],
)
def test_the_short_id_is_at_the_end_of_the_name(name: str | None, short_id: str | None) -> None:
    assert event(name=name).short_id == short_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type": 1' + b"0" * 5000 + b"}",
        b"{}",
        b'{"type": "video.completed"}',
        b'{"type": "video.completed", "payload": null}',
        b'{"type": "video.completed", "payload": []}',
        b'{"type": "video.completed", "payload": {}}',
        b'{"type": "video.completed", "payload": {"id": true}}',
        b'{"type": "video.completed", "payload": {"id": "a\\u0000b"}}',
        b'{"type": "video.completed", "payload": {"id": ""}}',
        b'{"type": "video.completed", "payload": {"id": "' + b"x" * 201 + b'"}}',
        b'{"type": "video.completed", "payload": {"id": "cm1", "name": {"a": 1}}}',
        b'{"type": {"a": 1}, "payload": {"id": "cm1"}}',
        b'{"type": "' + b"x" * 51 + b'", "payload": {"id": "cm1"}}',
    ],
    ids=lambda body: repr(body[:60]),
)
def test_what_is_no_event_is_refused_by_one_kind_of_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        Event.of(body)


def test_arrivals_are_said_in_a_sentence() -> None:
    seen = Arrivals()
    assert (
        str(seen)
        == "No webhook event has arrived (counted by this process of the API server, since its start)."
    )
    seen.take(event())
    seen.refuse()
    assert "The last webhook event (video.completed) arrived 0 s ago; 1 were refused" in str(seen)
