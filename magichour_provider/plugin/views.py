"""The pages. They write nothing, and call the vendor only when a person clicks on *Play* or *Show*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from airflow.models.connection import Connection
from airflow.models.dag import DagModel
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.utils.session import create_session
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from magichour_provider.api import events, wire
from magichour_provider.api.client import MagicHourClient
from magichour_provider.api.jobs import JOBS
from magichour_provider.connection import settings_from_connection
from magichour_provider.exceptions import InvalidConnection, JobEnded, MagicHourError
from magichour_provider.plugin import PREFIX, ROUTE, airflow_version, index, queries, webhooks
from magichour_provider.plugin.queries import Filters, Playable
from magichour_provider.plugin.rows import PREVIEWS, JobRow, State, TaskKey

MAX_PLAY_SECONDS = 10.0  # the longest time from a click to the vendor's response
DEFAULT_BACKEND = "airflow.state.metastore.MetastoreBackend"

# Scripts and styles come only from files of this plugin. A job's file comes from the vendor's storage, whose
# host may change.
SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' https: http:",
            "media-src 'self' https: http:",
            "connect-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
            "base-uri 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

FILTERS = ("dag_id", "run_id", "task_id", "state", "from", "to")

router = APIRouter()


def permitted_dags(user: GetUserDep) -> set[str]:
    """The DAGs that this user may read; Airflow's own lists show the same."""
    return get_auth_manager().get_authorized_dag_ids(user=user, method="GET")


PermittedDags = Annotated[set[str], Depends(permitted_dags)]
PageNumber = Annotated[int, Query(alias="page", ge=1, le=1_000_000)]
Day = Annotated[str, Query(pattern=r"^(\d{4}-\d\d-\d\d)?$")]


@router.get("/")
def all_jobs(
    request: Request,
    permitted: PermittedDags,
    dag_id: str = "",
    run_id: str = "",
    task_id: str = "",
    state: str = "",
    since: Annotated[Day, Query(alias="from")] = "",
    until: Annotated[Day, Query(alias="to")] = "",
    number: PageNumber = 1,
) -> Response:
    """The jobs of every DAG that the user may read."""
    filters = Filters(
        dag_id or None,
        run_id or None,
        task_id or None,
        state=_state(state),
        since=_day(since),
        until=_day(until),
    )
    return _page(request, permitted, filters, number)


@router.get("/dags/{dag_id}/runs/{run_id}/")
def jobs_of_run(
    request: Request, dag_id: str, run_id: str, state: str = "", number: PageNumber = 1
) -> Response:
    return _page(request, {dag_id}, Filters(dag_id, run_id, state=_state(state)), number, narrowed=True)


@router.get("/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/")
@router.get("/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/{map_index}/")
def jobs_of_task(
    request: Request,
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: str | None = None,
    state: str = "",
    number: PageNumber = 1,
) -> Response:
    if map_index in ("{MAP_INDEX}", "-1"):  # the UI fills in the map index only for a mapped task
        map_index = None
    elif map_index is not None and not map_index.isdecimal():
        raise HTTPException(HTTPStatus.NOT_FOUND)
    filters = Filters(
        dag_id, run_id, task_id, int(map_index) if map_index is not None else None, state=_state(state)
    )
    return _page(request, {dag_id}, filters, number, narrowed=True)


@router.get("/watch/{path:path}")
def watch(request: Request, path: str) -> Response:
    """Redirect from a task's button *Watch* to its page: inside Airflow's UI (3.3 and newer), or alone."""
    links = Links(request.scope["root_path"], {})
    frame = f"{links.airflow}/plugin/{ROUTE}" if airflow_version() >= (3, 3) else ""
    return RedirectResponse(f"{frame}{links.root}/{quote(path)}", headers=SECURITY_HEADERS)


@router.get("/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/{map_index}/play/{number}")
def play(
    dag_id: str, run_id: str, task_id: str, map_index: int, number: Annotated[int, Path(ge=0)]
) -> Response:
    """
    Redirect to a fresh signed URL of the job's file.

    The request has no job id: the task instance and the position in its journal identify the job.
    """
    task = TaskKey(dag_id, run_id, task_id, map_index)
    with create_session(scoped=False) as session:
        job = queries.find_job(session, task, number)
    if job is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    try:
        url = _signed_url(job, dag_id)
    except _CannotPlay as why:
        return PlainTextResponse(str(why), why.status, headers=SECURITY_HEADERS)
    return RedirectResponse(url, HTTPStatus.TEMPORARY_REDIRECT, headers=SECURITY_HEADERS)


class _CannotPlay(Exception):
    """
    :param why: a sentence for the person who clicked.
    """

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


