"""Was a call sent? It was, unless httpx's trace proves that no byte of it left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from magichour_provider.api.client.tracking import SendTracker

POST = {"request": SimpleNamespace(method=b"POST")}
CONNECT = {"request": SimpleNamespace(method=b"CONNECT")}
STREAM = {"return_value": SimpleNamespace(get_extra_info=lambda _: None)}
FAILED = {"exception": OSError()}
Event = tuple[str, dict[str, Any]]


def step(name: str, started: dict[str, Any], end: str, ended: dict[str, Any]) -> list[Event]:
    return [(f"{name}.started", started), (f"{name}.{end}", ended)]


def answer(status: int) -> dict[str, Any]:
    return {"return_value": (b"HTTP/1.1", status, b"", [])}


TCP = step("connection.connect_tcp", {"host": "h"}, "complete", STREAM)
TCP_FAILED = step("connection.connect_tcp", {"host": "h"}, "failed", FAILED)
TLS = step("connection.start_tls", {}, "complete", STREAM)
TLS_FAILED = step("connection.start_tls", {}, "failed", FAILED)
CLOSED = step("http11.response_closed", {}, "complete", {"return_value": None})
ASKED = [
    *TCP,
    *step("http11.send_request_headers", CONNECT, "complete", {"return_value": None}),
    *step("http11.send_request_body", CONNECT, "complete", {"return_value": None}),
]
TUNNEL = [*ASKED, *step("http11.receive_response_headers", CONNECT, "complete", answer(200))]
SENDING: list[Event] = [("http11.send_request_headers.started", POST)]

PROVED_NOT_SENT: dict[str, list[Event]] = {
    "no connection": TCP_FAILED,
    "no TLS": [*TCP, *TLS_FAILED],
    "the proxy refuses": [*ASKED, *step("http11.receive_response_headers", CONNECT, "complete", answer(407))],
    "the proxy hangs up": [
        *ASKED,
        *step("http11.receive_response_headers", CONNECT, "failed", FAILED),
        *CLOSED,
    ],
    "no TLS through the proxy": [*TUNNEL, *step("proxy.start_tls", {}, "failed", FAILED)],
}
NOT_PROVED: dict[str, list[Event]] = {
    "silence": [],
    "the start alone": TCP[:1],
    "a connection and silence": TCP,
    "a connection with TLS and silence": [*TCP, *TLS],
    "a tunnel and silence": TUNNEL,
    "a tunnel with TLS and silence": [*TUNNEL, *step("proxy.start_tls", {}, "complete", STREAM)],
    "the request begins": [*TCP, *SENDING],
    "the request fails": [*TCP, *step("http11.send_request_headers", POST, "failed", FAILED), *CLOSED],
    "no answer": [*TCP, *step("http11.receive_response_headers", POST, "failed", FAILED), *CLOSED],
    "no answer through a tunnel, told in part": [
        *TUNNEL,
        *step("proxy.start_tls", {}, "complete", STREAM),
        ("http11.receive_response_headers.failed", FAILED),
        *CLOSED,
    ],
    "a failure and then a request": [*TCP_FAILED, *SENDING],
    "a failure, then a request, then a failure": [*TCP_FAILED, *SENDING, *TCP_FAILED],
    "a failure and then another connection": [*TCP_FAILED, *TCP],
    "a failure and then an unknown event": [*TCP_FAILED, ("connection.retry.started", {})],
    "other names": [("connection.open.started", {}), ("connection.open.failed", FAILED)],
    "no names": [("", {}), ("failed", FAILED)],
    "another shape of answer": [*ASKED, ("http11.receive_response_headers.complete", {"return_value": 407})],
}


@pytest.mark.parametrize("events", PROVED_NOT_SENT.values(), ids=PROVED_NOT_SENT)
def test_a_call_whose_connection_failed_was_not_sent(events: list[Event]) -> None:
    tracker = SendTracker()
    for event, info in events:
        tracker.trace(event, info)
    assert not tracker.sent


@pytest.mark.parametrize("events", NOT_PROVED.values(), ids=NOT_PROVED)
def test_a_call_counts_as_sent_without_that_proof(events: list[Event]) -> None:
    tracker = SendTracker()
    for event, info in events:
        tracker.trace(event, info)
    assert tracker.sent


def test_a_call_that_is_stopped_before_its_first_byte_was_not_sent() -> None:
    tracker = SendTracker()
    with tracker.limit(0.01):
        while not tracker.is_expired:
            pass
        for event, info in TCP:
            tracker.trace(event, info)
        with pytest.raises(TimeoutError):
            tracker.trace(*SENDING[0])
    for event, info in CLOSED:
        tracker.trace(event, info)
    assert not tracker.sent
