"""The HTTP side: the vendor's routes, and what happens to every request on its way to them."""

from __future__ import annotations

import hmac
import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web

from . import tools, validation
from .admin import add_admin
from .emulation import Emulation
from .exceptions import ApiError, StorageError
from .faults import RULE, apply_fault
from .storage_host import PREFIX, base_url_of, error_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .models import Job, JobType

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

EMULATION = web.AppKey("emulation", Emulation)
MAX_JSON_BYTES = 1 << 20
# The record of a longer request has its length, but not its JSON.
MAX_RECORDED_BYTES = 1 << 14
# The record of the request that is being answered.
RECORD: ContextVar[dict[str, Any] | None] = ContextVar("RECORD")


def make_app(emulation: Emulation) -> web.Application:
    """The emulator as an aiohttp application."""
    app = web.Application(middlewares=[handle_request], client_max_size=MAX_JSON_BYTES)
    app[EMULATION] = emulation
    for method, path, _, handler in ROUTES:
        app.router.add_route(method, path, handler)
    for path in validation.NOT_EMULATED:
        app.router.add_route("*", path, not_emulated)
    add_admin(app, emulation)
    app.on_response_prepare.append(record_answer)
    return app


@web.middleware
async def handle_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Record a request, apply a fault, answer, and turn refusals into the vendor's errors."""
    emulation = request.app[EMULATION]
    resource = request.match_info.route.resource
    call = CALL_OF.get((request.method, resource.canonical if resource else ""))
    RECORD.set(None)
    if request.path == "/" or request.path.startswith("/_emulator/"):
        return await handler(request)

    record: dict[str, Any] = {
        "call": call,
        "method": request.method,
        "path": request.path,
        "query": dict(request.query),
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "json": None,
        "status": 0,
        "bytes": request.content_length or 0,
    }
    RECORD.set(record)
    emulation.requests.append(record)
    emulation.calls[str(call)] += 1

    async def act() -> web.StreamResponse:
        try:
            known = request.match_info.http_exception is None
            if known and not request.path.startswith(PREFIX):
                check_key(request, emulation)
            return await handler(request)
        except ApiError as refused:
            return refusal(refused.status, refused.message)
        except StorageError as refused:
            return error_response(refused)
        except web.HTTPMethodNotAllowed as error:
            allow = {"Allow": ", ".join(sorted(error.allowed_methods))}
            return refusal(405, "Method Not Allowed", allow)
        except web.HTTPNotFound:
            return refusal(404, "Not Found")

    if call is None:
        return await act()
    try:
        names = await names_of(request, emulation, record)
        rule = emulation.faults.pick(call, names)
        RULE.set(rule)
        return await (apply_fault(rule, request, call, act) if rule else act())
    except web.HTTPRequestEntityTooLarge:
        return refusal(413, f"The request body is larger than {MAX_JSON_BYTES} bytes")
    except web.RequestPayloadError:
        # It is not known where the next request on this connection would begin.
        close = {"Connection": "close"}
        return refusal(400, "The request body is not encoded as its headers say", close)
    except ConnectionError:
        # The client has closed the connection: nobody reads this answer.
        return web.Response(status=499)


async def names_of(request: web.Request, emulation: Emulation, record: dict[str, Any]) -> list[str]:
    """What a fault's ``name`` is compared with: the name of the job or the tool, or the path of an upload."""
    if request.method == "POST":
        content = await request.read()
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return []
        if len(content) <= MAX_RECORDED_BYTES:
            record["json"] = body
        name = body.get("name") if isinstance(body, dict) else None
        # Of any other tool, the tool's name counts too: not every tool takes a name for the job.
        tool = [request.path.removeprefix("/v1/")] if record["call"] == "create_tool" else []
        return [name, *tool] if isinstance(name, str) else tool
    path = request.match_info.get("name", "")
    job_id = request.match_info.get("id") or unquote(path.partition("/")[0])
    job = emulation.jobs.all.get(job_id)
    return [job.name] if job else [path]


