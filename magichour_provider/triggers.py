"""Waits for a job in the triggerer. Only looks: nothing here can pay, cancel or delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from magichour_provider.api.jobs import JobType
from magichour_provider.exceptions import MagicHourError
from magichour_provider.hooks import MagicHourHook
from magichour_provider.telemetry import NonBlockingLogger, PollObserver


class JobTrigger(BaseTrigger):
    """
    Look at a job until it has ended or the deadline has passed, then fire exactly one event.

    The event is ``{"job_id", "status"}``, or ``{"job_id", "error", "error_type", "retryable"}``. It carries
    no URL: whoever resumes asks for a fresh one.

    :param job_type: ``video`` or ``audio``.
    :param deadline: seconds since the epoch.
    :param submitted_at: likewise; with it, the first look waits for the schedule.
    :param poll_interval: seconds between two looks, rather than the connection's or the schedule's.
    """

    def __init__(
        self,
        *,
        job_id: str,
        magichour_conn_id: str,
        deadline: float,
        job_type: JobType = "video",
        submitted_at: float | None = None,
        poll_interval: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.job_type = job_type
        self.magichour_conn_id = magichour_conn_id
        self.deadline = deadline
        self.submitted_at = submitted_at
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("job_id", "job_type", "magichour_conn_id", "deadline", "submitted_at", "poll_interval")
        return "magichour_provider.triggers.JobTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        log = NonBlockingLogger(self.logger())  # one for all: ten thousand may wait
        try:
            async with MagicHourHook(self.magichour_conn_id).async_client() as client:
                job = await client.wait(
                    self.job_id,
                    self.job_type,
                    deadline=self.deadline,
                    submitted_at=self.submitted_at,
                    poll_interval=self.poll_interval,
                    listener=PollObserver(log, self.job_type, from_the_start=self.submitted_at is not None),
                )
            event: dict[str, Any] = {"job_id": self.job_id, "status": job.status}
        except MagicHourError as error:
            event = {
                "job_id": self.job_id,
                "error": str(error),
                "error_type": type(error).__name__,
                "retryable": error.retryable,
            }
        await log.written()
        yield TriggerEvent(event)

    async def on_kill(self) -> None:
        """Airflow 3.3 and newer: a person has ended the task. The job is paid for, so it is left alone."""
        self.log.warning(
            "The task was ended by a person; job %s goes on at Magic Hour. Only its web app can stop it",
            self.job_id,
        )
