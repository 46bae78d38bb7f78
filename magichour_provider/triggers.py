"""Waits for a job in the triggerer. It only polls: nothing here can pay, cancel or delete."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from magichour_provider import exceptions
from magichour_provider.api.client import Settings
from magichour_provider.api.flows import JUST_SUBMITTED
from magichour_provider.api.jobs import JobType
from magichour_provider.api.models import Job
from magichour_provider.exceptions import MagicHourError, Unauthorized
from magichour_provider.hooks import MagicHourHook
from magichour_provider.telemetry import NonBlockingLogger, PollObserver, tags_of

if TYPE_CHECKING:
    from magichour_provider.api.client.asynchronous import AsyncMagicHourClient


class JobTrigger(BaseTrigger):
    """
    Poll a job until it has ended or the deadline has passed, then fire exactly one event.

    The event is ``{"job_id", "status"}``, or ``{"job_id", "error", "error_type", "retryable"}``. It has no
    URL: the resumed task asks for a fresh one.

    .. versionadded:: 0.1.0

    :param job_id: the job.
    :param magichour_conn_id: the Airflow connection.
    :param job_type: ``video``, ``audio`` or ``image``.
    :param deadline: seconds since the epoch.
    :param submitted_at: seconds since the epoch. If it is given, the schedule decides when to poll first;
        otherwise the first poll is at once.
    :param poll_interval: seconds between two polls, rather than the connection's or the schedule's.
    :param mode: the generation mode or the tool, if it is known. The triggerer learns render times for each
        mode and clip length.
    :param clip_seconds: how long the clip is, if it is known.
    :param expects_event: a webhook's event may end this wait, if the connection has webhooks.
    """

    _WAIT_OPTIONS = (
        "job_type",
        "deadline",
        "submitted_at",
        "poll_interval",
        "mode",
        "clip_seconds",
        "expects_event",
    )
    _client: AsyncMagicHourClient | None = None

    def __init__(
        self,
        *,
        job_id: str,
        magichour_conn_id: str,
        deadline: float,
        job_type: JobType = "video",
        submitted_at: float | None = None,
        poll_interval: float | None = None,
        mode: str | None = None,
        clip_seconds: float | None = None,
        expects_event: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.job_type = job_type
        self.magichour_conn_id = magichour_conn_id
        self.deadline = deadline
        self.submitted_at = submitted_at
        self.poll_interval = poll_interval
        self.mode = mode
        self.clip_seconds = clip_seconds
        self.expects_event = expects_event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "magichour_provider.triggers.JobTrigger", {
            "job_id": self.job_id,
            "magichour_conn_id": self.magichour_conn_id,
            **self._waiting(),
        }

    def _waiting(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._WAIT_OPTIONS}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        log = NonBlockingLogger(self.logger())  # one for all: ten thousand may wait
        try:
            job = await self._wait(log)
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

    async def _wait(self, log: NonBlockingLogger) -> Job:
        new = self.submitted_at is not None and time.time() - self.submitted_at < JUST_SUBMITTED
        tags = tags_of(getattr(self, "task_instance", None))
        observer = PollObserver(log, self.job_type, from_the_start=new, tags=tags)
        hook = MagicHourHook(self.magichour_conn_id)
        refused: tuple[Settings, Unauthorized] | None = None
        while True:
            async with hook.async_client() as client:
                if refused and refused[0] == client.settings:
                    raise refused[1]
                self._client = client
                try:
                    job = await client.wait(self.job_id, **self._waiting(), listener=observer)
                    if self._record_finder(by_poll=True):
                        log.warning(
                            "Connection %s: a poll detected the end of 3 of the last 10 jobs before a "
                            "webhook event did. The events do not seem to arrive, so jobs are polled as "
                            "without webhooks",
                            self.magichour_conn_id,
                        )
                    return job
                except Unauthorized as error:  # the key may have been rotated since the client was opened
                    client.outdated, refused = True, (client.settings, error)

    def _record_finder(self, *, by_poll: bool) -> bool:
        """See ``RenderTimes``. A person can end the wait too, so its end says nothing about render times."""
        if self._client is None or not self._client.settings.webhooks or not self.expects_event:
            return False
        return self._client.renders.record_finder(by_poll=by_poll)

    async def on_kill(self) -> None:
        """Airflow 3.3 and newer: a webhook's event or a person has ended the wait. The job is left alone."""
        self.log.info(
            "The wait for job %s was ended from outside: by a webhook's event, or by a person. The job is "
            "left alone; only Magic Hour's web app can stop it",
            self.job_id,
        )
        self._record_finder(by_poll=False)


def job_id_of(event: Any) -> str:
    """
    The job id in the event of a trigger or a webhook.

    :raises MagicHourError: the event cannot be used; retryable.
    """
    if not isinstance(event, dict) or not isinstance(event.get("job_id"), str):
        raise MagicHourError(f"the trigger's event {event!r} names no job", retryable=True)
    return str(event["job_id"])


def raise_if_failed(event: dict[str, Any]) -> None:
    """Raise the error that ended the wait, if the event has one."""
    if "error" not in event:
        return
    error_cls = getattr(exceptions, str(event.get("error_type")), None)
    if not (isinstance(error_cls, type) and issubclass(error_cls, MagicHourError)):
        error_cls = MagicHourError
    text = str(event["error"])
    if event["job_id"] not in text:
        text += f" (job {event['job_id']} is paid for and continues at Magic Hour)"
    raise error_cls(text, job_id=event["job_id"], retryable=bool(event.get("retryable")))
