"""
Reports what happens to a job: log lines for people, metrics for dashboards, asset events for other DAGs.
Nothing here decides anything.
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

from airflow.providers.common.compat.sdk import Asset, AssetAlias, Stats, get_current_context
from airflow.sdk.definitions.asset import AssetRef

from magichour_provider.api import wire
from magichour_provider.api.watching import Listener
from magichour_provider.exceptions import RateLimited, RequestFailed
from magichour_provider.lineage import asset_uri
from magichour_provider.text import clean

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.api.jobs import JobType
    from magichour_provider.api.models import Job


log = logging.getLogger(__name__)

PREFIX = "magichour."  # begins the name of every metric


@contextmanager
def best_effort(failed: str) -> Iterator[None]:
    """
    For extras, such as a link or a metric: if an extra fails, a task that has paid must not fail.

    :param failed: the warning in the log if the block raises.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (the task continues after any error)
        log.warning("%s (%s: %s)", failed, type(error).__name__, clean(str(error)))


def tags_of(ti: Any) -> dict[str, str]:
    """The tags of a task's metrics. If Airflow has teams, one of them is the name of the team."""
    if ti is None:
        return {}
    return dict(getattr(ti, "stats_tags", None) or {"dag_id": ti.dag_id, "task_id": ti.task_id})


def _tags_of_this_process() -> dict[str, str]:
    """The tags of the task in this process, or no tags if there is no task."""
    try:
        return tags_of(get_current_context()["ti"])
    except Exception:  # noqa: BLE001 (of another class in each version of Airflow)
        return {}


def count(metric: str, number: int = 1, *, tags: dict[str, str] | None = None) -> None:
    """
    Count a metric.

    :param metric: the name, without the prefix.
    :param tags: None means the tags of the task in this process.
    """
    with best_effort(f"The metric {metric} was not counted"):
        Stats.incr(f"{PREFIX}{metric}", number, tags=_tags_of_this_process() if tags is None else tags)


class PollObserver(Listener):
    """
    Logs a wait: one line for each change, and none for each poll.

    :param from_the_start: the job was just submitted. Otherwise it may have ended long ago, and its age is
        not its render time.
    :param tags: the tags of its metrics; a triggerer runs the waits of many tasks.
    """

    __slots__ = ("_job_type", "_log", "_seen_running", "_tags")

    def __init__(
        self, log: Any, job_type: JobType, *, from_the_start: bool, tags: dict[str, str] | None = None
    ) -> None:
        self._log = log
        self._job_type = job_type
        self._seen_running = from_the_start
        self._tags = _tags_of_this_process() if tags is None else tags

    def on_poll(self, seen: Job | RequestFailed) -> None:
        count("polls", tags=self._tags)
        if isinstance(seen, RateLimited):
            count("rate_limited", tags=self._tags)

    def on_change(self, job: Job) -> None:
        age = _age(job) if self._seen_running else None
        self._seen_running = self._seen_running or not job.ended
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
        self._log.warning("A poll of the job failed; the wait continues: %s", why)


class NonBlockingLogger:
    """
    A log for event loops: one thread writes all lines, in their order.

    The log of a triggerer is a pipe. Its supervisor does not read the pipe while it is busy with the
    database. If the event loop wrote a line, it would wait for the supervisor, and so would all triggers.
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
        # The context tells Airflow which task a line belongs to.
        return _writer(os.getpid()).submit(copy_context().run, write, *line)


@cache
def _writer(process_id: int) -> ThreadPoolExecutor:
    """One thread for each process: a forked child does not have its parent's threads."""
    return ThreadPoolExecutor(1, f"magichour-log-{process_id}")


def _age(job: Job) -> float | None:
    """Seconds since the vendor made the job, or None if that is not known or the clocks differ."""
    made = job.creation_time
    age = None if made is None else time.time() - made
    return age if age is not None and age >= 0 else None


def count_submitted(estimate: float | None) -> None:
    """
    Count a submitted job.

    :param estimate: the vendor's estimate, in credits.
    """
    count("jobs.submitted")
    count("credits_estimated", round(estimate or 0))


def count_charged(credits_charged: float | None) -> None:
    """Count the credits of a paid job, once, in the task that has paid. So the sum is the bill."""
    count("credits_charged", round(credits_charged or 0))


def count_refunded(credits_refunded: float | None) -> None:
    """Count the credits of a refunded job, once. Such a job is not counted as charged."""
    count("credits_refunded", round(credits_refunded or 0))


def count_error(error: Exception) -> None:
    """Count an error that ends a try."""
    count(f"errors.{type(error).__name__}")


def report_delivery(
    log: Any, result: Mapping[str, Any], outlets: Iterable[Any], context: Context, *, job_type: JobType
) -> None:
    """
    Report that the result of a job is delivered: log it, count it, and add it to the events of the assets.

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
        with best_effort(f"The job was not added to the event of {outlet!r}"):
            if isinstance(outlet, AssetAlias):  # stands for an asset that is known only now
                place = result.get("output_path") or wire.library_url(result["job_id"], job_type)
                made = Asset(asset_uri(place))
                context["outlet_events"][outlet].add(made, extra)
            elif isinstance(outlet, Asset | AssetRef):
                context["outlet_events"][outlet].extra.update(extra)
