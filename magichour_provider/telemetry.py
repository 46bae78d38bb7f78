"""
What others hear of a job: people in the log, dashboards in Airflow's statistics, other DAGs by an asset's
event, catalogues by OpenLineage. None of it decides anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import Asset, Stats

from magichour_provider.api.watching import Listener, submission_time
from magichour_provider.exceptions import RateLimited, RequestFailed

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from magichour_provider.api.jobs import JobType
    from magichour_provider.api.wire import Job


log = logging.getLogger(__name__)


@contextmanager
def best_effort(failed: str) -> Iterator[None]:
    """
    For what is not the video: a link, a metric, a note. Its failure must not fail a task that has paid.

    :param failed: what the log says then.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever it is, the task goes on)
        log.warning("%s (%s: %s)", failed, type(error).__name__, error)


def count(metric: str, number: int = 1) -> None:
    with best_effort(f"The metric {metric} was not counted"):
        Stats.incr(metric, number)


class PollObserver(Listener):
    """
    Logs a wait: a line for each change, none for each poll.

    :param from_the_start: the job was just submitted. Otherwise it may have ended long ago, and its age does
        not say how long it took.
    """

    __slots__ = ("_job_type", "_log", "_seen_going_on")

    def __init__(self, log: Any, job_type: JobType, *, from_the_start: bool) -> None:
        self._log = log
        self._job_type = job_type
        self._seen_going_on = from_the_start

    def on_poll(self, seen: Job | RequestFailed) -> None:
        count("magichour.polls")
        if isinstance(seen, RateLimited):
            count("magichour.rate_limited")

    def on_change(self, job: Job) -> None:
        age = _age(job) if self._seen_going_on else None
        self._seen_going_on = self._seen_going_on or not job.ended
        line = f"Job {job.job_id} is {job.status}" + ("" if age is None else f" after {age:.0f} s")
        if job.status == "complete":
            line += f", {job.credits_charged or 0:g} credits charged"
            if age is not None:
                with best_effort("The render time was not counted"):
                    Stats.timing(f"magichour.render_time.{self._job_type}", timedelta(seconds=age))
        elif job.error is not None and job.error.code:
            line += f": {job.error.code}"
        self._log.info(line)

    def on_failed_poll(self, why: RequestFailed) -> None:
        self._log.warning("A poll of the job failed, going on: %s", why)


class NonBlockingLogger:
    """
    A log for event loops: one thread writes all lines, in their order.

    A triggerer's log is a pipe that its supervisor does not empty while it is busy with the database. A line
    that the event loop writes would wait for the supervisor, and all triggers would wait too.
    """

    __slots__ = ("_log",)

    def __init__(self, log: Any) -> None:
        self._log = log

    def info(self, *line: object) -> None:
        self._write(self._log.info, *line)

    def warning(self, *line: object) -> None:
        self._write(self._log.warning, *line)

    async def written(self) -> None:
        """Until all lines are."""
        await asyncio.wrap_future(self._write(lambda: None))

    def _write(self, write: Callable[..., object], *line: object) -> Future[object]:
        # By its context Airflow knows whose line it is.
        return _writer(os.getpid()).submit(copy_context().run, write, *line)


@cache
def _writer(process_id: int) -> ThreadPoolExecutor:
    """A fork has none of its parent's threads."""
    return ThreadPoolExecutor(1, f"magichour-log-{process_id}")


def _age(job: Job) -> float | None:
    """Seconds since the vendor made the job, if its clock and ours agree."""
    made = submission_time(job)
    age = None if made is None else time.time() - made
    return age if age is not None and age >= 0 else None


def submitted(credits_charged: float | None) -> None:
    count("magichour.jobs.submitted")
    count("magichour.credits_charged", int(credits_charged or 0))


def failed(error: Exception) -> None:
    """A task ends with this, or this try of it."""
    count(f"magichour.errors.{type(error).__name__}")


def delivered(log: Any, result: Mapping[str, Any], outlets: Iterable[Any], context: Context) -> None:
    """
    The result of a job is where it should be.

    :param result: of the task. Its signed URL goes nowhere.
    """
    sizes = [f"{result['duration_seconds']:g} s"] if result.get("duration_seconds") else []
    if result.get("width") and result.get("height"):
        sizes.append(f"{result['width']} x {result['height']}")
    files = result.get("output_paths") or result.get("download_urls") or ()
    if len(files) > 1:
        sizes.append(f"the first of {len(files)} files")
    log.info(
        "Job %s is in %s: %s",
        result["job_id"],
        result.get("output_path", "Magic Hour's storage, at the result's download_url"),
        ", ".join([*sizes, f"{result['credits_charged'] or 0:g} credits"]),
    )
    count("magichour.jobs.complete")
    kept = ("job_id", "credits_charged", "duration_seconds", "output_path", "output_paths")
    extra = {key: result[key] for key in kept if result.get(key) is not None}
    for outlet in outlets:
        if isinstance(outlet, Asset):
            with best_effort(f"The event of {outlet!r} does not carry the job"):
                context["outlet_events"][outlet].extra.update(extra)


def lineage(inputs: Iterable[str], result: Mapping[str, Any]) -> OperatorLineage[Any, Any]:
    """For OpenLineage, whose provider is there if this is called."""
    from airflow.providers.common.compat.openlineage.facet import Dataset, ExternalQueryRunFacet
    from airflow.providers.openlineage.extractors import OperatorLineage

    def datasets(*uris: str | None) -> list[Any]:
        named = [_named(uri) for uri in uris if uri and not uri.startswith("api-assets/")]
        return [Dataset(namespace=namespace, name=name) for namespace, name in named]

    facets = {}
    if "job_id" in result:
        facets["externalQuery"] = ExternalQueryRunFacet(externalQueryId=result["job_id"], source="magichour")
    # A voice or an image is in the vendor's library too, where the next task may take it from.
    files = result.get("output_paths", [result.get("output_path")])
    made = datasets(*files, result.get("audio_file_path"), result.get("image_file_path"))
    return OperatorLineage(inputs=datasets(*inputs), outputs=made, run_facets=facets)


def _named(uri: str) -> tuple[str, str]:
    """By OpenLineage's naming rules; without a connection's id, and without the signature of a URL."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return "file", uri.removeprefix("file://")
    in_library = parts.path.rstrip("/").endswith("/my-library")  # its query is the asset's id
    name = parts.path.lstrip("/") + (f"?{parts.query}" if in_library else "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", name
