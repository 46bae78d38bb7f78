"""Which failed calls this package repeats by itself, and after what pause. Airflow's retries do the rest."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import tenacity

from magichour_provider.exceptions import RequestFailed, TransferFailed, Unavailable

log = logging.getLogger(__name__)

MAX_RETRY_AFTER_CALL = 60.0  # seconds; after a longer Retry-After the caller decides
RETRY_429_SECONDS = 300.0  # of one paid call, upload or download

_short_backoff = tenacity.wait_exponential(multiplier=0.5, max=8) + tenacity.wait_random(0, 0.5)


def _is_429(error: BaseException | None) -> bool:
    return getattr(error, "status_code", None) == 429


def _retry_after(error: BaseException | None) -> float:
    """The pause in seconds that the server asked for, in this error or in its cause."""
    own = getattr(error, "retry_after", None)
    return own or getattr(error and error.__cause__, "retry_after", None) or 0.0


def backoff(state: tenacity.RetryCallState) -> float:
    """
    Our own pause before the next attempt, in seconds.

    After a 429 the pause is fully random, since the other callers were refused in the same moment. Its range
    grows with the time waited, not with the attempts: a range that doubles leaves much of the rate limit
    unused. So 64 callers use 80 % or more of a limit of 4, 2 or 1 calls a second:
    ``tests/unit/test_herd.py``.
    """
    if _is_429(_error(state)):
        return random.uniform(0, max(1.5, (state.seconds_since_start or 0.0) / 30))  # noqa: S311 - no secret
    return _short_backoff(state)


def pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: the pause that the server asked for, and then our own."""
    return _retry_after(_error(state)) + backoff(state)


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _may_repeat(error: BaseException) -> bool:
    return (
        isinstance(error, RequestFailed | TransferFailed)
        and error.retryable
        and _retry_after(error) <= MAX_RETRY_AFTER_CALL
    )


def _was_not_sent(error: BaseException) -> bool:
    return isinstance(error, Unavailable) and not error.sent and _may_repeat(error)


def _policy(may_repeat: Callable[[BaseException], bool], stop: Any = None) -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception(may_repeat),
        "stop": stop or tenacity.stop_after_attempt(4),
        "wait": pause,
        "reraise": True,
    }


# Arguments for tenacity's blocking and async drivers.
RETRY_SAFE = _policy(_may_repeat)
RETRY_TRANSFER = _policy(lambda error: _may_repeat(error) and not _is_429(error))
NO_RETRY = {"stop": tenacity.stop_after_attempt(1), "reraise": True}


def retry_submit(pausing: Callable[[bool], object]) -> dict[str, Any]:
    """
    Arguments for tenacity, for the paid call. It is repeated only if it was not sent, so not after a 502 or
    503.

    :param pausing: called with True when a pause begins, and with False before the next attempt.
    """
    return _policy(_was_not_sent) | {
        "before": lambda _: pausing(False),
        "before_sleep": lambda _: pausing(True),
    }


def retry_429(seconds: float, pausing: Callable[[bool], object] = bool) -> dict[str, Any]:
    """
    Arguments for tenacity, around one of the policies above: repeat a call for this many seconds while the
    API answers HTTP 429, which makes no job. So a burst of tasks spends none of Airflow's retries on it.

    :param pausing: see ``retry_submit``.
    """

    def begin_pause(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            log.info("The API is busy (HTTP 429): this call is repeated for up to %g s", seconds)
        pausing(True)

    attempts = 10 + round(seconds)  # more than there is time for, unless the pauses are switched off
    stop = tenacity.stop_before_delay(seconds) | tenacity.stop_after_attempt(attempts)
    return _policy(_is_429, stop) | {"before": lambda _: pausing(False), "before_sleep": begin_pause}
