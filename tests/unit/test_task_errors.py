"""Our errors as Airflow sees them: both ours and Airflow's, picklable, with a last line about money."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)

from magichour_provider import exceptions
from magichour_provider.exceptions import MagicHourError
from magichour_provider.task.errors import Bill, Fail, Retry, Timeout, as_airflow_error

OURS = [cls for cls in vars(exceptions).values() if inspect.isclass(cls) and issubclass(cls, MagicHourError)]


@pytest.mark.parametrize("ours", OURS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("retryable", [True, False])
def test_each_error_is_ours_and_airflows_and_survives_a_pickle(
    ours: type[MagicHourError], retryable: bool
) -> None:
    error = as_airflow_error(ours("why", job_id="cm1", status_code=418, retryable=retryable, credits=48))
    assert isinstance(error, ours)
    assert isinstance(error, AirflowException)
    assert isinstance(error, AirflowFailException) == (not retryable)
    assert type(error).__name__ == ours.__name__
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))


def test_a_sensors_timeout_is_airflows_sensor_timeout() -> None:
    error = as_airflow_error(exceptions.WaitTimeout("too long", job_id="cm1"), Timeout)
    assert isinstance(error, exceptions.WaitTimeout)
    assert isinstance(error, AirflowSensorTimeout)


def test_what_the_error_knows_is_kept() -> None:
    error: Any = as_airflow_error(exceptions.RateLimited("slow down", retry_after=7.0, by_vendor=True))
    assert (error.retry_after, error.by_vendor, error.status_code) == (7.0, True, None)
    again: Any = as_airflow_error(error)
    assert type(again) is type(error)


@pytest.mark.parametrize(
    ("error", "last_line"),
    [
        (exceptions.InvalidInput("x"), "Not charged."),
        (exceptions.JobFailed("x", job_id="cm1", credits=48), "Refunded 48 credits."),
        (exceptions.JobCanceled("x", job_id="cm1"), "Refunded."),
        (
            exceptions.DownloadFailed("x", job_id="cm1", credits=48.0),
            "Paid 48 credits. A retry or a Clear of this task continues with job cm1, free of charge.",
        ),
        (exceptions.JobDeleted("x", job_id="cm1", credits=48), "Paid 48 credits."),
        (exceptions.JobMismatch("x", job_id="cm1"), "Paid."),
        (
            exceptions.SubmissionUncertain("x", credits=221),
            "It is not known whether this was charged; about 221 credits are at stake.",
        ),
        (exceptions.SubmissionUncertain("x"), "It is not known whether this was charged."),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_the_last_line_says_whether_money_was_spent(error: MagicHourError, last_line: str) -> None:
    assert str(as_airflow_error(error)).splitlines()[-1] == last_line


def test_airflows_retry_rules_match_what_can_be_retried() -> None:
    policy = pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow 3.3 has retry rules")
    rule = policy.RetryRule(exception="magichour_provider.exceptions.DownloadFailed")
    assert rule.matches(as_airflow_error(exceptions.DownloadFailed("x")))
    assert not rule.matches(as_airflow_error(exceptions.UploadFailed("x")))


def test_the_namespaces_hold_every_error() -> None:
    for namespace in (Retry, Fail, Timeout):
        assert {name for name in vars(namespace) if not name.startswith("_")} == {
            cls.__name__ for cls in OURS
        }


def test_an_error_of_airflows_says_how_to_adopt_a_job_that_is_not_recorded() -> None:
    lines = Bill("yes", 48, "cm1", "curl …").text_of(TimeoutError("Timeout, PID: 7")).splitlines()
    assert lines[0].startswith("Timeout, PID: 7. Job cm1 is paid for, but could not be recorded")
    assert "  curl …" in lines
    assert lines[-1] == "Paid 48 credits."