def _signed_url(job: Playable, dag_id: str) -> str:
    """
    Ask the vendor for the URL of the file.

    The API key goes only to the host of its own connection. The host in a journal is only compared with it.

    :raises _CannotPlay: the vendor was not asked, or has no file.
    """
    if job.conn_id is None:
        raise _CannotPlay(
            HTTPStatus.CONFLICT,
            "Airflow no longer knows the connection of this job. Its file is in Magic Hour's library.",
        )
    team = DagModel.get_team_name(dag_id) if _is_multi_team() else None
    try:
        connection = Connection.get_connection_from_secrets(
            job.conn_id, **({"team_name": team} if team else {})
        )
        settings = settings_from_connection(connection)
    except AirflowNotFoundException:
        raise _CannotPlay(
            HTTPStatus.FAILED_DEPENDENCY,
            f"This API server cannot read the connection {job.conn_id!r}: it was deleted, or only workers "
            "can read it. To play files here, give the API server the same secrets backend.",
        ) from None
    except InvalidConnection as error:
        raise _CannotPlay(HTTPStatus.FAILED_DEPENDENCY, str(error)) from None
    if job.host is not None and job.host != settings.base_url:
        raise _CannotPlay(
            HTTPStatus.CONFLICT,
            f"This job was made at {job.host}, and the connection {job.conn_id!r} now has the address "
            f"{settings.base_url}. So Magic Hour was not asked for the file.",
        )
    try:
        with MagicHourClient(replace(settings, timeout=min(settings.timeout, MAX_PLAY_SECONDS))) as client:
            _, downloads = client.completed(job.job_id, job.job_type, once=True)
    except JobEnded as error:
        raise _CannotPlay(HTTPStatus.GONE, str(error)) from None
    except MagicHourError as error:
        raise _CannotPlay(HTTPStatus.BAD_GATEWAY, str(error)) from None
    return downloads[0].url  # http or https: the client accepts no other scheme


def _is_multi_team() -> bool:
    return conf.getboolean("core", "multi_team", fallback=False)


def _page(
    request: Request, permitted: set[str], filters: Filters, number: int, *, narrowed: bool = False
) -> Response:
    """
    :param narrowed: the page is about one run or task, and has no form for the filters.
    """
    with create_session(scoped=False) as session:
        page = queries.read_page(session, permitted, filters, number)
    return render(
        request,
        "list.html" if "fragment" in request.query_params else "page.html",
        page=page,
        filters=filters,
        narrowed=narrowed,
        why_finished_only=_why_finished_only(),
        arrivals={conn_id: events.arrivals.get(conn_id, events.Arrivals()) for conn_id in page.conn_ids},
        refusals=webhooks.receiver.refusals,
    )


def _why_finished_only() -> str | None:
    """Why the page shows only finished jobs, as a sentence; None if it shows all jobs."""
    if index.StoreModel is None:
        return "To show the other jobs, this page needs Airflow 3.3 or newer."
    custom = conf.get("workers", "state_store_backend", fallback="") or conf.get("state_store", "backend")
    if custom != DEFAULT_BACKEND:
        return f"This page cannot read the state store backend {custom}."
    return None


def render(request: Request, template: str, *, status: int = HTTPStatus.OK, **values: Any) -> Response:
    """Render a page, with the security headers of every page."""
    links = Links(request.scope["root_path"], request.query_params)
    text = templates.get_template(template).render(
        links=links, now=datetime.now(UTC), status=status, **values
    )
    return HTMLResponse(text, status, headers=SECURITY_HEADERS)


class Links:
    """
    URLs for the templates. Each begins with the path of ``[api] base_url``.

    :param root: the path of this app.
    :param query: the query of this page.
    """

    def __init__(self, root: str, query: Mapping[str, str]) -> None:
        self.root = root
        self.airflow = root.removesuffix(PREFIX)
        self.query = query

    def static(self, name: str) -> str:
        return f"{self.root}/static/{name}"

    def all_jobs(self, **query: Any) -> str:
        return f"{self.root}/{_query(query)}"

    def here(self, **changes: Any) -> str:
        """This page with other filters. Without ``page`` it is the first page of the list."""
        kept = {name: value for name, value in self.query.items() if name in FILTERS}
        return _query(kept | changes) or "?"

    def run(self, dag_id: str, run_id: str) -> str:
        return f"{self.root}/dags/{_segment(dag_id)}/runs/{_segment(run_id)}/"

    def task(self, task: TaskKey) -> str:
        return f"{self.run(task.dag_id, task.run_id)}tasks/{_segment(task.task_id)}/{task.map_index}/"

    def play(self, row: JobRow) -> str:
        return f"{self.task(row.task)}play/{row.number}"

    def library(self, row: JobRow) -> str | None:
        """The job in the vendor's web app, or else its library; None if the job was made at another host."""
        if row.host != wire.BASE_URL:
            return None
        try:
            return wire.library_url(row.job_id or "", row.job_type)
        except MagicHourError:
            return wire.LIBRARY_URL

    def airflow_dag(self, dag_id: str) -> str:
        return f"{self.airflow}/dags/{_segment(dag_id)}"

    def airflow_run(self, dag_id: str, run_id: str) -> str:
        return f"{self.airflow_dag(dag_id)}/runs/{_segment(run_id)}"

    def airflow_task(self, task: TaskKey) -> str:
        mapped = f"/mapped/{task.map_index}" if task.map_index >= 0 else ""
        return f"{self.airflow_run(task.dag_id, task.run_id)}/tasks/{_segment(task.task_id)}{mapped}"


def _segment(value: str) -> str:
    return quote(value, safe="")


def _query(values: Mapping[str, Any]) -> str:
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else ""


def _state(value: str) -> State | None:
    return State(value) if value in State.__members__.values() else None


def _day(value: str) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except ValueError:
        return None


def _credits(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}".rstrip("0").rstrip(".")


def _size(value: int) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def _length(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes else f"{seconds:.1f} s"


def _ago(then: datetime, now: datetime) -> str:
    seconds = max(0.0, (now - then).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _tone(row: JobRow) -> int:
    """The number of one of six colours of the drawing. The same name always has the same colour."""
    return sum((row.label or row.task.task_id).encode()) % 6


templates = Environment(
    loader=PackageLoader("magichour_provider.plugin"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.globals |= {"JOBS": JOBS, "PREVIEWS": PREVIEWS, "State": State}
templates.filters |= {"credits": _credits, "size": _size, "length_of": _length, "ago": _ago, "tone": _tone}
