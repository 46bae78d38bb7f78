"""
Reports what happens to a job: log lines for people, metrics for dashboards, asset events for other DAGs, and
OpenLineage for catalogues. Nothing here decides anything.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import Asset, AssetAlias, Stats, get_current_context
from airflow.sdk.definitions.asset import AssetRef

from magichour_provider.api import wire
from magichour_provider.api.jobs import JOBS
from magichour_provider.api.models import clean
from magichour_provider.api.watching import Listener, submission_time
from magichour_provider.exceptions import JobEnded, MagicHourError, RateLimited, RequestFailed

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from magichour_provider.api.jobs import JobType
    from magichour_provider.api.models import Job


log = logging.getLogger(__name__)

PREFIX = "magichour."  # of all metrics


@contextmanager
def best_effort(failed: str) -> Iterator[None]:
    """
    For extras, such as a link or a metric: if one of them fails, a task that has paid must not fail.

    :param failed: the warning in the log if it fails.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (after any error the task continues)
        log.warning("%s (%s: %s)", failed, type(error).__name__, clean(str(error)))


def tags_of(ti: Any) -> dict[str, str]:
    """The tags of a task's metrics. If Airflow has teams, the name of the team is one of them."""
    if ti is None:
        return {}
    return dict(getattr(ti, "stats_tags", None) or {"dag_id": ti.dag_id, "task_id": ti.task_id})


def _tags_of_this_process() -> dict[str, str]:
    """The tags of the task in this process; none outside of a task."""
    try:
        return tags_of(get_current_context()["ti"])
    except Exception:  # noqa: BLE001 (of another class in each version of Airflow)
        return {}


def count(metric: str, number: int = 1, *, tags: dict[str, str] | None = None) -> None:
    """
    :param metric: its name, without the prefix.
    :param tags: None means the tags of the task in this process.
    """
    with best_effort(f"The metric {metric} was not counted"):
        Stats.incr(f"{PREFIX}{metric}", number, tags=_tags_of_this_process() if tags is None else tags)


class PollObserver(Listener):
    """
    Logs a wait: a line for each change, none for each poll.

    :param from_the_start: the job was just submitted. Otherwise it may have ended long ago, and its age is
        not its render time.
    :param tags: the tags of its metrics, since a triggerer runs the waits of many tasks.
    """

    __slots__ = ("_job_type", "_log", "_seen_going_on", "_tags")

    def __init__(
        self, log: Any, job_type: JobType, *, from_the_start: bool, tags: dict[str, str] | None = None
    ) -> None:
        self._log = log
        self._job_type = job_type
        self._seen_going_on = from_the_start
        self._tags = _tags_of_this_process() if tags is None else tags

    def on_poll(self, seen: Job | RequestFailed) -> None:
        count("polls", tags=self._tags)
        if isinstance(seen, RateLimited):
            count("rate_limited", tags=self._tags)

    def on_change(self, job: Job) -> None:
        age = _age(job) if self._seen_going_on else None
        self._seen_going_on = self._seen_going_on or not job.ended
        line = f"Job {job.job_id} is {job.status}" + ("" if age is None else f" after {age:.0f} s")
        if job.status == "complete":
            line += f", {job.credits_charged or 0:g} credits charged"
            if age is not None:
                with best_effort("The render time was not counted"):
                    metric = f"{PREFIX}render_time.{self._job_type}"
                    Stats.timing(metric, timedelta(seconds=age), tags=self._tags)
        elif job.error is not None and job.error.code:
            line += f": {job.error.code}"
        self._log.info(line)

    def on_failed_poll(self, why: RequestFailed) -> None:
        self._log.warning("A poll of the job failed, polling again: %s", why)


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
        """Wait until all lines are written."""
        await asyncio.wrap_future(self._write(lambda: None))

    def _write(self, write: Callable[..., object], *line: object) -> Future[object]:
        # From the context Airflow knows which task a line belongs to.
        return _writer(os.getpid()).submit(copy_context().run, write, *line)


