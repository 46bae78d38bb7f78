"""Wait for a job that exists already, whoever submitted it: a video or a voice. Never submits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from magichour_provider.exceptions import JobEnded, RequestFailed, WaitTimeout
from magichour_provider.task.wait import JobMixin, as_airflow_errors

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.api.jobs import JobType
    from magichour_provider.telemetry import PollObserver


class JobSensor(JobMixin, BaseSensorOperator):
    """
    What the sensors share: wait until a job has ended, and bring what it made to ``output_path``.

    It takes a job id from anywhere (an XCom, a person) and costs nothing, so every paid job can be picked up.
    Modes ``poke`` and ``reschedule`` and ``deferrable=True`` end alike. A job that failed fails the sensor at
    once; a failed look does not, until the timeout.

    Templated: ``job_id``, ``output_path`` and ``magichour_conn_id``.

    :param job_id: the job.
    :param output_path: where the file goes, local or object storage; ending in ``/`` it is a folder and the
        file is named after the job. Without it the result holds a signed URL that expires.
    :param replace: overwrite a file at ``output_path``.
    :param magichour_conn_id: the Airflow connection.
    :param deferrable: wait in the triggerer; default: Airflow's ``[operators] default_deferrable``.
    :param timeout: seconds until the sensor gives up. The job goes on.
    :param poke_interval: seconds between two looks; default: the connection's, or timed from render times.
    :param multiple_outputs: each value of the result is an XCom of its own too.
    :returns: the same as the operator that makes such jobs.
    :raises AirflowFailException: the job failed or was canceled (refunded), or was deleted (not refunded).
    :raises AirflowSensorTimeout: it had not ended in time. It goes on, and is paid for.
    """

    template_fields: Sequence[str] = ("job_id", "output_path", "magichour_conn_id")
    ui_color = "#efe7fb"

    def __init__(
        self,
        *,
        job_id: str,
        output_path: str | None = None,
        replace: bool = False,
        magichour_conn_id: str = "magichour_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        timeout: float | timedelta = 3600,
        poke_interval: float | timedelta | None = None,
        multiple_outputs: bool = True,
        **kwargs: Any,
    ) -> None:
        if poke_interval is not None:
            kwargs["poke_interval"] = poke_interval
        super().__init__(timeout=timeout, multiple_outputs=multiple_outputs, **kwargs)
        self.job_id = job_id
        self.output_path = output_path
        self.replace = replace
        self.magichour_conn_id = magichour_conn_id
        self.deferrable = deferrable
        self.fixed_interval = poke_interval is not None
        self.refuse_blank("job_id", "output_path", "magichour_conn_id")

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout as error:
                raise AirflowSensorTimeout(self.wait_ended_message(error, context)) from error
        try:
            seen = self.poke(context)
        except AirflowException as error:  # as poke mode does it
            if self.never_fail or (self.soft_fail and isinstance(error, AirflowFailException)):
                raise AirflowSkipException(f"Skipped, since the sensor may not fail: {error}") from error
            raise
        if seen:
            return seen.xcom_value
        return self.defer_until_ended(
            self.job_id,
            deadline=self.deadline(),
            submitted_at=time.time(),
            poll_interval=self.poke_interval if self.fixed_interval else None,
        )

    @cached_property
    def progress(self) -> PollObserver:
        from magichour_provider.telemetry import PollObserver

        return PollObserver(self.log, self.job_type, from_the_start=False)

    def poke(self, context: Context) -> PokeReturnValue:
        with as_airflow_errors():
            self.refuse_blank("job_id", "output_path", "magichour_conn_id")
            if self._job_id is None:
                self.push_link(context, self.job_id)
            try:
                job = self.hook.get(self.job_id, job_type=self.job_type)
            except RequestFailed as why:
                self.progress.on_poll(why)
                self.progress.on_failed_poll(why)
                return PokeReturnValue(is_done=False)
            self.progress.on_poll(job)
            self.progress.on_change(job)
            if not job.ended or job.awaits_download:
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(is_done=True, xcom_value=self.collect_result(context, self.job_id))

    def collect_result(self, context: Context, job_id: str) -> dict[str, Any]:
        """As the operator's, but a job that has failed stays failed: no retry of a sensor makes it anew."""
        try:
            return super().collect_result(context, job_id)
        except JobEnded as ended:
            ended.retryable = False
            raise

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Resumed by the trigger's one event; a wait that was too long ends as a sensor's does."""
        if isinstance(event, dict) and event.get("error_type") == WaitTimeout.__name__:
            raise AirflowSensorTimeout(event.get("error"))
        return super().execute_complete(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As Airflow's, but ``soft_fail`` skips only what no retry can mend: as poke mode does it."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException as skipped:
            if self.soft_fail and type(skipped.__cause__) is AirflowException:
                raise skipped.__cause__ from None
            raise
        except AirflowException as error:  # Airflow 3.0 skips for fewer reasons
            if self.never_fail or (self.soft_fail and isinstance(error, AirflowSensorTimeout)):
                raise AirflowSkipException(f"Skipped, since the sensor may not fail: {error}") from error
            raise

    def job_name(self, context: Context) -> str:
        return f"job {self.job_id}"

    def _get_next_poke_interval(self, *args: Any) -> float:
        if self.fixed_interval:
            return float(super()._get_next_poke_interval(*args))
        return self.hook.settings.schedule(job_type=self.job_type).next_poll(float("inf"))


class TalkingPhotoSensor(JobSensor):
    """Wait for a video: see ``JobSensor``. It returns what ``TalkingPhotoOperator`` does."""

    job_type: JobType = "video"


class VoiceGeneratorSensor(JobSensor):
    """Wait for a voice: see ``JobSensor``. It returns what ``VoiceGeneratorOperator`` does."""

    job_type: JobType = "audio"
