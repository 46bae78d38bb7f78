"""A server may answer anything: no secret is repeated, no memory is filled, no answer is misread."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import traceback
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from both import KEY, MODES, says, settings_for, stand_in, through

from magichour_provider.api.client import MagicHourClient, Settings
from magichour_provider.api.client.answers import MAX_ANSWER_BYTES
from magichour_provider.api.inputs import TalkingPhotoInputs
from magichour_provider.api.wire import paid_call
from magichour_provider.exceptions import InvalidConnection, MagicHourError, SubmissionUncertain, Unavailable

INPUTS = TalkingPhotoInputs(image_file_path="me.png", audio_file_path="hello.mp3", end_seconds=1)
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)


def submit(client: MagicHourClient) -> Any:
    return client.submit(paid_call(INPUTS, {"image_file_path": "a", "audio_file_path": "b"}, "n"))


# --- the key ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "answer",
    [
        f'HTTP/1.1 401 No\r\nContent-Type: application/json\r\n\r\n{{"message": "Invalid API key: {KEY}"}}',
        f'HTTP/1.1 401 No\r\n\r\n{{"message": "Invalid API key: {ESCAPED}"}}',
        f'HTTP/1.1 401 No\r\n\r\n{{"message": "Invalid API key: {json.dumps(ESCAPED)[1:-1]}"}}',
        f'HTTP/1.1 401 No\r\n\r\n{{"message": "Bearer {b64encode(KEY.encode()).decode()}"}}',
        f"HTTP/1.1 200 OK\r\nYour key is: bad header\r\n{KEY}\r\n\r\n",
        f"HTTP/1.1 {KEY}\r\n\r\n",
        f'HTTP/1.1 200 OK\r\n\r\n{{"status": "{KEY}"}}',
    ],
    ids=["message", "JSON escapes", "JSON escapes twice", "base64", "header", "status line", "body"],
)
def test_a_key_that_is_thrown_back_is_not_passed_on(
    mode: str, answer: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with stand_in(says(answer)) as server, pytest.raises(MagicHourError) as failed:
        through(mode, settings_for(server), lambda api: api.get("job-1"))
    shown = "".join(traceback.format_exception(failed.value)) + caplog.text
    for spelled in (KEY, ESCAPED, b64encode(KEY.encode()).decode()[:-4]):
        assert spelled not in shown


@pytest.mark.parametrize("mode", MODES)
def test_a_key_in_the_fields_of_a_job_is_not_passed_on(mode: str) -> None:
    body = {"id": "job-1", "status": "error", "name": KEY, "error": {"code": KEY, "message": f"with {KEY}"}}
    written = json.dumps(body).replace(KEY, ESCAPED)
    with stand_in(says(f"HTTP/1.1 200 OK\r\n\r\n{written}")) as server:
        job = through(mode, settings_for(server), lambda api: api.get("job-1"))
    with pytest.raises(MagicHourError) as failed:
        job.raise_unless_complete()
    assert KEY not in f"{job!r} {failed.value!r} {vars(failed.value)}"


# --- an answer without end ---


def endless(start: str, sent: list[int]) -> Callable[[socket.socket], None]:
    """Send 64 MB, unless the other side closes the connection."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(start.encode())
        for _ in range(1 << 10):
            connection.sendall(b" " * (1 << 16))
            sent.append(1 << 16)

    return answer


@pytest.mark.parametrize("framing", ["", "Content-Length: 99999999\r\n"])
def test_an_answer_without_end_is_not_read_to_the_end(framing: str, pauses: list[float]) -> None:
    sent: list[int] = []
    with stand_in(endless(f"HTTP/1.1 200 OK\r\n{framing}\r\n", sent)) as server:
        with pytest.raises(Unavailable, match=f"longer than {MAX_ANSWER_BYTES} bytes"):
            through("sync", settings_for(server), lambda api: api.get("job-1"))
        with pytest.raises(SubmissionUncertain, match=f"longer than {MAX_ANSWER_BYTES} bytes") as lost:
            through("sync", settings_for(server), submit)
    assert lost.value.status_code == 200
    assert sum(sent) < 5 * (16 << 20)  # 5 calls; the rest is in the buffers of the sockets


