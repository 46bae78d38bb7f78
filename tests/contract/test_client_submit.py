"""Every ending of the paid call, through the blocking client: was a job made, and what is the caller told?"""

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
from both import BLOCKING, DRIPS, Row, StandIn, accepts, drips, row, says, settings_for, stand_in, through

from magichour_provider.api.client import Settings
from magichour_provider.api.inputs import TalkingPhotoInputs
from magichour_provider.api.wire import create_talking_photo
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
    return {"image": emulator.put_asset(b"photo", "png"), "audio": emulator.put_asset(b"voice", "wav")}


@pytest.fixture
def submitted(emulator: Emulator, assets: dict[str, str]) -> Iterator[Callable[..., Row]]:
    """The row of one submission under a fault."""

    def submit(mode: str, fault: dict[str, Any] | None = None, *, timeout: float = 20) -> Row:
        name = next(NAMES)
        if fault:
            emulator.fault("create", **({"name": name} | fault))
        return row(
            mode,
            settings_for(emulator, timeout=timeout),
            lambda client: client.submit(create_talking_photo(INPUTS, **assets, name=name)),
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
    413: "InvalidRequest",
    415: "InvalidRequest",
    422: "InvalidRequest",
}
NOT_KNOWN = (301, 408, 409, 418, 499, 500, 501, 504, 520, 599)
VENDOR, HTML, EMPTY = {}, {"html": True}, {"body": ""}
BODIES = [VENDOR, HTML, EMPTY]

ANSWERS: list[tuple[dict[str, Any], Row]] = [
    ({}, Row("ok", charges=1)),
    *(
        ({"status": status, **body}, Row(kind, status, False, "no"))
        for status, kind in NO_JOB.items()
        for body in BODIES
    ),
    *(({"status": status, **body}, uncertain(status)) for status in NOT_KNOWN for body in BODIES),
    *(({"status": status}, Row("Unavailable", status, True, "no")) for status in (502, 503)),
    *(({"status": status, **body}, uncertain(status)) for status in (502, 503) for body in (HTML, EMPTY)),
    *(
        ({"status": 429, "times": None, **body}, Row("RateLimited", 429, True, "no", requests=4))
        for body in BODIES
    ),
    ({"status": 429}, Row("ok", charges=1, requests=2)),
    ({"status": 429, "headers": {"Retry-After": "9"}}, Row("ok", charges=1, requests=2)),
    ({"status": 429, "headers": {"Retry-After": "3600"}}, Row("RateLimited", 429, True, "no")),
    ({"status": 429, "times": 3}, Row("ok", charges=1, requests=4)),
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


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(("fault", "expected"), ANSWERS, ids=brief)
def test_an_answer_to_the_paid_call(
    submitted: Callable[..., Row], pauses: list[float], fault: dict[str, Any], expected: Row, mode: str
) -> None:
    assert submitted(mode, fault) == expected


@pytest.mark.parametrize("mode", BLOCKING)
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
    submitted: Callable[..., Row], fault: dict[str, Any], expected: Row, mode: str
) -> None:
    assert submitted(mode, fault, timeout=SHORT) == expected


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_pause_that_the_vendor_asks_for_is_kept(
    submitted: Callable[..., Row], pauses: list[float], mode: str
) -> None:
    submitted(mode, {"status": 429, "headers": {"Retry-After": "9"}})
    assert pauses == [9]


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(("said", "least"), [("3600", 3600), ("Wed, 21 Oct 2099 07:28:00 GMT", 1e9)])
def test_a_pause_that_is_too_long_is_left_to_the_caller(
    emulator: Emulator, assets: dict[str, str], pauses: list[float], said: str, least: float, mode: str
) -> None:
    emulator.fault("create", status=429, headers={"Retry-After": said})
    with pytest.raises(RateLimited) as limited:
        through(
            mode,
            settings_for(emulator),
            lambda api: api.submit(create_talking_photo(INPUTS, **assets, name="n")),
        )
    assert limited.value.retry_after is not None
    assert limited.value.retry_after >= least
    assert pauses == []


@pytest.mark.parametrize("mode", BLOCKING)
def test_the_vendors_reason_reaches_the_caller(emulator: Emulator, assets: dict[str, str], mode: str) -> None:
    emulator.fault("create", status=422, body={"message": "end_seconds is beyond the audio"})
    with pytest.raises(Exception, match="end_seconds is beyond the audio"):
        through(
            mode,
            settings_for(emulator),
            lambda api: api.submit(create_talking_photo(INPUTS, **assets, name="n")),
        )


# --- what a network does ---


def posted(mode: str, server: StandIn, **settings: Any) -> Row:
    return row(
        mode,
        settings_for(server, **settings),
        lambda client: client.submit(
            create_talking_photo(INPUTS, image="api-assets/1", audio="api-assets/2", name="n")
        ),
        requests=lambda: server.requests,
    )


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda connection: connection.shutdown(socket.SHUT_RDWR), uncertain()),
        (says("220 mail.example ESMTP\r\n"), uncertain()),
        (says('HTTP/1.1 200 OK\r\n\r\n{"id": "job'), uncertain(200)),
        (says('HTTP/1.1 200 OK\r\n\r\n{"id": "job-1"}'), Row("ok")),
        (says('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id": "job-1"}'), uncertain()),
        (says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"), uncertain()),
        (says("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"), uncertain()),
        (says('HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{"id": "job-1"}'), Row("ok")),
        (says("HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n"), uncertain(307)),
        (accepts, Row("ok")),
    ],
)
def test_what_comes_back_is_not_always_an_answer(
    answer: Callable[[socket.socket], object], expected: Row, mode: str
) -> None:
    with stand_in(answer) as server:
        assert posted(mode, server) == expected


