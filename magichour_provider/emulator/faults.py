"""
Faults: rules that make the emulator fail on purpose.

A rule matches the requests of a call; with ``name``, only requests for jobs whose name contains it. It lets
some requests pass, and then changes a number of them. The options say whether the call is still executed.
With ``effect=True`` or ``reset="after"`` it is executed and charged, but the client does not get the true
response.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
import socket
import struct
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

from aiohttp import web

from .exceptions import StorageError
from .storage_host import ResultResponse, xml_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLS = (
    "create",
    "get_video",
    "delete_video",
    "upload_urls",
    "put",
    "download",
    "account",
    "create_voice",
    "get_audio",
    "delete_audio",
    "create_tool",
    "get_image",
    "delete_image",
)
STORAGE_CALLS = ("put", "download")
SLOW_STEPS = 20
# Spaces after JSON are valid, so a client can notice only the size.
FILLER = b" " * (1 << 16)
# The rule that applies to the current request.
RULE: ContextVar[FaultRule | None] = ContextVar("RULE")
NOT_NEGATIVE = ("hang", "slow", "truncate", "cut", "times", "skip")
# In a rule's body, an object with this key stands for a part of the true response.
ANSWER = "$answer"
STANDARD_STATUSES = {int(status) for status in HTTPStatus}

# The vendor's messages.
MESSAGES = {
    400: "Invalid request",
    402: "Payment required",
    429: "Too many requests",
    500: "Internal server error",
}
S3_ERRORS = {
    307: ("TemporaryRedirect", "Please re-send this request to the specified temporary endpoint."),
    403: ("AccessDenied", "Request has expired"),
    404: ("NoSuchKey", "The specified key does not exist."),
    429: ("SlowDown", "Please reduce your request rate."),
    503: ("SlowDown", "Please reduce your request rate."),
}
GATEWAY_PAGE = (
    "<html>\r\n<head><title>{status} {message}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {message}</h1></center>\r\n<hr><center>cloudflare</center>\r\n"
    "</body>\r\n</html>\r\n"
)


class FaultOptions(TypedDict, total=False):
    """The options of ``Emulator.fault``, which describes them. They are the same as in :class:`FaultRule`."""

    status: int | None
    body: Any
    headers: dict[str, str]
    html: bool
    effect: bool
    reset: Literal["before", "after"] | None
    hang: float | None
    slow: float | None
    truncate: int | None
    cut: int | None
    gzip: bool
    endless: bool
    ends: str | None
    job_id: str | int | None
    times: int | None
    skip: int
    name: str | None


@dataclass
class FaultRule:
    """
    A rule with its options, which ``Emulator.fault`` describes.

    :param seen: the number of requests that matched.
    :param hits: the number of requests that the rule has changed.
    """

    id: str
    call: str
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    reset: str | None = None
    hang: float | None = None
    slow: float | None = None
    truncate: int | None = None
    cut: int | None = None
    gzip: bool = False
    endless: bool = False
    html: bool = False
    effect: bool = False
    ends: str | None = None
    job_id: str | int | None = None
    times: int | None = 1
    skip: int = 0
    name: str | None = None
    seen: int = 0
    hits: int = 0

    def match_and_count(self, call: str, names: list[str]) -> bool:
        """Count a request if it matches. Return whether the rule applies to it."""
        if self.call not in (call, "*"):
            return False
        if self.name is not None and not any(self.name in name for name in names):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    @property
    def replaces_response(self) -> bool:
        return self.status is not None or self.body is not None or self.html

    @property
    def executes_call(self) -> bool:
        """Whether the call is executed, even if the client does not get its response."""
        return (
            self.effect
            or self.reset == "after"
            or not self.replaces_response
            or refers_to_response(self.body)
        )

    @property
    def changes_transfer(self) -> bool:
        """Whether the rule changes how the body is sent."""
        amounts = (self.truncate, self.cut, self.slow)
        return self.gzip or self.endless or any(amount is not None for amount in amounts)


OPTIONS = {
    name: hint for name, hint in get_type_hints(FaultRule).items() if name not in ("id", "seen", "hits")
}


class Faults:
    """The rules, oldest first. A request gets the first rule that applies to it."""

    def __init__(self) -> None:
        self.rules: dict[str, FaultRule] = {}
        self._ids = itertools.count(1)

    def add(self, options: Any) -> FaultRule:
        """Check the options of a rule, and add it."""
        if not isinstance(options, dict):
            raise TypeError("a fault must be a JSON object with a call")
        for name, value in options.items():
            if name not in OPTIONS:
                raise ValueError(f"{name} is not an option of a fault: choose {', '.join(OPTIONS)}")
            if value is not None and not has_type(value, OPTIONS[name]):
                raise ValueError(f"{name} is {value!r}, which has the wrong type")
            if name in NOT_NEGATIVE and value is not None and not value >= 0:
                raise ValueError(f"{name} is {value!r}: choose a number that is not negative")
        if options.get("call") not in (*CALLS, "*"):
            raise ValueError(f"call is {options.get('call')!r}: choose {', '.join(CALLS)} or *")
        if options.get("status") is not None and not 200 <= options["status"] <= 599:
            raise ValueError(f"status is {options['status']}: choose 200 to 599")
        for name, value in (options.get("headers") or {}).items():
            if set("\r\n\0") & set(f"{name}{value}"):
                raise ValueError(f"the header {name!r} contains a line break or a null character")
        if options.get("reset") not in (None, "before", "after"):
            raise ValueError(f"reset is {options['reset']!r}: choose before or after")
        ends = options.get("ends")
        if ends is not None and ends not in ("canceled", "deleted") and not re.match("error:.", ends):
            raise ValueError(f"ends is {ends!r}: choose error:<code>, canceled or deleted")
        options = {name: value for name, value in options.items() if value is not None or name == "times"}
        rule = FaultRule(id=str(next(self._ids)), **options)
        self.rules[rule.id] = rule
        return rule

    def pick(self, call: str, names: list[str]) -> FaultRule | None:
        """Return the rule for this request, if one applies to it."""
        return next((rule for rule in self.rules.values() if rule.match_and_count(call, names)), None)


def has_type(value: object, hint: Any) -> bool:
    """Whether a value from JSON has the type of a hint. An int is a float too, but a bool is not an int."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    types = {get_origin(part) or part for part in parts}
    return Any in types or type(value) in types or (float in types and type(value) is int)


