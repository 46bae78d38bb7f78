"""The trigger: one event, no secret in its row, and whatever becomes of it, the job is not lost."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from harness import both_modes

from magichour_provider.api.watching import JobWatcher
from magichour_provider.triggers import JobTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Airflow

    from magichour_provider.emulator import Emulator


@pytest.fixture
def job_id(submit: Callable[[], str]) -> str:
    return submit()


def trigger_for(job_id: str, *, seconds: float = 60) -> JobTrigger:
    return JobTrigger(job_id=job_id, magichour_conn_id="magichour_default", deadline=time.time() + seconds)


async def all_events(trigger: JobTrigger) -> list[dict[str, Any]]:
    return [event.payload async for event in trigger.run()]


async def test_a_job_that_ends_fires_exactly_one_event(emulator: Emulator, job_id: str) -> None:
    assert await all_events(trigger_for(job_id)) == [{"job_id": job_id, "status": "complete"}]


@pytest.mark.parametrize("status", ["error", "canceled"])
async def test_a_job_that_ends_without_a_video_is_one_event_too(
    emulator: Emulator, submit: Callable[[], str], status: str
) -> None:
    emulator.progression = "manual"
    job_id = submit()
    emulator.cancel(job_id) if status == "canceled" else emulator.fail(job_id, "no_source_face")
    assert await all_events(trigger_for(job_id)) == [{"job_id": job_id, "status": status}]


async def test_failed_polls_do_not_end_the_wait(emulator: Emulator, job_id: str) -> None:
    faults = [
        emulator.fault("get_video", **fault)
        for fault in ({"status": 500}, {"status": 401}, {"html": True}, {"reset": "before"}, {"truncate": 5})
    ]
    assert await all_events(trigger_for(job_id)) == [{"job_id": job_id, "status": "complete"}]
    assert [fault.hits for fault in faults] == [1] * 5


async def test_a_log_that_nobody_reads_does_not_block_the_other_triggers(
    emulator: Emulator, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, others_went_on, waited = threading.Event(), threading.Event(), []

    class FullPipe:
        """As a triggerer's log, while its supervisor is busy with the database."""

        def info(self, *_: object) -> None:
            writing.set()
            waited.append(others_went_on.wait(5))

    async def another() -> None:
        await asyncio.to_thread(writing.wait, 20)
        others_went_on.set()

    monkeypatch.setattr(JobTrigger, "logger", FullPipe)
    async with asyncio.timeout(30):
        events, _ = await asyncio.gather(all_events(trigger_for(job_id)), another())
    assert events == [{"job_id": job_id, "status": "complete"}]
    assert waited
    assert all(waited)


async def test_the_deadline_is_one_event_that_names_the_job(emulator: Emulator, job_id: str) -> None:
    emulator.fault("get_video", status=500, times=None)
    (event,) = await all_events(trigger_for(job_id, seconds=0.2))
    assert event["job_id"] == job_id
    assert event["error_type"] == "WaitTimeout"
    assert event["retryable"] is True
    assert job_id in event["error"]


