"""The HTTP server: the vendor's routes, and the middleware that handles every request."""

from __future__ import annotations

import hmac
import json
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web

from . import tools, validation
from .admin import add_admin
from .emulation import Emulation
from .exceptions import ApiError, StorageError
from .faults import RULE, apply_fault
from .models import SUFFIXES
from .storage_host import PREFIX, base_url_of, xml_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .models import Job, JobType
    from .render_service import JobRequest

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

EMULATION = web.AppKey("emulation", Emulation)
MAX_JSON_BYTES = 1 << 20
# The record of a longer request contains its length, but not its JSON.
MAX_RECORDED_BYTES = 1 << 14
# The record of the current request.
RECORD: ContextVar[dict[str, Any] | None] = ContextVar("RECORD")


def make_app(emulation: Emulation) -> web.Application:
    """Create the aiohttp application."""
    app = web.Application(middlewares=[handle_request], client_max_size=MAX_JSON_BYTES)
    app[EMULATION] = emulation
    for method, path, _, handler in ROUTES:
        app.router.add_route(method, path, handler)
    for path in validation.NOT_EMULATED:
        app.router.add_route("*", path, not_emulated)
    add_admin(app, emulation)
    app.on_response_prepare.append(record_response)
    return app


@web.middleware
async def handle_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Record a request, apply a fault, call the handler, and turn exceptions into the vendor's errors."""
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

    async def execute() -> web.StreamResponse:
        try:
            route_exists = request.match_info.http_exception is None
            if route_exists and not request.path.startswith(PREFIX):
                check_key(request, emulation)
            return await handler(request)
        except ApiError as error:
            return json_error(error.status, error.message)
        except StorageError as error:
            return xml_error(error)
        except web.HTTPMethodNotAllowed as error:
            allow = {"Allow": ", ".join(sorted(error.allowed_methods))}
            return json_error(405, "Method Not Allowed", allow)
        except web.HTTPNotFound:
            return json_error(404, "Not Found")

    if call is None:
        return await execute()
    try:
        names = await names_of(request, emulation, record)
        rule = emulation.faults.pick(call, names)
        RULE.set(rule)
        return await (apply_fault(rule, request, call, execute) if rule else execute())
    except web.HTTPRequestEntityTooLarge:
        return json_error(413, f"The request body is larger than {MAX_JSON_BYTES} bytes")
    except web.RequestPayloadError:
        # The start of the next request on this connection is unknown.
        close = {"Connection": "close"}
        return json_error(400, "The request body is not encoded as its headers say", close)
    except ConnectionError:
        # The client has closed the connection, so nothing is sent.
        return web.Response(status=499)


async def names_of(request: web.Request, emulation: Emulation, record: dict[str, Any]) -> list[str]:
    """Return the names for a fault's ``name``: of the job and the tool, or the path of an upload."""
    if request.method == "POST":
        content = await request.read()
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return []
        if len(content) <= MAX_RECORDED_BYTES:
            record["json"] = body
        name = body.get("name") if isinstance(body, dict) else None
        # Some tools do not accept a name for the job, so the tool's own name counts too.
        tool = [request.path.removeprefix("/v1/")] if record["call"] == "create_tool" else []
        return [name, *tool] if isinstance(name, str) else tool
    path = request.match_info.get("name", "")
    job_id = request.match_info.get("id") or unquote(path.partition("/")[0])
    job = emulation.jobs.all.get(job_id)
    return [job.name] if job else [path]


async def record_response(request: web.Request, response: web.StreamResponse) -> None:
    """Complete the record just before the response is sent."""
    record = RECORD.get()
    if record is not None and response.status != 499:
        record["status"] = response.status
        if record["call"] == "download":
            record["bytes"] = response.content_length or 0


def json_error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"message": message}, status=status, headers=headers)