OK, BODY = "HTTP/1.1 200 OK\r\n", '{"id": "job-1", "x": "'
DRIPPING = {
    "status": ("HTTP/1.1 200 O", f'\r\n\r\n{BODY}"}}'),
    "headers": (f"{OK}X-Slow: ", f'\r\n\r\n{BODY}"}}'),
    "body": (f"{OK}Content-Length: {len(BODY) + DRIPS + 2}\r\n\r\n{BODY}", '"}'),
    "body without length": (f"{OK}\r\n{BODY}", '"}'),
}


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize("part", DRIPPING)
def test_an_answer_that_drips_is_not_waited_for(part: str, mode: str) -> None:
    with stand_in(drips(*DRIPPING[part])) as server:
        ending = posted(mode, server, timeout=SHORT)
    assert (ending.ending, ending.charged, ending.requests) == ("SubmissionUncertain", "unknown", 1)


@pytest.mark.parametrize("mode", BLOCKING)
def test_an_answer_that_drips_through_tls_is_not_waited_for(
    mode: str, tls: ssl.SSLContext, pem: Path
) -> None:
    with stand_in(drips(*DRIPPING["headers"]), tls=tls) as server:
        assert posted(mode, server, timeout=SHORT, verify=str(pem)) == uncertain()


@pytest.mark.parametrize("mode", BLOCKING)
def test_nobody_listens(mode: str, pauses: list[float]) -> None:
    with ExitStack() as closing:
        server = StandIn(accepts, listening=False)
        closing.callback(server.server_close)
        assert posted(mode, server) == NOT_SENT
    assert len(pauses) == 4  # attempts


@pytest.mark.parametrize("mode", BLOCKING)
def test_nobody_listens_at_first(mode: str, pauses: Any) -> None:
    server = StandIn(accepts, listening=False)
    pauses.on_pause = server.listen
    try:
        assert posted(mode, server) == Row("ok", requests=1)
    finally:
        server.shutdown()
        server.server_close()
    assert len(pauses) == 1


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_name_that_does_not_resolve(
    mode: str, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    settings = Settings(api_key="k", base_url="http://api.example")
    expected = row(
        mode,
        settings,
        lambda client: client.submit(create_talking_photo(INPUTS, image="a", audio="b", name="n")),
        requests=lambda: 0,
    )
    assert expected == NOT_SENT


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_name_that_resolves_too_late_sends_nothing(
    mode: str, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    resolve, too_late = socket.getaddrinfo, threading.Event()

    def slowly(*where: Any, **how: Any) -> Any:
        too_late.wait(1.5 * HARDLY)
        return resolve(*where, **how)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with stand_in(accepts) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        assert posted(mode, server, timeout=HARDLY) == NOT_SENT


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_host_that_does_not_take_connections(mode: str, pauses: list[float]) -> None:
    with ExitStack() as closing:
        server = StandIn(accepts, listening=False)
        closing.callback(server.server_close)
        server.socket.listen(0)
        # The kernel takes one connection for a server that never accepts, and lets the others wait.
        for _ in range(2):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.server_address)
        assert posted(mode, server, timeout=HARDLY) == NOT_SENT


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_certificate_that_is_not_trusted(mode: str, tls: ssl.SSLContext, pauses: list[float]) -> None:
    with stand_in(accepts, tls=tls) as server:
        assert posted(mode, server, verify=True) == NOT_SENT


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_that_the_connection_trusts_or_ignores(
    mode: str, tls: ssl.SSLContext, pem: Path, trusted: bool
) -> None:
    with stand_in(accepts, tls=tls) as server:
        assert posted(mode, server, verify=str(pem) if trusted else False) == Row("ok")


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_server_that_does_not_speak_tls(mode: str, emulator: Emulator, pauses: list[float]) -> None:
    ending = row(
        mode,
        Settings(api_key="k", base_url=emulator.url.replace("http:", "https:"), verify=False),
        lambda client: client.submit(create_talking_photo(INPUTS, image="a", audio="b", name="n")),
        requests=lambda: len(emulator.requests()),
    )
    assert ending == NOT_SENT


@pytest.mark.parametrize("mode", BLOCKING)
def test_the_paid_call_goes_out_on_a_connection_of_its_own(mode: str) -> None:
    """A kept-alive one that the server closes just then would look like a lost answer."""
    with stand_in(accepts) as server:

        async def in_order(client: Any) -> None:
            await client.account()
            await client.submit(create_talking_photo(INPUTS, image="a", audio="b", name="n"))

        def one_by_one(client: Any) -> None:
            client.account()
            client.submit(create_talking_photo(INPUTS, image="a", audio="b", name="n"))

        through(mode, settings_for(server), one_by_one if mode == "sync" else in_order)
        assert (server.connections, server.requests) == (2, 2)


@pytest.mark.parametrize("mode", BLOCKING)
def test_the_key_is_in_no_error(mode: str, submitted: Callable[..., Row]) -> None:
    with pytest.raises(SubmissionUncertain) as lost, stand_in(says("no http")) as server:
        through(
            mode,
            settings_for(server),
            lambda client: client.submit(create_talking_photo(INPUTS, image="a", audio="b", name="n")),
        )
    error: BaseException | None = lost.value
    while error is not None:
        assert settings_for(server).api_key not in f"{error!r} {vars(error)}"
        error = error.__cause__ or error.__context__