async def apply_fault(
    rule: FaultRule,
    request: web.Request,
    call: str,
    execute: Callable[[], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """
    Respond to a request as a rule says.

    :param execute: executes the call, and returns the true response.
    """
    if rule.reset == "before":
        return reset(request)
    if rule.hang is not None and not rule.effect:
        await asyncio.sleep(rule.hang)
        # Do not execute the call if the client has disconnected.
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=499)
    true_response = await execute() if rule.executes_call else None
    if rule.reset == "after":
        return reset(request)
    if rule.hang is not None and rule.effect:
        await asyncio.sleep(rule.hang)
    if rule.replaces_response or true_response is None:
        response: web.StreamResponse = await false_response(rule, call, true_response)
    else:
        response = true_response
    for name, value in rule.headers.items():
        response.headers[name] = str(value).replace("{path}", request.path_qs)
    return await transfer(rule, request, response) if rule.changes_transfer else response


async def false_response(
    rule: FaultRule, call: str, true_response: web.StreamResponse | None
) -> web.Response:
    """Create the response that replaces the true one."""
    body = rule.body
    status = rule.status or (502 if rule.html else 200)
    if true_response is not None and refers_to_response(body):
        status = rule.status or true_response.status
        body = fill_in(body, await json_of(true_response))
    phrase = HTTPStatus(status).phrase if status in STANDARD_STATUSES else "Error"
    message = MESSAGES.get(status) or phrase
    if rule.html:
        page = GATEWAY_PAGE.format(status=status, message=message)
        return web.Response(status=status, text=page, content_type="text/html")
    if isinstance(body, str):
        return web.Response(status=status, text=body, content_type="text/plain")
    if body is not None:
        return web.json_response(body, status=status)
    if status == 204:
        return web.Response(status=204)
    if call in STORAGE_CALLS:
        code, message = S3_ERRORS.get(status, ("InternalError", "We encountered an internal error."))
        return xml_error(StorageError(status, code, message))
    return web.json_response({"message": message}, status=status)


def refers_to_response(body: Any) -> bool:
    """Whether a part of a rule's body stands for a part of the true response."""
    if isinstance(body, dict):
        return ANSWER in body or any(refers_to_response(value) for value in body.values())
    return isinstance(body, list) and any(refers_to_response(value) for value in body)


def fill_in(body: Any, response: Any) -> Any:
    """
    Return a rule's body, with parts of the true response filled in.

    ``{"$answer": "/downloads/0"}`` stands for the part at that JSON pointer (RFC 6901). If the part does not
    exist, it is null. The other members of such an object replace members of the part.
    """
    if isinstance(body, list):
        return [fill_in(value, response) for value in body]
    if not isinstance(body, dict):
        return body
    members = {name: fill_in(value, response) for name, value in body.items() if name != ANSWER}
    if ANSWER not in body:
        return members
    part = response
    for step in str(body[ANSWER]).split("/")[1:]:
        try:
            part = part[int(step)] if isinstance(part, list) else part[step]
        except (LookupError, TypeError, ValueError):
            part = None
    return part | members if isinstance(part, dict) else part


def reset(request: web.Request) -> web.Response:
    """Close the connection with a TCP reset, without a response."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    # This is never sent. Its status tells record_response() that there is no response.
    return web.Response(status=499)


async def transfer(rule: FaultRule, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send a response compressed, truncated, slowly or without end."""
    content = await content_of(response)
    sent = web.StreamResponse(status=response.status, headers=response.headers)
    if rule.gzip:
        content = gzip.compress(content)
        sent.headers["Content-Encoding"] = "gzip"
    content = content[: rule.truncate]
    sent.content_length = None if rule.endless else len(content)
    if rule.cut is not None:
        content = content[: rule.cut]
        sent.force_close()
    await sent.prepare(request)
    step = max(1, -(-len(content) // SLOW_STEPS))
    for start in range(0, len(content), step):
        await asyncio.sleep((rule.slow or 0) / SLOW_STEPS)
        await sent.write(content[start : start + step])
    while rule.endless:
        # This raises ConnectionError when the client closes the connection.
        await sent.write(FILLER)
    if rule.cut is not None and request.transport is not None:
        # close() sends the rest of the buffer first, so the client receives every byte that was written.
        request.transport.close()
        return sent
    await sent.write_eof()
    return sent


async def content_of(response: web.StreamResponse) -> bytes:
    if isinstance(response, ResultResponse):
        return await asyncio.to_thread(response.source.read_bytes)
    body = response.body if isinstance(response, web.Response) else None
    return bytes(body) if isinstance(body, bytes | bytearray) else b""


async def json_of(response: web.StreamResponse) -> Any:
    try:
        return json.loads(await content_of(response))
    except ValueError:
        return None
