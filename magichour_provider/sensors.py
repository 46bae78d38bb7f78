"""Wait for a job that a task or a person has submitted. Sensors never submit."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from magichour_provider import task as runtime
from magichour_provider.task.wait import JobMixin

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.api.jobs import JobType
    from magichour_provider.api.models import Job
    from magichour_provider.api.watching import JobWatcher
    from magichour_provider.exceptions import MagicHourError, RequestFailed
    from magichour_provider.task.arguments import Check

SKIPPED = "Skipped instead of failed (soft_fail or never_fail)"


class JobSensor(JobMixin, BaseSensorOperator):
    """
    Wait until a job of any type has ended, and download what it made to ``output_path``.

    It takes a job id from anywhere (an XCom, a person) and costs nothing, so every paid job can be picked up.
    Modes ``poke`` and ``reschedule`` and ``deferrable=True`` end in the same way. A failed job fails the
    sensor at once. A failed poll does not: the sensor polls again until the timeout. It fails earlier if the
    vendor says, at three polls and for a minute, that the account does not know the job, or that the key is
    not accepted.

    Templated: ``job_id``, ``output_path``, ``replace`` and ``magichour_conn_id``.

    .. versionadded:: 0.1.0

    :param job_id: the job.
    :param job_type: what the job makes: ``video``, ``audio`` or ``image``; a subclass knows its own type.
    :param output_path: where the file goes, local or object storage. A path that ends in ``/`` is a folder,
        and the file is named after the job. Without a path, the result has a signed URL that expires.
    :param replace: overwrite a file at ``output_path``.
    :param magichour_conn_id: the Airflow connection.
    :param deferrable: wait in the triggerer; default: Airflow's ``[operators] default_deferrable``.
    :param timeout: seconds until the sensor gives up; default 3600. The job continues.
    :param poke_interval: seconds between two polls; default: the connection's, or chosen from render times.
    :param multiple_outputs: each value of the result is an XCom of its own too.
    :returns: the same as the operator that makes such jobs.
    :raises JobEnded: the job failed or was canceled (refunded), or was deleted (not refunded); no retry.
    :raises NotFound: the account does not know the job; no retry.
    :raises Unauthorized: the key is not accepted; no retry.
    :raises WaitTimeout: the job has not ended in time. It continues, and is paid for.
    """

    template_fields: Sequence[str] = ("job_id", "output_path", "replace", "magichour_conn_id")
    ui_color = "#efe7fb"

    _deadline: float
    _watcher: JobWatcher
    _submitted_at: float | None = None  # by the vendor's clock

    def __init__(
        self,
        *,
        job_id: str,
        job_type: JobType | None = None,
        output_path: str | None = None,
        replace: bool | str | None = None,
        magichour_conn_id: str | None = None,
        deferrable: bool | None = None,
        timeout: float | timedelta | str | None = None,
        poke_interval: float | timedelta | str | None = None,
        multiple_outputs: bool = True,
        **kwargs: Any,
    ) -> None:
        self.task_id = kwargs.get("task_id", "")
        with self.at_parse_time():  # Airflow's own errors about these two say less
            seconds = runtime.arguments.seconds
            kwargs["timeout"] = 3600.0 if timeout is None else seconds("timeout", timeout)
            if poke_interval is not None:
                kwargs["poke_interval"] = seconds("poke_interval", poke_interval)
        super().__init__(multiple_outputs=multiple_outputs, **kwargs)
        self.render_template_as_native_obj = False  # it would turn "2026" into a number
        self.job_id = job_id
        self.job_type = self.job_type if job_type is None else job_type
        self.output_path = output_path
        self.replace = replace  # type: ignore[assignment] # until check_arguments
        self.magichour_conn_id = magichour_conn_id  # type: ignore[assignment]
        self.deferrable = deferrable  # type: ignore[assignment]
        self.fixed_interval = poke_interval is not None
        with self.at_parse_time():
            self.check_arguments()

    def arguments(self) -> dict[str, tuple[Check, Any]]:
        return {
            **super().arguments(),
            "job_id": (runtime.arguments.job_id, None),
            "job_type": (runtime.arguments.job_type, None),
        }

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout as error:
                with self.as_airflow_errors():
                    raise self._watcher.timeout_error(time.time()) from error
        try:
            seen = self.poke(context)
        except AirflowException as error:  # the same as in poke mode
            if self.never_fail or (self.soft_fail and isinstance(error, AirflowFailException)):
                raise AirflowSkipException(f"{SKIPPED}: {error}") from error
            raise
        if seen:
            return seen.xcom_value
        return self.defer_until_ended(
            self.job_id,
            deadline=self.deadline(),
            submitted_at=self._submitted_at,
            poll_interval=self.poke_interval if self.fixed_interval else None,
        )

    def poke(self, context: Context) -> PokeReturnValue:
        with self.as_airflow_errors():
            if self.bill.job_id is None:
                self.check_arguments()
                self.push_watch_link(context)
                self.push_job_link(context, self.job_id)
                self._watch(context)
            while (job := self._poll()) is None:
                # In mode "reschedule" the state of a poke is lost. So a poke that may confirm an early end
                # polls until it is confirmed.
                left = self._deadline - time.time()
                if self.deferrable or not self.reschedule or not self._watcher.is_confirming or left <= 0:
                    return PokeReturnValue(is_done=False)
                time.sleep(min(self._pause(), left))
            return PokeReturnValue(is_done=True, xcom_value=self.collect_result(context, job.job_id))

    def _watch(self, context: Context) -> None:
        """The wait begins with the first poke. In mode ``reschedule`` another process may have made it."""
        began = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        self._deadline = began.timestamp() + self.timeout if began else self.deadline()
        observer = runtime.telemetry.PollObserver(self.log, self.job_type, from_the_start=False)
        self._watcher = runtime.watching.JobWatcher(self.job_id, deadline=self._deadline, listener=observer)

    def _poll(self) -> Job | None:
        """The job, if the wait is over."""
        seen: Job | RequestFailed
        try:
            seen = self.hook.get(self.job_id, job_type=self.job_type)
            self._submitted_at = seen.creation_time
        except runtime.exceptions.RequestFailed as failed:
            seen = failed
        return self._watcher.record_poll(seen, time.time())

    def _pause(self) -> float:
        """Seconds until the next poll."""
        schedule = self.hook.settings.schedule(
            self.poke_interval if self.fixed_interval else None, job_type=self.job_type
        )
        age = math.inf if self._submitted_at is None else time.time() - self._submitted_at
        return self._watcher.pause(schedule.next_poll(age))

    def collect_result(self, context: Context, job_id: str) -> dict[str, Any]:
        """Like the operator's. But a failed job is final here: a retry of a sensor makes no new job."""
        try:
            return super().collect_result(context, job_id)
        except runtime.exceptions.JobEnded as ended:
            raise ended.copied(retryable=False) from None

    def as_airflow_error(self, error: MagicHourError) -> MagicHourError:
        """A wait that was too long ends as a sensor's timeout."""
        if isinstance(error, runtime.exceptions.WaitTimeout):
            return runtime.errors.as_airflow_error(error, runtime.errors.Timeout)
        return super().as_airflow_error(error)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As in poke mode, ``soft_fail`` skips only an error that no retry can overcome."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException as skipped:
            cause = skipped.__cause__
            if self.soft_fail and not isinstance(cause, AirflowFailException | AirflowSensorTimeout | None):
                raise cause from None
            raise
        except AirflowException as error:  # Airflow 3.0 skips for fewer reasons
            if self.never_fail or (self.soft_fail and isinstance(error, AirflowSensorTimeout)):
                raise AirflowSkipException(f"{SKIPPED}: {error}") from error
            raise

    def job_label(self, context: Context) -> str:
        return f"job {self.job_id}"

    def _get_next_poke_interval(self, *args: Any) -> float:
        if self.fixed_interval:
            return self._watcher.pause(float(super()._get_next_poke_interval(*args)))
        return self._pause()


class TalkingPhotoSensor(JobSensor):
    """
    Wait for a video: see ``JobSensor``. It returns what ``TalkingPhotoOperator`` does.

    .. versionadded:: 0.1.0
    """

    job_type: JobType = "video"


class VoiceGeneratorSensor(JobSensor):
    """
    Wait for a voice: see ``JobSensor``. It returns what ``VoiceGeneratorOperator`` does.

    .. versionadded:: 0.1.0
    """

    job_type: JobType = "audio"