def test_an_answer_that_decodes_to_no_end_is_not_decoded_to_the_end() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"

    def answer(connection: socket.socket) -> None:
        connection.sendall(head.encode() + bomb)

    with stand_in(answer) as server, pytest.raises(SubmissionUncertain, match="longer than"):
        through("sync", settings_for(server), submit)


def test_an_answer_in_gzip_that_was_not_asked_for_is_read() -> None:
    body = gzip.compress(b'{"id": "job-1"}')
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    with stand_in(lambda connection: connection.sendall(head.encode() + body)) as server:
        assert through("sync", settings_for(server), submit).job_id == "job-1"


def test_an_answer_in_an_unknown_encoding_names_it() -> None:
    answer = "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"
    with stand_in(says(answer)) as server, pytest.raises(SubmissionUncertain, match="Content-Encoding 'br'"):
        through("sync", settings_for(server), submit)


def test_a_refusal_of_the_paid_call_counts_whatever_its_body_is() -> None:
    answer = "HTTP/1.1 422 No\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"
    with stand_in(says(answer)) as server, pytest.raises(MagicHourError) as failed:
        through("sync", settings_for(server), submit)
    assert (type(failed.value).__name__, failed.value.charged) == ("InvalidRequest", "no")


# --- addresses ---


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://api.example",
        "api.example",
        "http://",
        "http://a..b",
        f"http://{'a' * 64}.example",
        "http://user:secret@host:port",
        "http://\n",
    ],
)
def test_an_address_that_cannot_be_called_is_found_before_a_call(base_url: str) -> None:
    with pytest.raises(InvalidConnection, match="the base URL is not a usable") as failed:
        MagicHourClient(Settings(api_key=KEY, base_url=base_url, verify=False))
    assert "secret" not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize(
    "proxy", ["http://user:secret#x@host:3128", "http://user:se/cret@host:3128", "gopher://x"]
)
def test_a_proxy_that_cannot_be_used_is_found_before_a_call(proxy: str) -> None:
    with pytest.raises(InvalidConnection, match="the proxy cannot be used") as failed:
        MagicHourClient(Settings(api_key=KEY, base_url="http://api.example", proxy=proxy, verify=False))
    shown = "".join(traceback.format_exception(failed.value))
    assert "secret" not in shown
    assert "cret" not in shown


def test_a_host_that_is_not_found_is_named(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    caplog.set_level(logging.DEBUG)
    settings = Settings(api_key=KEY, base_url="http://api.example", verify=False)
    with pytest.raises(Unavailable, match=r"could not be sent to api\.example: ConnectError: .*not known"):
        through("sync", settings, submit)
    behind = Settings(
        api_key=KEY, base_url="http://api.example", proxy="http://me:secret@proxy.example:3128", verify=False
    )
    with pytest.raises(Unavailable, match=r"to api.example through the proxy proxy.example:3128: ") as failed:
        through("sync", behind, submit)
    assert "secret" not in "".join(traceback.format_exception(failed.value)) + caplog.text


def test_a_proxy_that_wants_a_password_is_named(pauses: list[float]) -> None:
    with stand_in(says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")) as proxy:
        settings = Settings(api_key=KEY, base_url="https://api.example", proxy=proxy.url, verify=False)
        with pytest.raises(
            Unavailable, match=r"through the proxy 127\.0\.0\.1:\d+: ProxyError: 407"
        ) as failed:
            through("sync", settings, submit)
    assert failed.value.charged == "no"


def test_a_proxy_that_hangs_up_has_sent_nothing(pauses: list[float]) -> None:
    with stand_in(says("")) as proxy:
        settings = Settings(api_key=KEY, base_url="https://api.example", proxy=proxy.url, verify=False)
        with pytest.raises(Unavailable, match="could not be sent") as failed:
            through("sync", settings, submit)
    assert not failed.value.sent
