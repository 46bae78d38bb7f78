"""The *Test* button: what works is told with tier and credits, and each thing that does not, apart."""

from __future__ import annotations

import json
import re
import socket
import ssl
from contextlib import ExitStack
from typing import Any

import pytest
from both import KEY, StandIn, accepts, drips, says, stand_in

from magichour_provider.emulator import Emulator
from magichour_provider.hooks import MAX_TEST_SECONDS, MagicHourHook

Told = tuple[bool, str]
NOBODY = "http://nobody-has-this-name.invalid"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def press(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Press *Test* on a connection: its host, and its extras. The key is never in what comes back."""

    def test(host: str, password: str = KEY, **extra: Any) -> Told:
        written = {
            "conn_type": "magichour",
            "host": host,
            "password": password,
            # No CA certificates are loaded, which would take longer than most of these tests.
            "extra": {"verify": False, **extra},
        }
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(written))
        works, told = MagicHourHook("other").test_connection()
        assert password not in told
        return works, told

    return test


def answer(status: str, body: str, kind: str = "application/json") -> Any:
    return says(
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Location: https://elsewhere.example/\r\n\r\n{body}"
    )


def test_it_tells_tier_and_credits_and_spends_nothing(stub: Emulator, press: Any) -> None:
    assert press(stub.url) == (
        True,
        f"It works. Account tier: business; credits left: {stub.credits}. "
        "Not the real Magic Hour, but 127.0.0.1.",
    )
    assert [(seen["method"], seen["path"]) for seen in stub.requests()] == [("GET", "/v1/account")]
    assert stub.charges() == 0


def test_what_the_account_does_not_say_is_not_made_up(press: Any) -> None:
    with stand_in(answer("200 OK", '{"id": "a"}')) as server:
        works, told = press(server.url)
    assert works
    assert "tier: not known; credits left: not known" in told


def test_no_key(stub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow tests a copy, under an id of its own that nobody knows.
    monkeypatch.setenv("AIRFLOW_CONN_EXODPYTO", json.dumps({"conn_type": "magichour", "host": stub.url}))
    works, told = MagicHourHook("EXoDpYTo").test_connection()
    assert not works
    assert told.startswith("InvalidConnection: password=None: contains no API key")


def test_a_wrong_key(stub: Emulator, press: Any) -> None:
    works, told = press(stub.url, password="mhk_of_somebody_else")
    assert not works
    assert told.startswith("Wrong key: Magic Hour does not accept it. Copy it into API key again. (Unauth")


WRONG_HOST = "Wrong host: 127.0.0.1:{port} is not Magic Hour's API. Check Base URL"
PROXY = "The proxy wants a user and a password. Put them into Proxy"
PAGE = "Web page: 127.0.0.1:{port} returned a web page instead of an API response. It is from a proxy"
HTML = "<!DOCTYPE html><html><body>Log in to our network</body></html>"


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        ("404 Not Found", '{"detail": "Not Found"}', "application/json", WRONG_HOST),
        ("404 Not Found", '{"message": "no Route matched"}', "application/json", WRONG_HOST),
        ("401 Unauthorized", '{"detail": "Not authenticated"}', "application/json", WRONG_HOST),
        ("200 OK", '{"metadatabase": {"status": "healthy"}}', "application/json", WRONG_HOST),
        ("200 OK", "pong", "text/plain", WRONG_HOST),
        ("200 OK", HTML, "text/html", PAGE),
        ("404 Not Found", HTML, "text/html", PAGE),
        ("407 Proxy Authentication Required", HTML, "text/html", PROXY),
        ("403 Forbidden", HTML, "text/html", PAGE),
        ("502 Bad Gateway", HTML, "text/html", PAGE),
        ("302 Found", HTML, "text/html", "127.0.0.1:{port} redirects the call. Base URL must be"),
        (
            "500 Oops",
            '{"message": "try later"}',
            "application/json",
            "127.0.0.1:{port} answers, but reports an err",
        ),
        ("429 Slow", '{"message": "slow down"}', "application/json", "Too many requests. Try again"),
        (
            "403 No",
            '{"message": "account closed"}',
            "application/json",
            "Magic Hour knows the key, but refuses it.",
        ),
    ],
)
def test_what_is_not_the_api_or_not_well(press: Any, status: str, body: str, kind: str, words: str) -> None:
    with stand_in(answer(status, body, kind)) as server:
        works, told = press(server.url)
    assert not works
    assert told.startswith(words.format(port=server.server_address[1]))
    assert f"HTTP {status[:3]}" in told
    assert server.requests == 1  # whoever presses the button presses it again


def test_a_name_that_is_not_known(press: Any) -> None:
    works, told = press(NOBODY)
    assert not works
    assert re.match(r"Unknown name: nobody-has-this-name\.invalid has no address here\. Check Base URL", told)
    assert "network and DNS" in told


def test_nothing_listens(press: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        works, told = press(f"http://127.0.0.1:{port}")
    assert not works
    assert told.startswith(f"Refused: nothing listens at 127.0.0.1:{port}. Check host and port in Base URL")


def test_a_connection_that_is_swallowed(press: Any) -> None:
    with ExitStack() as closing:
        server = StandIn(accepts, listening=False)
        closing.callback(server.server_close)
        server.socket.listen(0)
        # The kernel takes one connection for a server that never accepts, and lets the others wait.
        for _ in range(2):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.server_address)
        works, told = press(server.url, timeout=0.2)
    assert not works
    assert told.startswith(f"No connection to 127.0.0.1:{server.server_address[1]} within 0.2 s")


@pytest.mark.parametrize(
    "start", ["", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"], ids=["head", "body"]
)
def test_an_answer_that_does_not_come(press: Any, start: str) -> None:
    with stand_in(drips(start, "")) as server:
        works, told = press(server.url, timeout=0.2)
    assert not works
    assert re.match(r"No answer: 127\.0\.0\.1:\d+ accepted the call, and did not answer within 0\.2 s", told)


def test_a_server_that_hangs_up(press: Any) -> None:
    with stand_in(says("")) as server:
        works, told = press(server.url)
    assert not works
    assert re.match(r"No answer: 127\.0\.0\.1:\d+ accepted the call, and closed the connection\.", told)


def test_a_person_does_not_wait_a_minute(stub: Emulator, press: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magichour_provider.hooks.MAX_TEST_SECONDS", 0.2)
    assert MAX_TEST_SECONDS <= 15
    with stand_in(drips("", "")) as server:
        assert "within 0.2 s" in press(server.url, timeout=60)[1]


def test_a_certificate_that_is_not_trusted(press: Any, tls: ssl.SSLContext) -> None:
    with stand_in(accepts, tls=tls) as server:
        works, told = press(server.url, verify=True)
    assert not works
    assert told.startswith("Certificate not trusted: ")
    assert "its CA bundle into Verify TLS" in told


def test_https_where_only_http_is_spoken(stub: Emulator, press: Any) -> None:
    works, told = press(stub.url.replace("http:", "https:"))
    assert not works
    assert told.startswith(f"No TLS at {stub.url.removeprefix('http://')}. Check scheme and port in Base URL")


# --- through a proxy ---


@pytest.fixture(params=["connection", "environment"])
def by_proxy(request: pytest.FixtureRequest, press: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Press *Test* on Magic Hour's own address with a proxy: the connection's, or the environment's."""

    def test(proxy: str) -> Told:
        host = "https://api.magichour.invalid"
        if request.param == "connection":
            told = press(host, proxy=proxy)
            field = "Proxy"
        else:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            told = press(host)
            field = "the environment's proxy variables"
        assert f"Check {field}" in told[1] or f"in {field}" in told[1]
        assert "secret" not in told[1]
        return bool(told[0]), str(told[1])

    return test


def test_a_proxy_that_wants_a_password(by_proxy: Any) -> None:
    with stand_in(answer("407 Proxy Authentication Required", HTML, "text/html")) as proxy:
        works, told = by_proxy(proxy.url.replace("://", "://user:secret@"))
    assert not works
    assert told.startswith(f"The proxy at 127.0.0.1:{proxy.server_address[1]} does not let the call through.")
    assert "407" in told


def test_a_proxy_that_is_not_there(by_proxy: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        works, told = by_proxy(f"http://user:secret@127.0.0.1:{port}")
    assert not works
    assert told.startswith(f"Refused: nothing listens at 127.0.0.1:{port}.")


def test_a_proxy_whose_name_is_not_known(by_proxy: Any) -> None:
    works, told = by_proxy(f"{NOBODY}:3128")
    assert not works
    assert told.startswith("Unknown name: nobody-has-this-name.invalid")