async def record_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Complete the record just before the answer is sent."""
    record = RECORD.get()
    if record is not None and response.status != 499:
        record["status"] = response.status
        if record["call"] == "download":
            record["bytes"] = response.content_length or 0


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"message": message}, status=status, headers=headers)


def check_key(request: web.Request, emulation: Emulation) -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    expected = emulation.settings.api_key.encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        key.strip().encode("utf-8", "surrogateescape"), expected
    ):
        raise ApiError(401, "Unauthorized")


async def create(request: web.Request) -> web.Response:
    emulation = request.app[EMULATION]
    body = validation.parse(await request.read())
    checked = validation.check_talking_photo(body, emulation.settings.tier)
    job = emulation.submit_talking_photo(checked, body, RULE.get())
    # The vendor has deprecated estimated_frame_cost, but its own SDK requires it.
    return accepted(request, job, estimated_frame_cost=job.credits_charged)


async def create_voice(request: web.Request) -> web.Response:
    emulation = request.app[EMULATION]
    body = validation.parse(await request.read())
    return accepted(request, emulation.submit_voice(validation.check_voice(body), body, RULE.get()))


async def create_tool(request: web.Request) -> web.Response:
    emulation = request.app[EMULATION]
    body = validation.parse(await request.read())
    checked = tools.check_tool(request.path.removeprefix("/v1/"), body)
    job = emulation.submit_tool(checked, body, RULE.get())
    # The vendor has deprecated both, but its own SDK requires one of them for a video or an image.
    cost = {"video": "estimated_frame_cost", "image": "frame_cost"}.get(job.job_type)
    return accepted(request, job, **({cost: job.credits_charged} if cost else {}))


def accepted(request: web.Request, job: Job, **more: Any) -> web.Response:
    """The answer to a paid call. Its ``Retry-After`` says that jobs end sooner here than at the vendor."""
    realistic = request.app[EMULATION].jobs.progression.mode == "realistic"
    return web.json_response(
        {"id": job.shown_id, "credits_charged": job.credits_charged} | more,
        headers={} if realistic else {"Retry-After": "1"},
    )


async def upload_urls(request: web.Request) -> web.Response:
    emulation = request.app[EMULATION]
    items = []
    for _, extension in validation.check_upload_urls(validation.parse(await request.read())):
        file_path = emulation.storage.new_upload(extension)
        url, expires_at = emulation.storage.sign(base_url_of(request), "PUT", file_path)
        items.append({"upload_url": url, "expires_at": expires_at, "file_path": file_path})
    return web.json_response({"items": items})


async def get_video(request: web.Request) -> web.Response:
    return await get_project(request, "video")


async def get_audio(request: web.Request) -> web.Response:
    return await get_project(request, "audio")


async def get_image(request: web.Request) -> web.Response:
    return await get_project(request, "image")


async def get_project(request: web.Request, job_type: JobType) -> web.Response:
    emulation = request.app[EMULATION]
    job = find(request, job_type)
    await emulation.poll(job)
    return web.json_response(emulation.details(job, base_url_of(request)))


async def delete_video(request: web.Request) -> web.Response:
    request.app[EMULATION].jobs.delete(find(request, "video"))
    return web.Response(status=204)


async def delete_audio(request: web.Request) -> web.Response:
    request.app[EMULATION].jobs.delete(find(request, "audio"))
    return web.Response(status=204)


async def delete_image(request: web.Request) -> web.Response:
    request.app[EMULATION].jobs.delete(find(request, "image"))
    return web.Response(status=204)


def find(request: web.Request, job_type: JobType) -> Job:
    job = request.app[EMULATION].jobs.all.get(request.match_info["id"])
    if job is None or job.job_type != job_type:
        raise ApiError(404, "Not Found")
    return job


async def account(request: web.Request) -> web.Response:
    emulation = request.app[EMULATION]
    tier = emulation.account.tier
    subscription = {
        "name": tier.capitalize(),
        "status": "active",
        "billing_interval": "month",
        "price": {"amount": 4900, "currency": "usd"},
        "discount": None,
        "current_period_end": "2099-01-01T00:00:00.000Z",
        "cancel_at_period_end": False,
    }
    return web.json_response(
        {
            "id": "cmemulatedaccount00000001",
            "email": "emulator@example.com",
            "credits": emulation.account.credits,
            "tier": tier,
            "subscription": None if tier == "free" else subscription,
        }
    )


async def not_emulated(request: web.Request) -> web.Response:
    return refusal(
        501,
        f"{request.path} exists at Magic Hour, but this emulator lacks it; it has the paid calls, uploads,"
        " projects and the account",
    )


async def put(request: web.Request) -> web.StreamResponse:
    return await request.app[EMULATION].storage.put(request)


async def download(request: web.Request) -> web.StreamResponse:
    return await request.app[EMULATION].storage.get(request)


FILE = PREFIX + "{name:.+}"
ROUTES: list[tuple[str, str, str, Handler]] = [
    ("POST", "/v1/ai-talking-photo", "create", create),
    ("GET", "/v1/video-projects/{id}", "get_video", get_video),
    ("DELETE", "/v1/video-projects/{id}", "delete_video", delete_video),
    ("POST", "/v1/ai-voice-generator", "create_voice", create_voice),
    ("GET", "/v1/audio-projects/{id}", "get_audio", get_audio),
    ("DELETE", "/v1/audio-projects/{id}", "delete_audio", delete_audio),
    *(("POST", f"/v1/{tool}", "create_tool", create_tool) for tool in tools.described()),
    ("GET", "/v1/image-projects/{id}", "get_image", get_image),
    ("DELETE", "/v1/image-projects/{id}", "delete_image", delete_image),
    ("POST", "/v1/files/upload-urls", "upload_urls", upload_urls),
    ("GET", "/v1/account", "account", account),
    ("PUT", FILE, "put", put),
    ("GET", FILE, "download", download),
    ("HEAD", FILE, "download", download),
]
# aiohttp names a route's path without its pattern.
CALL_OF = {(method, path.replace(":.+", "")): call for method, path, call, _ in ROUTES}
