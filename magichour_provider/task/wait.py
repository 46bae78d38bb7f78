"""What operators and sensors share once a job exists: wait for it, collect its result, say how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    conf,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:  # Airflow 3.0
    from airflow.exceptions import TaskDeferralError, TaskDeferralTimeout  # type: ignore[no-redef]

from magichour_provider.links import MagicHourJobLink, MagicHourWatchLink, watch_url
from magichour_provider.task import runtime

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from magichour_provider.api.jobs import JobSpec, JobType
    from magichour_provider.api.models import Job
    from magichour_provider.exceptions import Charged, JobEnded, MagicHourError
    from magichour_provider.files.storage import Target
    from magichour_provider.hooks import MagicHourHook
    from magichour_provider.task.arguments import Check
    from magichour_provider.task.journal import Journal
    from magichour_provider.task.record import PaidJob

# Airflow's timeout of the deferral is this much later than our own deadline, if the triggerer is busy.
GRACE = timedelta(minutes=2)


class JobMixin:
    """
    A mixin for an operator or a sensor.

    :cvar job_type: the type of the jobs that it waits for.
    """

    job_type: JobType = "video"
    magichour_conn_id: str
    output_path: str | None
    replace: bool
    deferrable: bool
    timeout: float
    execution_timeout: timedelta | None
    outlets: list[Any]
    template_fields: Any
    task_id: str
    log: Any

    if TYPE_CHECKING:

        def defer(self, **kwargs: Any) -> NoReturn: ...
        def get_dag(self) -> Any: ...

    # For _show_what_was_sent. Airflow 3.0 answers 404 to such a write after a try that will be retried.
    overwrite_rtif_after_execution = AIRFLOW_V_3_1_PLUS
    operator_extra_links: Any = (MagicHourWatchLink(), MagicHourJobLink())
    _job_id: str | None = None
    _charged: Charged = "no"  # has this task instance paid, as far as this try knows?
    _credits: float | None = None
    _adopt_instructions: str | None = None
    _error: MagicHourError | None = None  # the error that ends this try
    _result: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)

    @cached_property
    def hook(self) -> MagicHourHook:
        return runtime.MagicHourHook(self.magichour_conn_id)

    @property
    def spec(self) -> JobSpec:
        return runtime.jobs.job_spec(self.job_type)

    # --- arguments ---

    def arguments(self) -> dict[str, tuple[Check, Any]]:
        """For each argument, how to check it, and what None stands for."""
        default_deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        return {
            "output_path": (runtime.arguments.path, None),
            "replace": (runtime.arguments.flag, False),
            "magichour_conn_id": (runtime.arguments.text, "magichour_default"),
            "deferrable": (runtime.arguments.flag, default_deferrable),
        }

    def check_arguments(self) -> None:
        """
        Replace each argument that is known by its checked value.

        :raises InvalidInput: names field, value and remedy; nothing was sent.
        """
        arguments = self.arguments()
        values = {name: getattr(self, name) for name in arguments}
        unknown = self.known_later(arguments)
        for name, value in runtime.arguments.checked(arguments, values, unknown=unknown).items():
            setattr(self, name, value)

    def known_later(self, names: Iterable[str]) -> set[str]:
        """Which of them hold a value that is only known at run time."""
        return {
            name
            for name in names
            if name in self.template_fields and self.is_known_later(getattr(self, name, None))
        }

    def is_known_later(self, value: object) -> bool:
        """Is it a template or something else that Airflow resolves at run time, or has it one inside?"""
        if isinstance(value, dict):
            return any(map(self.is_known_later, value.values()))
        if isinstance(value, list | tuple):
            return any(map(self.is_known_later, value))
        dag = self.get_dag()
        jinja = (dag and dag.jinja_environment_kwargs) or {}
        starts = (jinja.get("variable_start_string", "{{"), jinja.get("block_start_string", "{%"))
        return hasattr(value, "iter_references") or (
            isinstance(value, str) and any(start in value for start in starts)
        )

    # --- errors ---

    @contextmanager
    def at_parse_time(self) -> Iterator[None]:
        """An error names the task. A mapped task is built at run time, so there the error ends it at once."""
        try:
            yield
        except runtime.exceptions.MagicHourError as error:
            raise runtime.errors.surfaced(error.copied(f"task {self.task_id!r}: {error}")) from None

    @contextmanager
    def as_airflow_errors(self) -> Iterator[None]:
        """
        An error that a retry can overcome uses Airflow's retries. Any other error ends the task at once, and
        is shown without its cause: the person who has to act needs the message, not the stack.
        """
        try:
            yield
        except runtime.exceptions.MagicHourError as error:
            self._error = self._with_charge(error)
            runtime.telemetry.failed(error)
            raise self.surfaced(error) from (error.__cause__ if error.retryable else None)
        except AirflowTaskTimeout as error:
            raise AirflowTaskTimeout(f"{error}\n{self._charge()}") from None
        except AirflowException:
            raise
        except Exception as error:
            if self._job_id is None:
                raise
            said = f"{type(error).__name__}: {runtime.models.clean(str(error))}"
            bug = runtime.exceptions.MagicHourError(said, retryable=True)
            raise self.surfaced(bug) from error

    def surfaced(self, error: MagicHourError) -> MagicHourError:
        recorded = self._adopt_instructions is None
        return runtime.errors.surfaced(self._with_charge(error), recorded=recorded)

    def _with_charge(self, error: MagicHourError) -> MagicHourError:
        """After the paid call, money is spent, even if the call that failed cost nothing."""
        if self._charged == "no":
            return error
        changed = error.copied(
            job_id=error.job_id or self._job_id,
            charged=self._charged if error.charged == "no" else error.charged,
            credits=self._credits if error.credits is None else error.credits,
        )
        if self._adopt_instructions:
            changed = changed.copied(
                f"{error}. Job {self._job_id} is paid for, but could not be recorded for the next try. "
                f"To adopt it, free of charge:\n  {self._adopt_instructions}\nThen clear the task."
            )
        return changed

    def _charge(self) -> str:
        return runtime.errors.charge(self._with_charge(runtime.exceptions.MagicHourError("", charged="no")))

    # --- links ---

    def push_watch_link(self, context: Context) -> None:
        """Called before the paid call, since a task with a lost answer needs its page most."""
        with runtime.telemetry.best_effort("The link to the task's page was not stored"):
            ti = context["ti"]
            ti.xcom_push(key=MagicHourWatchLink().xcom_key, value=watch_url(ti))

    def push_link(self, context: Context, job_id: str) -> None:
        """From now on the UI shows the button, and ``on_kill`` knows the job."""
        self._job_id = job_id
        with runtime.telemetry.best_effort("The link to the job was not stored"):
            if url := self.job_link:
                context["ti"].xcom_push(key=MagicHourJobLink().xcom_key, value=url)

    @property
    def job_link(self) -> str:
        """The URL of the job in the vendor's library; empty if the connection has another host."""
        with runtime.telemetry.best_effort("The link to the job is not known"):
            if self._job_id and self.hook.settings.base_url == runtime.wire.BASE_URL:
                return runtime.wire.library_url(self._job_id, self.job_type)
        return ""

    # --- waiting ---

    def deadline(self) -> float:
        """The end of a wait that begins now. Airflow applies no ``execution_timeout`` to a deferred task."""
        limits = [self.timeout]
        if self.execution_timeout:
            limits.append(self.execution_timeout.total_seconds())
        return time.time() + min(limits)

    def defer_until_ended(
        self,
        job_id: str,
        *,
        deadline: float,
        submitted_at: float | None,
        poll_interval: float | None,
        expects_event: bool = False,
        **clip: Any,
    ) -> NoReturn:
        """
        Wait in the triggerer.

        :param expects_event: see ``JobTrigger``.
        :param clip: mode and length, if they are known: see ``JobTrigger``.
        """
        settings = self.hook.settings
        schedule = settings.schedule(
            poll_interval,
            job_type=self.job_type,
            expects_event=expects_event and settings.webhooks,
            **clip,
        )
        age = float("inf") if submitted_at is None else time.time() - submitted_at
        self.log.info(
            "Waiting for job %s in the triggerer, without a worker slot: first poll in about %.0f s; a %s "
            "usually takes about %.0f s",
            *(job_id, schedule.first_poll(age), self.spec.noun, self.spec.usual_render_seconds),
        )
        self.defer(
            trigger=runtime.JobTrigger(
                job_id=job_id,
                job_type=self.job_type,
                magichour_conn_id=self.magichour_conn_id,
                deadline=deadline,
                submitted_at=submitted_at,
                poll_interval=poll_interval,
                expects_event=expects_event,
                **clip,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, deadline - time.time())) + GRACE,
        )

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Resumed by the trigger's one event."""
        with self.as_airflow_errors():
            self.check_arguments()
            self._job_id = event_job_id(event)
            raise_event_error(event)
            return self.collect_result(context, self._job_id)

    # --- the result ---

    def collect_result(self, context: Context, job_id: str) -> dict[str, Any]:
        """
        Download the file of the job to its place, and return what the next task wants to know.

        :raises JobEnded: it made nothing.
        :raises TransferFailed: it is paid for and stays at Magic Hour; a retry is free.
        """
        try:
            if self.output_path:
                job, place = self._download(context, job_id, self.output_path)
            else:
                job, download = self.hook.client.completed(job_id, self.job_type)
                place = {"download_url": download.url, "download_url_expires_at": download.expires_at}
                if self.spec.has_several_files:
                    place["download_urls"] = [one.url for one in job.downloads]
        except runtime.exceptions.JobEnded as ended:
            self._record_end(context, job_id, ending_of(ended))
            raise
        self._result = {
            "job_id": job_id,
            "status": job.status,
            "credits_charged": job.credits_charged,
            **place,
            **self._described(job, place),
        }
        with runtime.telemetry.best_effort("The rendered fields do not show what was sent"):
            self._show_what_was_sent(job)
        self._record_end(context, job_id, {"status": "complete", **self._result, **self._size(place)})
        runtime.telemetry.delivered(self.log, self._result, self.outlets, context, job_type=self.job_type)
        return self._result

    def _described(self, job: Job, place: dict[str, Any]) -> dict[str, Any]:
        described: dict[str, Any] = {}
        if self.spec.result_field:
            described[self.spec.result_field] = runtime.wire.library_url(job.job_id, self.job_type)
        if self.spec.is_sound:
            described["duration_seconds"] = self._measured(job, place)
        if self.spec.has_clip:
            described |= {
                "duration_seconds": job.clip_seconds,
                "width": _pixels(job.width),
                "height": _pixels(job.height),
                "fps": job.fps,
            }
        return described

    def _measured(self, job: Job, place: dict[str, Any]) -> float | None:
        """The API does not say how long a voice is. If it cannot be measured, it is delivered without it."""
        try:
            if uri := place.get("output_path"):
                return runtime.media.of_file(runtime.Source.find("output_path", "audio", uri))
            return runtime.media.of_job(job.job_id, self.hook.client)
        except runtime.exceptions.MagicHourError as error:
            self.log.warning("Job %s: duration_seconds is not known: %s", job.job_id, error)
            return None

    def _size(self, place: dict[str, Any]) -> dict[str, int]:
        with runtime.telemetry.best_effort("The size of the file is not known"):
            if uris := place.get("output_paths", [place["output_path"]] if "output_path" in place else []):
                sizes = [runtime.Source.find("output_path", "image", uri).size for uri in uris]
                return {"size_bytes": sum(sizes)}
        return {}

    def _record_end(
        self, context: Context, job_id: str, ending: dict[str, Any], journal: Journal | None = None
    ) -> None:
        """For people, for the pages in Airflow's UI and for metrics. Nothing else depends on it."""
        with runtime.telemetry.best_effort("How the job ended was not recorded"):
            journal = journal or runtime.Journal.of(context)
            job = self._recorded(journal, job_id)
            journal.record_end(job, runtime.Ending(at=datetime.now(UTC), **ending))
            if job.watched or job.ended is not None:
                return  # another task has paid, or it is counted already
            if ending["status"] in ("error", "canceled"):
                runtime.telemetry.refunded(job.credits_charged)
            else:
                final = ending.get("credits_charged")
                runtime.telemetry.charged(job.credits_charged if final is None else final)

    def _recorded(self, journal: Journal, job_id: str) -> PaidJob:
        """The job as the record has it. One that it does not have is another task's, and is only watched."""
        return journal.record.job(job_id) or runtime.PaidJob(
            job_id=job_id,
            watched=True,
            job_type=self.job_type,
            conn_id=self.magichour_conn_id,
            host=self.hook.settings.base_url,
        )

    def _show_what_was_sent(self, job: Job) -> None:
        """Put it into the fields that the UI shows as rendered: there a person sees what was really sent."""
        for field in ("name", "start_seconds", "end_seconds"):
            if field in self.template_fields and getattr(job, field) is not None:
                setattr(self, field, getattr(job, field))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Airflow's OpenLineage provider, if there is one, calls this, also after the task has failed."""
        return runtime.telemetry.lineage(self.input_files(), self._result, self._job_id, self._error)

    def input_files(self) -> list[str]:
        """The files that the job is made from."""
        files = (getattr(self, field, None) for field in runtime.inputs.ASSET_FIELDS)
        return [str(file) for file in files if file]

    def _download(self, context: Context, job_id: str, output_path: str) -> tuple[Job, dict[str, Any]]:
        targets = self.hook.targets(job_id, runtime.Target(output_path, self.replace), self.job_type)
        try:
            for number, target in enumerate(targets):
                own = self._own(context, job_id, target)
                self.log.info("Downloading the %s of job %s to %s", self.spec.noun, job_id, target.uri)
                job = self.hook.client.download(job_id, own, self.job_type, number=number)
        except (runtime.exceptions.InvalidInput, runtime.exceptions.StorageFailed) as error:
            raise error.copied(
                f"{error}. The {self.spec.noun} of job {job_id} stays at Magic Hour: fix this, then clear "
                "the task to download it",
                job_id=job_id,
                charged="yes",
            ) from error
        if self.spec.has_several_files and len(job.downloads) > len(targets):
            self.log.warning(
                "Job %s has made %d files, and output_path=%s is one: the first is there. End output_path in "
                "'/' to download all",
                *(job_id, len(job.downloads), output_path),
            )
        place: dict[str, Any] = {"output_path": targets[0].uri}
        if self.spec.has_several_files:
            place["output_paths"] = [target.uri for target in targets]
        return job, place

    def _own(self, context: Context, job_id: str, target: Target) -> Target:
        """The target. A file there may be replaced if an earlier try of this task began to write it."""
        if target.replace:
            return target
        journal = runtime.Journal.of(context, patience=self.timeout)
        if journal.is_own_delivery(job_id, target.uri):
            return runtime.Target(target.uri, replace=True)
        target.check()
        journal.record_delivery(self._recorded(journal, job_id), target.uri)
        return target

    # --- a wait that ends before the job ---

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Like Airflow's, but after a crash or timeout of the trigger, the error names the job."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)  # type: ignore[misc]
        except (TaskDeferralError, TaskDeferralTimeout, AirflowSensorTimeout) as error:
            if next_method == "execute_complete":
                raise  # execute_complete has named the job already
            raise type(error)(self.wait_ended_message(error, context)) from error

    def wait_ended_message(self, error: Exception, context: Context) -> str:
        """The error text of a wait that ended before the job; it names the job."""
        return (
            f"{error}: the wait for {self.job_name(context)} ended before the job. The job continues at "
            "Magic Hour and may still finish: a retry, or a sensor with its id, picks it up free of charge"
        )

    def job_name(self, context: Context) -> str:
        raise NotImplementedError

    def on_kill(self) -> None:
        """A killed task leaves its paid job alone. Say which job continues, and how a person can stop it."""
        if not self._job_id:
            return
        then = (
            f"To adopt it, free of charge:\n  {self._adopt_instructions}\nThen clear the task"
            if self._adopt_instructions
            else "Clearing this task picks it up, free of charge"
        )
        self.log.warning(
            "The task was killed; job %s continues at Magic Hour. Only its web app can stop it. %s",
            *(self._job_id, then),
        )


def ending_of(ended: JobEnded) -> dict[str, Any]:
    """The end of a job that made nothing."""
    statuses = {"JobCanceled": "canceled", "JobDeleted": "deleted"}
    status = statuses.get(type(ended).__name__, "error")
    return {"status": status, "error_code": ended.code, "error_message": str(ended)}


def _pixels(value: int | None) -> int | None:
    return value if value and value > 0 else None  # -1 is the vendor's "not known"


def event_job_id(event: Any) -> str:
    """The job id in an event; the event is checked before it is believed."""
    if not isinstance(event, dict) or not isinstance(event.get("job_id"), str):
        raise runtime.exceptions.MagicHourError(f"the trigger's event {event!r} names no job", retryable=True)
    return str(event["job_id"])


def raise_event_error(event: dict[str, Any]) -> None:
    """Raise the error that ended the wait, if the event has one."""
    if "error" not in event:
        return
    error_cls = getattr(runtime.exceptions, str(event.get("error_type")), runtime.exceptions.MagicHourError)
    text = str(event["error"])
    if event["job_id"] not in text:
        text += f" (job {event['job_id']} is paid for and continues at Magic Hour)"
    raise error_cls(text, job_id=event["job_id"], retryable=bool(event.get("retryable")))