def check_key(request: web.Request, emulation: Emulation) -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    expected = emulation.settings.api_key.encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        key.strip().encode("utf-8", "surrogateescape"), expected
    ):
        raise ApiError(401, "Unauthorized")


async def create(request: web.Request) -> web.Response:
    body = validation.parse(await request.read())
    tier = request.app[EMULATION].settings.tier
    return submit(request, validation.check_talking_photo(body, tier), body)


async def create_voice(request: web.Request) -> web.Response:
    body = validation.parse(await request.read())
    return submit(request, validation.check_voice(body), body)


async def create_tool(request: web.Request) -> web.Response:
    body = validation.parse(await request.read())
    return submit(request, tools.check_tool(request.path.removeprefix("/v1/"), body), body)


def submit(request: web.Request, checked: JobRequest, body: dict[str, Any]) -> web.Response:
    """Create a job. ``Retry-After`` asks for fast polls, because most jobs end sooner than the vendor's."""
    emulation = request.app[EMULATION]
    job = emulation.submit(checked, body, RULE.get())
    response: dict[str, Any] = {"id": job.response_id, "credits_charged": job.credits_charged}
    # These two are deprecated, but the vendor's SDK requires them.
    if job.job_type == "video":
        response["estimated_frame_cost"] = job.credits_charged
    elif job.job_type == "image":
        response["frame_cost"] = job.credits_charged
    realistic = emulation.jobs.progression.mode == "realistic"
    return web.json_response(response, headers={} if realistic else {"Retry-After": "1"})


async def upload_urls(request: web.Request) -> web.Response:
    emulation = request.app[EMULATION]
    items = []
    for _, extension in validation.check_upload_urls(validation.parse(await request.read())):
        file_path = emulation.storage.new_upload(extension)
        url, expires_at = emulation.storage.sign(base_url_of(request), "PUT", file_path)
        items.append({"upload_url": url, "expires_at": expires_at, "file_path": file_path})
    return web.json_response({"items": items})


async def get_project(request: web.Request, job_type: JobType) -> web.Response:
    emulation = request.app[EMULATION]
    job = find_job(request, job_type)
    await emulation.poll(job)
    return web.json_response(emulation.details(job, base_url_of(request)))


async def delete_project(request: web.Request, job_type: JobType) -> web.Response:
    request.app[EMULATION].jobs.delete(find_job(request, job_type))
    return web.Response(status=204)


def find_job(request: web.Request, job_type: JobType) -> Job:
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
    return json_error(
        501,
        f"The emulator does not have {request.path}, which exists at Magic Hour."
        " It has the paid calls, uploads, projects and the account.",
    )


async def put(request: web.Request) -> web.StreamResponse:
    return await request.app[EMULATION].storage.put(request)


async def download(request: web.Request) -> web.StreamResponse:
    return await request.app[EMULATION].storage.get(request)


FILE = PREFIX + "{name:.+}"
# Method, path, name of the call, handler.
ROUTES: list[tuple[str, str, str, Handler]] = [
    ("POST", "/v1/ai-talking-photo", "create", create),
    ("POST", "/v1/ai-voice-generator", "create_voice", create_voice),
    *(("POST", f"/v1/{tool}", "create_tool", create_tool) for tool in tools.descriptions()),
    *(
        (method, f"/v1/{job_type}-projects/{{id}}", f"{verb}_{job_type}", partial(handler, job_type=job_type))
        for job_type in SUFFIXES
        for method, verb, handler in (("GET", "get", get_project), ("DELETE", "delete", delete_project))
    ),
    ("POST", "/v1/files/upload-urls", "upload_urls", upload_urls),
    ("GET", "/v1/account", "account", account),
    ("PUT", FILE, "put", put),
    ("GET", FILE, "download", download),
    ("HEAD", FILE, "download", download),
]
# The canonical path of an aiohttp route has no patterns.
CALL_OF = {(method, path.replace(":.+", "")): call for method, path, call, _ in ROUTES}
