"""What both clients make of the outcome of an API call: one of our types, or one of our errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import httpx

from magichour_provider.api import wire
from magichour_provider.api.client.settings import Settings
from magichour_provider.api.integrity import ContentDecoder, IntegrityFailed
from magichour_provider.text import clean, host_of

T = TypeVar("T")

MAX_ANSWER_BYTES = 1 << 20  # the maximum size of an answer of the API; a job is about 1 kB


class Answers:
    """
    Reads the answers of API calls, and raises the errors of calls without an answer.

    :param proxy: URL of the proxy for the API, or None.
    """

    def __init__(self, settings: Settings, proxy: str | None) -> None:
        self._redact = settings.redact
        self._route = host_of(settings.base_url)
        if proxy:
            self._route += f" through the proxy {host_of(proxy)}"

    def answer(self, call: wire.Call[T], status: int, headers: Mapping[str, str], body: AnswerBody) -> T:
        """
        The answer as one of our types, or the error that it stands for.

        :raises RequestFailed: see ``wire.Call.answer``.
        :raises SubmissionUncertain: see ``wire.Call.answer``.
        """
        if body.problem and 200 <= status < 300:
            call.no_answer(f"HTTP {status}, but {body.problem}", status=status)
        return call.answer(status, headers, bytes(body.content), self._redact)

    def no_answer(self, call: wire.Call[Any], error: Exception, *, sent: bool, timed_out: bool) -> NoReturn:
        """
        Raise the error for a call that has no answer.

        :param sent: a byte of the call may have left this machine.
        :raises SubmissionUncertain: only if the call pays and may have been sent.
        :raises Unavailable: otherwise.
        """
        if timed_out:
            error = TimeoutError("no complete answer in time" if sent else "no connection in time")
            reason = str(error)
        else:
            reason = self._redact(describe_error(error))
        what = "no answer from" if sent else "could not be sent to"
        call.no_answer(f"{what} {self._route}: {reason}", sent=sent, cause=safe_cause(error))


class AnswerBody:
    """
    The body of an answer of the API, decoded, up to ``MAX_ANSWER_BYTES``.

    :ivar problem: why the content is not complete, or None.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.content = bytearray()
        self.problem: str | None = None
        try:
            self._decoder = ContentDecoder(headers)
        except IntegrityFailed as error:
            self.problem = str(error)

    def feed(self, chunk: bytes) -> bool:
        """
        Add a chunk from the socket.

        :returns: False if the client must stop reading.
        """
        try:
            for piece in () if self.problem else self._decoder.feed(chunk):
                self.content += piece
                if len(self.content) > MAX_ANSWER_BYTES:
                    self.problem = f"it is longer than {MAX_ANSWER_BYTES} bytes, which is the limit here"
                    break
        except IntegrityFailed as error:
            self.problem = str(error)
        return self.problem is None


def describe_error(error: Exception) -> str:
    """The class of an error and its text, for a message."""
    text = clean(str(safe_cause(error) or ""))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def safe_cause(error: Exception) -> Exception | None:
    """The error, or None for a protocol error: it quotes the peer's bytes, maybe a key or a signature."""
    return None if isinstance(error, httpx.ProtocolError) else error
