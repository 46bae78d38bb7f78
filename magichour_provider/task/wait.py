"""What operators and sensors share once a job exists: wait, bring home what it made, say how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:  # Airflow 3.0
    from airflow.exceptions import TaskDeferralError, TaskDeferralTimeout  # type: ignore[no-redef]

from magichour_provider import exceptions
from magichour_provider.exceptions import InvalidInput, MagicHourError, StorageFailed
from magichour_provider.links import MagicHourJobLink

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from magichour_provider.api.wire import Job, JobType
    from magichour_provider.files.storage import Target
    from magichour_provider.hooks import MagicHourHook

# Beyond our own deadline, in case the triggerer is too busy to keep it.
GRACE = timedelta(minutes=2)


@contextmanager
def as_airflow_errors() -> Iterator[None]:
    """What a retry can mend uses Airflow's retries; what none can mend ends the task at once."""
    try:
        yield
    except MagicHourError as error:
        from magichour_provider import telemetry

        telemetry.failed(error)
        error_cls = AirflowException if error.retryable else AirflowFailException
        raise error_cls(f"{type(error).__name__}: {error}") from error


class JobMixin:
    """To be mixed into an operator or a sensor. ``job_type`` is what its jobs make."""

    job_type: JobType = "video"
    magichour_conn_id: str
    output_path: str | None
    replace: bool
    timeout: float
    execution_timeout: timedelta | None
    outlets: list[Any]
    template_fields: Any
    log: Any

    if TYPE_CHECKING:

        def defer(self, **kwargs: Any) -> NoReturn: ...

    # See _show_what_was_sent. Airflow 3.0 answers 404 to it after a try that is to be retried.
    overwrite_rtif_after_execution = AIRFLOW_V_3_1_PLUS
    operator_extra_links: Any = (MagicHourJobLink(),)
    _job_id: str | None = None
    _result: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)

    @cached_property
    def hook(self) -> MagicHourHook:
        from magichour_provider.hooks import MagicHourHook

        return MagicHourHook(self.magichour_conn_id)

    def refuse_blank(self, *fields: str) -> None:
        """Not given is one thing, nothing is another: a template may have rendered to it."""
        for field in fields:
            value = getattr(self, field)
            if value is not None and str(value).strip() in ("", "None"):
                raise InvalidInput.of(field, value, "is empty; if it is a template, it rendered to nothing")

    def push_link(self, context: Context, job_id: str) -> None:
        """From now on the UI has its button, and ``on_kill`` knows the job."""
        from magichour_provider.api.wire import library_url

        self._job_id = job_id
        context["ti"].xcom_push(key=MagicHourJobLink().xcom_key, value=library_url(job_id, self.job_type))

    def deadline(self) -> float:
        """Of a wait that begins now. Airflow does not enforce ``execution_timeout`` on a deferred task."""
        limits = [self.timeout]
        if self.execution_timeout:
            limits.append(self.execution_timeout.total_seconds())
        return time.time() + min(limits)

    def defer_until_ended(
        self, job_id: str, *, deadline: float, submitted_at: float | None, poll_interval: float | None
    ) -> NoReturn:
        from magichour_provider.triggers import JobTrigger

        self.defer(
            trigger=JobTrigger(
                job_id=job_id,
                job_type=self.job_type,
                magichour_conn_id=self.magichour_conn_id,
                deadline=deadline,
                submitted_at=submitted_at,
                poll_interval=poll_interval,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, deadline - time.time())) + GRACE,
        )

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Resumed by the trigger's one event."""
        with as_airflow_errors():
            job_id = event_job_id(event)
            if "error" in event:
                error_cls = getattr(exceptions, str(event.get("error_type")), MagicHourError)
                text = str(event["error"])
                if job_id not in text:
                    text += f" (job {job_id} is paid for and goes on at Magic Hour)"
                raise error_cls(text, job_id=job_id, retryable=bool(event.get("retryable")))
            return self.collect_result(context, job_id)

    def collect_result(self, context: Context, job_id: str) -> dict[str, Any]:
        """
        What the job made to its place, and what the next task wants to know.

        :raises JobEnded: it has made nothing.
        :raises TransferFailed: it is paid for and stays at Magic Hour; a retry is free.
        """
        from magichour_provider import telemetry

        if self.output_path:
            job, place = self._download(context, job_id, self.output_path)
        else:
            job, download = self.hook.client.completed(job_id, self.job_type)
            place = {"download_url": download.url, "download_url_expires_at": download.expires_at}
        self._show_what_was_sent(job)
        self._result = {
            "job_id": job_id,
            "status": job.status,
            "credits_charged": job.credits_charged,
            **place,
            **(self._of_video(job) if self.job_type == "video" else self._of_voice(job, place)),
        }
        telemetry.delivered(self.log, self._result, self.outlets, context)
        return self._result

    def _of_video(self, job: Job) -> dict[str, Any]:
        return {
            "duration_seconds": job.clip_seconds,
            "width": _pixels(job.width),
            "height": _pixels(job.height),
            "fps": job.fps,
        }

    def _of_voice(self, job: Job, place: dict[str, Any]) -> dict[str, Any]:
        """The API does not say how long a voice is. It is here all the same if that cannot be measured."""
        from magichour_provider.api.wire import library_url
        from magichour_provider.files import media
        from magichour_provider.files.storage import Source

        seconds = None
        try:
            if uri := place.get("output_path"):
                seconds = media.of_file(Source.find("output_path", "audio", uri))
            else:
                seconds = media.of_job(job.job_id, self.hook.client)
        except MagicHourError as error:  # the voice is delivered, with or without its length
            self.log.warning("Job %s: duration_seconds is not known: %s", job.job_id, error)
        return {"audio_file_path": library_url(job.job_id, "audio"), "duration_seconds": seconds}

    def _show_what_was_sent(self, job: Job) -> None:
        """Among the rendered fields in the UI; an operator's say more than what was asked for."""
        for field in ("name", "start_seconds", "end_seconds"):
            if field in self.template_fields and getattr(job, field) is not None:
                setattr(self, field, getattr(job, field))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Called by Airflow's OpenLineage provider, if there is one."""
        from magichour_provider import telemetry
        from magichour_provider.api.inputs import ASSET_FIELDS

        files = (getattr(self, field, None) for field in ASSET_FIELDS)
        return telemetry.lineage([str(file) for file in files if file], self._result)

    def _download(self, context: Context, job_id: str, output_path: str) -> tuple[Job, dict[str, Any]]:
        from magichour_provider.files.storage import Target

        target = self.hook.target(job_id, Target(str(output_path), self.replace), self.job_type)
        try:
            target = self._own(context, job_id, target)
            self.log.info("Downloading the %s of job %s to %s", self.job_type, job_id, target.uri)
            return self.hook.client.download(job_id, target, self.job_type), {"output_path": target.uri}
        except (InvalidInput, StorageFailed) as error:
            raise type(error)(
                f"{error}. Job {job_id} is paid for and its {self.job_type} stays at Magic Hour: once "
                "that is fixed, clear this task to download it, free of charge",
                job_id=job_id,
                charged="yes",
                retryable=error.retryable,
            ) from error

    def _own(self, context: Context, job_id: str, target: Target) -> Target:
        """The target, which may be replaced if this very task was bringing the file when it died."""
        from magichour_provider.files.storage import Target
        from magichour_provider.task.journal import Journal

        if target.replace:
            return target
        journal = Journal.of(context)
        if journal.is_delivering(job_id, target.uri):
            return Target(target.uri, replace=True)
        target.check()
        journal.delivering(job_id, target.uri)
        return target

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As Airflow's, but a trigger that crashed or timed out still says what became of the job."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)  # type: ignore[misc]
        except (TaskDeferralError, TaskDeferralTimeout, AirflowSensorTimeout) as error:
            if next_method == "execute_complete":
                raise  # it has said so itself
            raise type(error)(self.wait_ended_message(error, context)) from error

    def wait_ended_message(self, error: Exception, context: Context) -> str:
        """A wait that ended before the job, in words that name the job."""
        return (
            f"{error}: the wait for {self.job_name(context)} ended before the job. It goes on at Magic "
            "Hour and may still finish: a retry, or a sensor with its id, picks it up free of charge"
        )

    def job_name(self, context: Context) -> str:
        raise NotImplementedError

    def on_kill(self) -> None:
        """A paid job is never destroyed: say which one goes on, and how to stop it by hand."""
        if self._job_id:
            self.log.warning(
                "The task was killed; job %s goes on at Magic Hour. Only its web app can stop it, and "
                "clearing this task picks it up free of charge",
                self._job_id,
            )


def _pixels(value: int | None) -> int | None:
    return value if value and value > 0 else None  # -1 is the vendor's "not known"


def event_job_id(event: Any) -> str:
    """The trigger's event is checked before it is believed."""
    if not isinstance(event, dict) or not isinstance(event.get("job_id"), str):
        raise MagicHourError(f"the trigger's event {event!r} names no job", retryable=True)
    return str(event["job_id"])