async def test_a_connection_that_is_gone_is_one_event(
    emulator: Emulator, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
    (event,) = await all_events(trigger_for(job_id))
    assert event["error_type"] == "InvalidConnection"
    assert "magichour_default" in event["error"]


async def test_a_triggers_row_is_plain_data_without_a_secret_and_makes_the_same_trigger(
    emulator: Emulator, job_id: str
) -> None:
    classpath, arguments = trigger_for(job_id).serialize()
    assert classpath == "magichour_provider.triggers.JobTrigger"
    row = json.dumps(arguments)
    assert emulator.api_key not in row
    assert "://" not in row
    again = JobTrigger(**json.loads(row))
    assert again.serialize() == (classpath, arguments)
    assert await all_events(again) == [{"job_id": job_id, "status": "complete"}]


async def test_a_key_that_is_rotated_during_the_wait_does_not_end_it(
    emulator: Emulator, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saw = JobWatcher.record_poll

    def rotate(watcher: JobWatcher, seen: Any, now: float) -> Any:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
        return saw(watcher, seen, now)

    monkeypatch.setattr(JobWatcher, "record_poll", rotate)
    monkeypatch.setattr(JobWatcher, "REFUSED_FOR", 0.0)
    revoked = json.dumps(emulator.connection | {"password": "mhk_revoked"})
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", revoked)
    assert await all_events(trigger_for(job_id)) == [{"job_id": job_id, "status": "complete"}]


async def test_a_key_that_stays_wrong_ends_the_wait_after_three_polls(
    emulator: Emulator, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobWatcher, "REFUSED_FOR", 0.0)
    revoked = json.dumps(emulator.connection | {"password": "mhk_revoked"})
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", revoked)
    (event,) = await all_events(trigger_for(job_id))
    assert (event["error_type"], event["retryable"]) == ("Unauthorized", False)
    assert "check the API key" in event["error"]
    assert len(emulator.requests("get_video")) == 3


@pytest.mark.parametrize("argument", ["job_type", "mode", "clip_seconds"])
async def test_a_row_from_before_an_argument_existed_waits_for_a_video(
    emulator: Emulator, job_id: str, argument: str
) -> None:
    _, arguments = trigger_for(job_id).serialize()
    del arguments[argument]
    assert await all_events(JobTrigger(**arguments)) == [{"job_id": job_id, "status": "complete"}]
    assert emulator.requests("get_audio") == []


async def test_a_person_who_ends_the_task_does_not_destroy_the_job(
    emulator: Emulator, job_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    await trigger_for(job_id).on_kill()
    await trigger_for(job_id).cleanup()
    assert emulator.requests("delete_video") == []
    assert job_id in capfd.readouterr().out


@pytest.fixture
def trigger_that_never_fires(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In place of the trigger's event comes what the scheduler or the triggerer resumes a task with."""
    from airflow.sdk.definitions import dag as dag_test
    from airflow.sdk.execution_time import supervisor

    def install(reason: str) -> None:
        run_task: Any = supervisor.run_task_in_process
        run_trigger: Any = dag_test._run_inline_trigger
        struck: list[str] = []

        def resume_with_failure(ti: Any, task: Any) -> Any:
            step = run_task(ti, task)
            if step.state == "deferred" and not struck:
                step.msg.next_method = "__fail__"
                step.msg.next_kwargs = {"error": reason}
            return step

        def fire_nothing_once(trigger: Any, ti: Any) -> Any:
            if struck:
                return run_trigger(trigger, ti)
            struck.append(reason)
            return None

        monkeypatch.setattr(supervisor, "run_task_in_process", resume_with_failure)
        monkeypatch.setattr(dag_test, "_run_inline_trigger", fire_nothing_once)

    return install


@pytest.mark.parametrize(
    ("reason", "error"),
    [("Trigger timeout", "TaskDeferralTimeout"), ("Trigger failure", "TaskDeferralError")],
)
def test_a_trigger_that_crashed_or_timed_out_says_what_became_of_the_job_and_a_retry_resumes_it(
    airflow: Airflow, emulator: Emulator, trigger_that_never_fires: Any, reason: str, error: str
) -> None:
    trigger_that_never_fires(reason)
    run = airflow.video(deferrable=True, retries=1, output_path=f"{airflow.folder}/out/")
    (words,) = run.errors()
    assert f"{error}: {reason}: the wait for job" in words
    assert emulator.jobs()[0]["id"] in words
    assert "free of charge" in words
    assert run.state() == "success"
    assert emulator.charges() == 1


@pytest.mark.parametrize(
    ("reason", "error"),
    [("Trigger timeout", "AirflowSensorTimeout"), ("Trigger failure", "TaskDeferralError")],
)
def test_a_sensors_trigger_that_crashed_or_timed_out_says_what_became_of_the_job(
    airflow: Airflow,
    emulator: Emulator,
    submit: Callable[[], str],
    trigger_that_never_fires: Any,
    reason: str,
    error: str,
) -> None:
    emulator.progression = "polls:2"
    job_id = submit()
    trigger_that_never_fires(reason)
    (words,) = airflow.sense(job_id, deferrable=True).errors()
    assert f"{error}: {reason}: the wait for job" in words
    assert job_id in words
    assert "free of charge" in words


def test_an_event_that_names_no_job_is_not_believed_and_a_retry_resumes_the_job(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    serious = JobTrigger.run
    strange: list[Any] = ["not an event", {"status": "complete"}, None]

    async def run(trigger: JobTrigger) -> Any:
        from airflow.triggers.base import TriggerEvent

        if strange:
            yield TriggerEvent(strange.pop())
        async for event in serious(trigger):
            yield event

    monkeypatch.setattr(JobTrigger, "run", run)
    done = airflow.video(deferrable=True, retries=3)
    assert done.state() == "success", done.errors()
    assert len(done.errors()) == 3
    assert emulator.charges() == 1


LIMITS: dict[str, dict[str, Any]] = {
    "timeout": {"timeout": 0.5},
    "execution_timeout": {"execution_timeout": timedelta(seconds=3)},  # from before it is paid, so not less
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
@both_modes
def test_a_wait_that_exceeds_its_limit_fails_and_a_clear_resumes_the_job(
    airflow: Airflow, emulator: Emulator, limit: dict[str, Any], deferrable: bool
) -> None:
    emulator.progression = "manual"
    run = airflow.video(deferrable=deferrable, output_path=f"{airflow.folder}/out/", **limit)
    assert run.state() == "failed"
    (job,) = emulator.jobs()
    (words,) = run.errors()
    assert job["id"] in words

    emulator.move(job["id"], "complete")
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


def test_a_deferral_that_outlives_our_deadline_is_ended_by_airflow(airflow: Airflow) -> None:
    run = airflow.video(deferrable=True, timeout=600, execution_timeout=timedelta(seconds=90))
    deferral = run.steps[0].msg
    assert timedelta(seconds=90) <= deferral.trigger_timeout <= timedelta(seconds=90 + 300)