@cache
def _writer(process_id: int) -> ThreadPoolExecutor:
    """One thread for each process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(1, f"magichour-log-{process_id}")


def _age(job: Job) -> float | None:
    """Seconds since the vendor made the job, if its clock and ours agree."""
    made = submission_time(job)
    age = None if made is None else time.time() - made
    return age if age is not None and age >= 0 else None


def submitted(estimate: float | None) -> None:
    """
    :param estimate: the vendor's estimate, in credits.
    """
    count("jobs.submitted")
    count("credits_estimated", round(estimate or 0))


def charged(credits_charged: float | None) -> None:
    """Count the credits of a paid job, once, in the task that has paid. So the sum is the bill."""
    count("credits_charged", round(credits_charged or 0))


def refunded(credits_refunded: float | None) -> None:
    """Count the credits of a refunded job, once. Such a job is not counted as charged."""
    count("credits_refunded", round(credits_refunded or 0))


def failed(error: Exception) -> None:
    """Count an error that ends a try."""
    count(f"errors.{type(error).__name__}")


def delivered(
    log: Any, result: Mapping[str, Any], outlets: Iterable[Any], context: Context, *, job_type: JobType
) -> None:
    """
    Report that the result of a job is in its place.

    :param result: the task's result. Its signed URL is not reported.
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
    count("jobs.complete")
    kept = ("job_id", "credits_charged", "duration_seconds", "output_path", "output_paths")
    extra = {key: result[key] for key in kept if result.get(key) is not None}
    for outlet in outlets:
        with best_effort(f"The event of {outlet!r} does not carry the job"):
            if isinstance(outlet, AssetAlias):  # stands for what is known only now
                place = result.get("output_path") or wire.library_url(result["job_id"], job_type)
                made = Asset(_uri(place))
                context["outlet_events"][outlet].add(made, extra)
            elif isinstance(outlet, Asset | AssetRef):
                context["outlet_events"][outlet].extra.update(extra)


def lineage(
    inputs: Iterable[str], result: Mapping[str, Any], job_id: str | None, error: MagicHourError | None
) -> OperatorLineage[Any, Any]:
    """
    For OpenLineage. Only its provider calls this, so its modules can be imported.

    :param error: the error of the task, if any; it says what was charged.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset, ExternalQueryRunFacet
    from airflow.providers.openlineage.extractors import OperatorLineage

    def datasets(*uris: str | None) -> list[Any]:
        named = [_named(uri) for uri in uris if uri and not uri.startswith("api-assets/")]
        return [Dataset(namespace=namespace, name=name) for namespace, name in named]

    facets: dict[str, Any] = {}
    if job_id:
        facets["externalQuery"] = ExternalQueryRunFacet(externalQueryId=job_id, source="magichour")
    if job_id or error:
        facets["magichour_job"] = _job_facet()(
            job_id=job_id,
            charged=error.charged if error else "yes",
            credits=error.credits if error else result.get("credits_charged"),
            error=type(error).__name__ if error else None,
            error_code=error.code if isinstance(error, JobEnded) else None,
        )
    # A voice or an image is also in the vendor's library, from which the next task may take it.
    files = result.get("output_paths", [result.get("output_path")])
    kept = [result.get(spec.result_field) for spec in JOBS.values() if spec.result_field]
    return OperatorLineage(inputs=datasets(*inputs), outputs=datasets(*files, *kept), run_facets=facets)


@cache
def _job_facet() -> Any:
    """Our own facet: the job of a run, and its cost."""
    from airflow.providers.common.compat.openlineage.facet import RunFacet
    from attrs import define

    @define
    class MagicHourJobRunFacet(RunFacet):
        """
        :ivar charged: ``yes``, ``no``, ``refunded`` or ``unknown``.
        :ivar credits: the credits that are charged, refunded, or at stake.
        :ivar error: the name of the error in ``magichour_provider.exceptions``.
        :ivar error_code: the vendor's code, such as ``no_source_face``.
        """

        job_id: str | None
        charged: str
        credits: float | None
        error: str | None
        error_code: str | None

    return MagicHourJobRunFacet


def _uri(place: str) -> str:
    """The URI of an asset, without a connection id and without the signature of a URL."""
    namespace, name = _named(place)
    return Path(name).as_uri() if namespace == "file" else f"{namespace}/{name}"


def _named(uri: str) -> tuple[str, str]:
    """The name by OpenLineage's rules, without a connection id and without the signature of a URL."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return "file", uri.removeprefix("file://")
    in_library = parts.path.rstrip("/").endswith("/my-library")  # its query is the asset's id
    name = parts.path.lstrip("/") + (f"?{parts.query}" if in_library else "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", name
