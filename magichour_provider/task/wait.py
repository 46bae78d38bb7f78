"""What operators and sensors share once a job exists: wait for it, collect its result, say how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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

from magichour_provider import task as runtime
from magichour_provider.links import MagicHourJobLink, MagicHourWatchLink, watch_url

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from magichour_provider.api.jobs import JobSpec, JobType
    from magichour_provider.api.models import Job
    from magichour_provider.exceptions import JobEnded, MagicHourError
    from magichour_provider.hooks import MagicHourHook
    from magichour_provider.task.arguments import Check
    from magichour_provider.task.errors import Bill
    from magichour_provider.task.journal import Journal
    from magichour_provider.task.record import PaidJob

# From our deadline to Airflow's timeout of the deferral, because a busy triggerer may be late.
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

    # Has Airflow write the rendered fields again after execution, for _show_what_was_sent. Not on Airflow
    # 3.0, which answers 404 to this write if the task will be retried.
    overwrite_rtif_after_execution = AIRFLOW_V_3_1_PLUS
    operator_extra_links: Any = (MagicHourWatchLink(), MagicHourJobLink())
    _error: MagicHourError | None = None  # the error that ends this try
    _result: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)

    @cached_property
    def hook(self) -> MagicHourHook:
        return runtime.hooks.MagicHourHook(self.magichour_conn_id)

    @cached_property
    def bill(self) -> Bill:
        """What this try knows of the paid call. Each step that changes it sets a new one."""
        return runtime.errors.Bill()

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
        """Is the value, or one nested in it, a template or another reference that Airflow resolves later?"""
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
            named = error.copied(f"task {self.task_id!r}: {error}")
            raise runtime.errors.as_airflow_error(named) from None

    @contextmanager
    def as_airflow_errors(self) -> Iterator[None]:
        """
        An error that a retry can overcome uses Airflow's retries. Any other error ends the task at once, and
        is shown without its cause: the person who has to act needs the message, not the stack.
        """
        try:
            yield
        except runtime.exceptions.MagicHourError as error:
            self._error = self.bill.added_to(error)
            runtime.telemetry.count_error(error)
            raise self.as_airflow_error(error) from (error.__cause__ if error.retryable else None)
        except AirflowTaskTimeout as error:
            raise AirflowTaskTimeout(self.bill.text_of(error)) from None
        except AirflowException:
            raise
        except Exception as error:
            if self.bill.job_id is None:
                raise
            said = f"{type(error).__name__}: {runtime.text.clean(str(error))}"
            bug = runtime.exceptions.MagicHourError(said, retryable=True)
            raise self.as_airflow_error(bug) from error

    def as_airflow_error(self, error: MagicHourError) -> MagicHourError:
        recorded = self.bill.adopt_command is None
        return runtime.errors.as_airflow_error(self.bill.added_to(error), recorded=recorded)

    # --- links ---

    def push_watch_link(self, context: Context) -> None:
        """Called before the paid call, since a task with a lost answer needs its page most."""
        with runtime.telemetry.best_effort("The link to the task's page was not stored"):
            ti = context["ti"]
            ti.xcom_push(key=MagicHourWatchLink().xcom_key, value=watch_url(ti))

    def push_job_link(self, context: Context, job_id: str) -> None:
        """From now on the UI shows the button, and ``on_kill`` knows the job."""
        self.bill = replace(self.bill, job_id=job_id)
        with runtime.telemetry.best_effort("The link to the job was not stored"):
            if url := self.job_link:
                context["ti"].xcom_push(key=MagicHourJobLink().xcom_key, value=url)

    @property
    def job_link(self) -> str:
        """The URL of the job in the vendor's library; empty if the connection has another host."""
        with runtime.telemetry.best_effort("The link to the job is not known"):
            if self.bill.job_id and self.hook.settings.base_url == runtime.wire.BASE_URL:
                return runtime.wire.library_url(self.bill.job_id, self.job_type)
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
            job_id,
            schedule.first_poll(age),
            self.spec.noun,
            self.spec.usual_render_seconds,
        )
        self.defer(
            trigger=runtime.triggers.JobTrigger(
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
            job_id = runtime.triggers.job_id_of(event)
            self.bill = replace(self.bill, job_id=job_id)
            runtime.triggers.raise_if_failed(event)
            return self.collect_result(context, job_id)

    # --- the result ---

    def collect_result(self, context: Context, job_id: str) -> dict[str, Any]:
        """
        Download the file of the job to ``output_path``, and return what the next task wants to know.

        :raises JobEnded: the job made nothing.
        :raises TransferFailed: the job is paid for, and its file stays at Magic Hour; a retry is free.
        """
        try:
            job, self._result = runtime.delivery.Delivery(self, context, job_id).deliver()
        except runtime.exceptions.JobEnded as ended:
            self._record_end(context, job_id, ending_of(ended))
            raise
        with runtime.telemetry.best_effort("The rendered fields do not show what was sent"):
            self._show_what_was_sent(job)
        size = runtime.delivery.size_of(self._result)
        self._record_end(context, job_id, {"status": "complete", **self._result, **size})
        runtime.telemetry.report_delivery(
            self.log, self._result, self.outlets, context, job_type=self.job_type
        )
        return self._result

    def _record_end(
        self, context: Context, job_id: str, ending: dict[str, Any], journal: Journal | None = None
    ) -> None:
        """Record the end for people, for the pages in Airflow's UI and for metrics; nothing depends on it."""
        with runtime.telemetry.best_effort("How the job ended was not recorded"):
            journal = journal or runtime.journal.Journal.of(context)
            job = self.recorded_job(journal, job_id)
            end = runtime.record.Ending(at=datetime.now(UTC), **ending)
            journal.record_end(job, end)
            if job.watched or job.ended is not None:
                return  # another task has paid, or it is counted already
            if end.is_refunded:
                runtime.telemetry.count_refunded(job.credits_charged)
            else:
                final = end.credits_charged
                runtime.telemetry.count_charged(job.credits_charged if final is None else final)

    def recorded_job(self, journal: Journal, job_id: str) -> PaidJob:
        """
        The job as the journal has it. If the journal does not have it, another task has paid for it: then a
        new entry, with ``watched``.
        """
        return journal.record.job(job_id) or runtime.record.PaidJob(
            job_id=job_id,
            watched=True,
            job_type=self.job_type,
            conn_id=self.magichour_conn_id,
            host=self.hook.settings.base_url,
        )

    def _show_what_was_sent(self, job: Job) -> None:
        """Set the rendered template fields to the values that were sent, so that the UI shows them."""
        for field in ("name", "start_seconds", "end_seconds"):
            if field in self.template_fields and getattr(job, field) is not None:
                setattr(self, field, getattr(job, field))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Airflow's OpenLineage provider, if there is one, calls this, also after the task has failed."""
        return runtime.lineage.operator_lineage(
            self.input_files(), self._result, self.bill.job_id, self._error
        )

    def input_files(self) -> list[str]:
        """The files that the job is made from."""
        files = (getattr(self, field, None) for field in runtime.inputs.ASSET_FIELDS)
        return [str(file) for file in files if file]

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
            f"{error}: the wait for {self.job_label(context)} ended before the job. The job continues at "
            "Magic Hour and may still finish: a retry, or a sensor with its id, picks it up free of charge"
        )

    def job_label(self, context: Context) -> str:
        """The job in words, for an error."""
        raise NotImplementedError

    def on_kill(self) -> None:
        """A killed task leaves its paid job alone. Say which job continues, and how a person can stop it."""
        if not self.bill.job_id:
            return
        then = (
            f"To adopt it, free of charge:\n  {self.bill.adopt_command}\nThen clear the task"
            if self.bill.adopt_command
            else "Clearing this task continues with it, free of charge"
        )
        self.log.warning(
            "The task was killed; job %s continues at Magic Hour. Only its web app can stop it. %s",
            self.bill.job_id,
            then,
        )


def ending_of(ended: JobEnded) -> dict[str, Any]:
    """The end of a job that made nothing."""
    return {"status": ended.status, "error_code": ended.code, "error_message": str(ended)}
