"""Every ending of the paid call: was a job made, and what is the caller told?"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from both import DRIPS, Row, StandIn, accepts, drips, heard, row, says, settings_for, stand_in, through

from magichour_provider.api.client import Settings
from magichour_provider.api.inputs import TalkingPhotoInputs
from magichour_provider.api.wire import paid_call
from magichour_provider.emulator import Emulator
from magichour_provider.exceptions import RateLimited, SubmissionUncertain

INPUTS = TalkingPhotoInputs(image_file_path="me.png", audio_file_path="hello.mp3", end_seconds=1)
SHORT, HARDLY = 0.5, 0.2  # seconds
NAMES = map("submission {}".format, itertools.count())

NOT_SENT = Row("Unavailable", None, True, "no", requests=0)


def uncertain(status: int | None = None, *, charges: int = 0) -> Row:
    return Row("SubmissionUncertain", status, False, "unknown", charges)


def brief(part: object) -> str:
    """The name of a row in the table."""
    if isinstance(part, Row):
        return part.ending
    return str(part).translate(str.maketrans("", "", "{}' ")) or "good"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def assets(emulator: Emulator) -> dict[str, str]:
    return {
        "image_file_path": emulator.put_asset(b"photo", "png"),
        "audio_file_path": emulator.put_asset(b"voice", "wav"),
    }


@pytest.fixture
def submitted(emulator: Emulator, assets: dict[str, str]) -> Iterator[Callable[..., Row]]:
    """The row of one submission under a fault."""

    def submit(fault: dict[str, Any] | None = None, *, timeout: float = 20) -> Row:
        name = next(NAMES)
        if fault:
            emulator.fault("create", **({"name": name} | fault))
        return row(
            "sync",
            settings_for(emulator, timeout=timeout),
            lambda client: client.submit(paid_call(INPUTS, assets, name)),
            charges=lambda: emulator.charges(name),
            requests=lambda: sum(
                bool(sent["json"]) and sent["json"]["name"] == name for sent in emulator.requests("create")
            ),
        )

    yield submit
    emulator.clear_faults()


# --- what the API, or something in front of it, answers ---

NO_JOB = {
    400: "InvalidRequest",
    401: "Unauthorized",
    402: "InsufficientCredits",
    403: "Forbidden",
    404: "NotFound",
    405: "InvalidRequest",
    407: "Unauthorized",
    413: "InvalidRequest",
    415: "InvalidRequest",
    422: "InvalidRequest",
}
# A redirect, "too early", and Cloudflare's word that it did not reach the origin.
NO_JOB_NOW = (301, 302, 307, 308, 425, 521, 522, 523, 525, 526, 530)
NOT_KNOWN = (303, 408, 409, 418, 499, 500, 501, 504, 520, 524, 529, 599)
VENDOR: dict[str, Any] = {}
HTML, EMPTY = {"html": True}, {"body": ""}
BODIES = [VENDOR, HTML, EMPTY]

ANSWERS: list[tuple[dict[str, Any], Row]] = [
    ({}, Row("ok", charges=1)),
    *(
        ({"status": status, **body}, Row(kind, status, False, "no"))
        for status, kind in NO_JOB.items()
        for body in BODIES
    ),
    *(
        ({"status": status, **body}, Row("Unavailable", status, True, "no"))
        for status in NO_JOB_NOW
        for body in BODIES
    ),
    *(({"status": status, **body}, uncertain(status)) for status in NOT_KNOWN for body in BODIES),
    *(({"status": status}, Row("Unavailable", status, True, "no")) for status in (502, 503)),
    *(({"status": status, **body}, uncertain(status)) for status in (502, 503) for body in (HTML, EMPTY)),
    *(({"status": 429, **body}, Row("ok", charges=1, requests=2)) for body in BODIES),
    ({"status": 429, "headers": {"Retry-After": "9"}}, Row("ok", charges=1, requests=2)),
    ({"status": 429, "headers": {"Retry-After": "3600"}}, Row("RateLimited", 429, True, "no")),
    ({"status": 429, "times": 30}, Row("ok", charges=1, requests=31)),
    # The job was made, and the answer lost or spoiled on its way.
    ({"status": 500, "effect": True}, uncertain(500, charges=1)),
    ({"html": True, "effect": True}, uncertain(502, charges=1)),
    ({"html": True, "status": 200, "effect": True}, uncertain(200, charges=1)),
    ({"body": "", "effect": True}, uncertain(200, charges=1)),
    ({"body": {"credits_charged": 48}, "effect": True}, uncertain(200, charges=1)),
    ({"body": {"id": None}, "effect": True}, uncertain(200, charges=1)),
    ({"truncate": 10}, uncertain(200, charges=1)),
    ({"cut": 10}, uncertain(charges=1)),
    ({"reset": "after"}, uncertain(charges=1)),
    ({"reset": "before"}, uncertain()),
]


@pytest.mark.parametrize(("fault", "expected"), ANSWERS, ids=brief)
def test_an_answer_to_the_paid_call(
    submitted: Callable[..., Row], pauses: list[float], fault: dict[str, Any], expected: Row
) -> None:
    assert submitted(fault) == expected


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"hang": 1.5}, uncertain()),
        ({"hang": 1.5, "effect": True}, uncertain(charges=1)),
        ({"slow": 10}, uncertain(charges=1)),
    ],
    ids=brief,
)
def test_an_answer_that_takes_too_long(
    submitted: Callable[..., Row], fault: dict[str, Any], expected: Row
) -> None:
    assert submitted(fault, timeout=SHORT) == expected


def test_the_paid_call_is_repeated_after_429_for_as_long_as_the_caller_wants(
    emulator: Emulator, assets: dict[str, str], pauses: list[float]
) -> None:
    emulator.fault("create", status=429, times=None, headers={"Retry-After": "9"})
    before = len(emulator.requests("create"))
    with pytest.raises(RateLimited):
        through(
            "sync",
            settings_for(emulator),
            lambda api: api.submit(paid_call(INPUTS, assets, "n"), retry_429_seconds=20),
        )
    emulator.clear_faults()
    # The clock stands still here: what ends it is the number of attempts.
    assert len(emulator.requests("create")) - before == len(pauses) + 1 == 30
    assert set(pauses) == {9}


def test_a_call_that_was_not_sent_between_two_429s_is_repeated_too(
    emulator: Emulator, assets: dict[str, str], pauses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    failures = iter([True] * 3)

    def now_and_then(*where: Any, **how: Any) -> Any:
        if len(pauses) >= 5 and next(failures, False):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(*where, **how)

    emulator.fault("create", status=429, times=9)
    monkeypatch.setattr(socket, "getaddrinfo", now_and_then)
    try:
        through(
            "sync",
            settings_for(emulator),
            lambda api: api.submit(paid_call(INPUTS, assets, "n")),
        )
    finally:
        emulator.clear_faults()
    assert len(pauses) == 9 + 3


def test_a_pause_that_the_vendor_asks_for_is_kept(submitted: Callable[..., Row], pauses: list[float]) -> None:
    submitted({"status": 429, "headers": {"Retry-After": "9"}})
    assert pauses == [9]


@pytest.mark.parametrize(("said", "least"), [("3600", 3600), ("Wed, 21 Oct 2099 07:28:00 GMT", 1e9)])
def test_a_pause_that_is_too_long_is_left_to_the_caller(
    emulator: Emulator, assets: dict[str, str], pauses: list[float], said: str, least: float
) -> None:
    emulator.fault("create", status=429, headers={"Retry-After": said})
    with pytest.raises(RateLimited) as limited:
        through(
            "sync",
            settings_for(emulator),
            lambda api: api.submit(paid_call(INPUTS, assets, "n")),
        )
    assert limited.value.retry_after is not None
    assert limited.value.retry_after >= least
    assert pauses == []


def test_the_vendors_reason_reaches_the_caller(emulator: Emulator, assets: dict[str, str]) -> None:
    emulator.fault("create", status=422, body={"message": "end_seconds is beyond the audio"})
    with pytest.raises(Exception, match="end_seconds is beyond the audio"):
        through(
            "sync",
            settings_for(emulator),
            lambda api: api.submit(paid_call(INPUTS, assets, "n")),
        )


# --- what a network does ---


def posted(server: StandIn, **settings: Any) -> Row:
    return row(
        "sync",
        settings_for(server, **settings),
        lambda client: client.submit(
            paid_call(INPUTS, {"image_file_path": "api-assets/1", "audio_file_path": "api-assets/2"}, "n")
        ),
        requests=lambda: server.requests,
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda connection: connection.shutdown(socket.SHUT_RDWR), uncertain()),
        (says("220 mail.example ESMTP\r\n"), uncertain()),
        (says('HTTP/1.1 200 OK\r\n\r\n{"id": "job'), uncertain(200)),
        (says('HTTP/1.1 200 OK\r\n\r\n{"id": "job-1"}'), Row("ok")),
        (says('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id": "job-1"}'), uncertain()),
        (says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"), uncertain()),
        (says("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"), uncertain(200)),
        (says('HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{"id": "job-1"}'), Row("ok")),
        (
            says("HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n"),
            Row("Unavailable", 307, True, "no"),
        ),
        (accepts, Row("ok")),
    ],
)
def test_what_comes_back_is_not_always_an_answer(
    answer: Callable[[socket.socket], object], expected: Row
) -> None:
    with stand_in(answer) as server:
        assert posted(server) == expected


OK, BODY = "HTTP/1.1 200 OK\r\n", '{"id": "job-1", "x": "'
DRIPPING = {
    "status": ("HTTP/1.1 200 O", f'\r\n\r\n{BODY}"}}'),
    "headers": (f"{OK}X-Slow: ", f'\r\n\r\n{BODY}"}}'),
    "body": (f"{OK}Content-Length: {len(BODY) + DRIPS + 2}\r\n\r\n{BODY}", '"}'),
    "body without length": (f"{OK}\r\n{BODY}", '"}'),
}


@pytest.mark.parametrize("part", DRIPPING)
def test_an_answer_that_drips_is_not_waited_for(part: str) -> None:
    with stand_in(drips(*DRIPPING[part])) as server:
        ending = posted(server, timeout=SHORT)
    assert (ending.ending, ending.charged, ending.requests) == ("SubmissionUncertain", "unknown", 1)


def test_an_answer_that_drips_through_tls_is_not_waited_for(tls: ssl.SSLContext, pem: Path) -> None:
    with stand_in(drips(*DRIPPING["headers"]), tls=tls) as server:
        assert posted(server, timeout=SHORT, verify=str(pem)) == uncertain()


def silent(*_: object) -> None:
    """A transport that reports nothing to its trace."""


def renamed(trace: Any, name: str, info: dict[str, Any]) -> None:
    """A transport that reports the same events by other names."""
    if trace.trace_extension:
        trace.trace_extension(f"h11.{name}", info)


@pytest.mark.parametrize("reports", [silent, renamed])
def test_a_call_is_not_repeated_when_the_transport_does_not_prove_that_it_was_not_sent(
    reports: Callable[..., None], monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr("httpcore._trace.Trace.trace", reports)
    with stand_in(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as server:
        assert posted(server) == uncertain()
    with stand_in(accepts) as server:
        assert posted(server) == Row("ok")
    with ExitStack() as closing:
        server = StandIn(accepts, listening=False)
        closing.callback(server.server_close)
        assert posted(server).ending == "SubmissionUncertain"
    assert pauses == []


def test_nobody_listens(pauses: list[float]) -> None:
    with ExitStack() as closing:
        server = StandIn(accepts, listening=False)
        closing.callback(server.server_close)
        assert posted(server) == NOT_SENT
    assert len(pauses) == 4  # attempts


def test_nobody_listens_at_first(pauses: Any) -> None:
    server = StandIn(accepts, listening=False)
    pauses.on_pause = server.listen
    try:
        assert posted(server) == Row("ok", requests=1)
    finally:
        server.shutdown()
        server.server_close()
    assert len(pauses) == 1


def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    settings = Settings(api_key="k", base_url="http://api.example")
    expected = row(
        "sync",
        settings,
        lambda client: client.submit(
            paid_call(INPUTS, {"image_file_path": "a", "audio_file_path": "b"}, "n")
        ),
        requests=lambda: 0,
    )
    assert expected == NOT_SENT


def test_a_name_that_resolves_too_late_sends_nothing(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    resolve, too_late = socket.getaddrinfo, threading.Event()

    def slowly(*where: Any, **how: Any) -> Any:
        too_late.wait(1.5 * HARDLY)
        return resolve(*where, **how)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with stand_in(accepts) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        assert posted(server, timeout=HARDLY) == NOT_SENT


def test_a_host_that_does_not_take_connections(pauses: list[float]) -> None:
    with ExitStack() as closing:
        server = StandIn(accepts, listening=False)
        closing.callback(server.server_close)
        server.socket.listen(0)
        # The kernel takes one connection for a server that never accepts, and lets the others wait.
        for _ in range(2):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.server_address)
        assert posted(server, timeout=HARDLY) == NOT_SENT


def test_a_certificate_that_is_not_trusted(tls: ssl.SSLContext, pauses: list[float]) -> None:
    with stand_in(accepts, tls=tls) as server:
        assert posted(server, verify=True) == NOT_SENT


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_that_the_connection_trusts_or_ignores(
    tls: ssl.SSLContext, pem: Path, trusted: bool
) -> None:
    with stand_in(accepts, tls=tls) as server:
        assert posted(server, verify=str(pem) if trusted else False) == Row("ok")


def test_a_server_that_does_not_speak_tls(emulator: Emulator, pauses: list[float]) -> None:
    ending = row(
        "sync",
        Settings(api_key="k", base_url=emulator.url.replace("http:", "https:"), verify=False),
        lambda client: client.submit(
            paid_call(INPUTS, {"image_file_path": "a", "audio_file_path": "b"}, "n")
        ),
        requests=lambda: len(emulator.requests()),
    )
    assert ending == NOT_SENT


def tunnelled(inside: Callable[[socket.socket], object], **more: Any) -> Row:
    """The row of a paid call through a proxy that lets it through to this."""

    def proxy(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        inside(connection)

    with stand_in(proxy) as server:
        return row(
            "sync",
            Settings(api_key="k", base_url="https://127.0.0.1:1", proxy=server.url, verify=False, **more),
            lambda client: client.submit(
                paid_call(INPUTS, {"image_file_path": "a", "audio_file_path": "b"}, "n")
            ),
            requests=lambda: server.requests,  # CONNECTs
        )


def test_an_answer_that_is_lost_behind_a_proxy(tls: ssl.SSLContext, pauses: list[float]) -> None:
    def take_it_and_go(connection: socket.socket) -> None:
        tunnel = tls.wrap_socket(connection, server_side=True)
        assert heard(tunnel).startswith(b"POST /v1/ai-talking-photo")
        tunnel.close()

    assert tunnelled(take_it_and_go) == uncertain()
    assert pauses == []


def test_a_host_behind_a_proxy_that_cannot_be_reached(pauses: list[float]) -> None:
    ending = tunnelled(lambda connection: connection.shutdown(socket.SHUT_RDWR))
    assert ending == Row("Unavailable", None, True, "no", requests=4)


def test_the_paid_call_goes_out_on_a_connection_of_its_own() -> None:
    """A kept-alive one that the server closes just then would look like a lost answer."""
    with stand_in(accepts) as server:

        def one_by_one(client: Any) -> None:
            client.account()
            client.submit(paid_call(INPUTS, {"image_file_path": "a", "audio_file_path": "b"}, "n"))

        through("sync", settings_for(server), one_by_one)
        assert (server.connections, server.requests) == (2, 2)


def test_the_key_is_in_no_error(submitted: Callable[..., Row]) -> None:
    with pytest.raises(SubmissionUncertain) as lost, stand_in(says("no http")) as server:
        through(
            "sync",
            settings_for(server),
            lambda client: client.submit(
                paid_call(INPUTS, {"image_file_path": "a", "audio_file_path": "b"}, "n")
            ),
        )
    error: BaseException | None = lost.value
    while error is not None:
        assert settings_for(server).api_key not in f"{error!r} {vars(error)}"
        error = error.__cause__ or error.__context__
