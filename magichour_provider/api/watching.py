"""Is the wait for a job over? Decided from what each poll has seen, without clock or sockets."""

from __future__ import annotations

import math

from magichour_provider.api.models import Job
from magichour_provider.api.polling import MAX_RETRY_AFTER
from magichour_provider.exceptions import RequestFailed, WaitTimeout

JUST_CREATED = 600.0  # seconds in which the API may not know a job yet that it has just made


class Listener:
    """Receives what a wait sees. This base class ignores it."""

    __slots__ = ()

    def on_poll(self, seen: Job | RequestFailed) -> None:
        """Called after each poll, with the job or the error. It must be quick."""

    def on_change(self, job: Job) -> None:
        """Called if the status has changed since the last poll."""

    def on_failed_poll(self, why: RequestFailed) -> None:
        """Called for the first of several equal failures in a row."""


class JobWatcher:
    """
    Decides after each poll whether a wait is over: the same for operators and sensors, in all modes.

    A failed poll is not a failed job: the wait continues. It ends early if the vendor does not know the job
    or does not accept the key, and says so at several polls for a minute.

    :param deadline: seconds since the epoch.
    :param submitted_at: seconds since the epoch, or None if it is not known. For a while after that, the
        vendor may not know the job yet.
    :ivar problem: why the last poll failed; None if it did not.
    """

    __slots__ = (
        "_deadline",
        "_failures",
        "_failures_since",
        "_job_id",
        "_listener",
        "_polls_for_a_url",
        "_status",
        "_submitted_at",
        "problem",
    )

    POLLS_FOR_A_URL = 3  # further polls if a job is complete, but has no download URL yet
    REFUSALS = 3  # the number of refused polls in a row that ends the wait
    REFUSED_FOR = 60.0  # seconds: the minimum from the first to the last of them
    MAX_CONFIRMING_PAUSE = 30.0  # seconds between polls that may confirm an early end

    def __init__(
        self,
        job_id: str,
        *,
        deadline: float,
        submitted_at: float | None = None,
        listener: Listener = Listener(),  # noqa: B008 (it has no state)
    ) -> None:
        self._job_id = job_id
        self._deadline = deadline
        self._submitted_at = submitted_at
        self._listener = listener
        self._status: str | None = None
        self._polls_for_a_url = self.POLLS_FOR_A_URL
        self.problem: RequestFailed | None = None
        self._failures = 0  # of the same kind, in a row
        self._failures_since = 0.0

    def record_poll(self, seen: Job | RequestFailed, now: float) -> Job | None:
        """
        Decide after a poll.

        :param seen: the job, or why the poll failed.
        :returns: the job if the wait is over, None if it continues.
        :raises NotFound: the account does not know the job; permanent.
        :raises Unauthorized: the key is not accepted; permanent.
        """
        self._listener.on_poll(seen)
        if isinstance(seen, RequestFailed):
            self._failed(seen, now)
            return None
        self.problem = None
        if seen.status != self._status:
            self._status = seen.status
            self._listener.on_change(seen)
        if seen.awaits_download and self._polls_for_a_url and now < self._deadline:
            self._polls_for_a_url -= 1
            return None
        return seen if seen.ended else None

    @property
    def is_confirming(self) -> bool:
        """May the next polls confirm an early end? Then a sensor does not reschedule: it polls again."""
        return self._is_refused() or self._polls_for_a_url < self.POLLS_FOR_A_URL

    def pause(self, scheduled: float) -> float:
        """Seconds until the next poll: the scheduled ones, or more if the API asks for a pause."""
        if self.is_confirming:
            scheduled = min(scheduled, self.MAX_CONFIRMING_PAUSE)
        return max(scheduled, min((self.problem and self.problem.retry_after) or 0.0, MAX_RETRY_AFTER))

    def timeout_error(self, now: float) -> RequestFailed | WaitTimeout:
        """The error of a wait that did not end by its deadline."""
        failed = f", and the last poll failed ({self.problem})" if self.problem else ""
        return self._refusal(now) or WaitTimeout(
            f"job {self._job_id} has not ended in time; its last known status is "
            f"{self._status or 'not known'}{failed}. It continues at Magic Hour and may still finish",
            job_id=self._job_id,
        )

    def _failed(self, failed: RequestFailed, now: float) -> None:
        before = self.problem
        self.problem = failed.with_traceback(None)  # its frames would stay in memory during the wait
        if before is None or (type(failed), failed.status_code) != (type(before), before.status_code):
            self._failures, self._failures_since = 0, now
            self._listener.on_failed_poll(failed)
        self._failures += 1
        lasting = self._failures >= self.REFUSALS and now - self._failures_since >= self.REFUSED_FOR
        if lasting and (refusal := self._refusal(now)):
            raise refusal

    def _is_refused(self) -> bool:
        """Did the vendor itself, and not a proxy, say that it does not know the job or the key?"""
        return self.problem is not None and self.problem.by_vendor and self.problem.status_code in (401, 404)

    def _refusal(self, now: float) -> RequestFailed | None:
        """The error of the last polls, if it can end the wait."""
        if self.problem is None or not self._is_refused():
            return None
        age = math.inf if self._submitted_at is None else now - self._submitted_at
        if self.problem.status_code == 404 and age < JUST_CREATED:
            return None
        seconds = now - self._failures_since
        polls = f"{self._failures} polls in {seconds:.0f} s" if self._failures > 1 else "the last poll"
        return self.problem.copied(f"{self.problem} ({polls} had this answer)", job_id=self._job_id)
