"""What a person sees first: the type of the error, its last line about money, and what is not the video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from harness import both_modes

from magichour_provider import exceptions as errors
from magichour_provider.api import wire
from magichour_provider.task.record import Record
from magichour_provider.task.stores import TaskStateStore

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator

ALWAYS: dict[str, Any] = {"times": None}
PAID = "Paid 48 credits. A retry or a Clear of this task continues with job"


@both_modes
def test_a_wait_that_airflow_ends_says_what_was_paid(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    emulator.fault("get_video", status=500, **ALWAYS)
    run = airflow.run(
        "from datetime import timedelta\n"
        "TalkingPhotoOperator(task_id='video', execution_timeout=timedelta(seconds=2), "
        f"deferrable={deferrable}, **VIDEO)"
    )
    (words,) = run.errors()
    (job,) = emulator.jobs()
    assert words.splitlines()[-1].startswith(PAID)
    assert job["id"] in words


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("broken")


@both_modes
@pytest.mark.parametrize(
    "decoration",
    [
        "magichour_provider.api.wire.library_url",
        "magichour_provider.telemetry.Stats.incr",
        "magichour_provider.telemetry.Stats.timing",
        "magichour_provider.task.journal.Journal.record_end",
        "magichour_provider.task.wait.JobMixin._show_what_was_sent",
    ],
)
def test_what_is_not_the_video_cannot_fail_a_paid_task(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    decoration: str,
    deferrable: bool,
) -> None:
    monkeypatch.setattr("magichour_provider.api.wire.BASE_URL", emulator.url)  # so that there is a link
    monkeypatch.setattr(decoration, broken)
    run = airflow.video(output_path=f"{airflow.folder}/out/", deferrable=deferrable)
    assert run.state() == "success", run.errors()
    assert len(list((airflow.folder / "out").glob("*.mp4"))) == 1
    assert emulator.charges() == 1


def broken_read(*_: object) -> None:
    raise RuntimeError("the api-server restarts")


def test_a_task_that_has_paid_never_says_that_it_was_not_charged(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("get_video", status=404, **ALWAYS)
    run = airflow.video(timeout=1)
    assert emulator.charges() == 1
    with monkeypatch.context() as away:
        away.setattr(TaskStateStore, "get", broken_read)
        run.clear()
        assert "It is not known whether this was charged" in run.errors()[0]
    with monkeypatch.context() as without:
        without.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", '{"conn_type": "magichour"}')
        run.clear()
        assert run.errors()[0].splitlines()[-1].startswith(PAID)


def test_a_fault_of_ours_before_the_paid_call_is_sent_leaves_nothing_uncertain(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = wire.paid_call
    tries: list[int] = []

    def broken_once(*args: Any, **kwargs: Any) -> Any:
        tries.append(1)
        return broken() if len(tries) == 1 else create(*args, **kwargs)

    monkeypatch.setattr(wire, "paid_call", broken_once)
    run = airflow.video(retries=1)
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


def test_an_answer_of_the_vendor_that_a_fault_of_ours_hides_is_uncertain(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magichour_provider.api.wire._retry_after", broken)
    run = airflow.video(retries=1)
    (error,) = run.errors()
    assert error.startswith("AirflowFailException: SubmissionUncertain: the paid call was sent")
    assert "curl -X PUT" in error
    assert emulator.charges() == 1


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each record that a task writes, the last one last."""
    found: list[Any] = []
    put = TaskStateStore.set

    def noting(self: TaskStateStore, value: object) -> None:
        put(self, value)
        found.append(value)

    monkeypatch.setattr(TaskStateStore, "set", noting)
    return found


@both_modes
def test_the_record_ends_with_what_was_delivered_and_what_it_cost(
    airflow: Airflow, emulator: Emulator, written: list[Any], deferrable: bool
) -> None:
    airflow.video(output_path=f"{airflow.folder}/out/", deferrable=deferrable)
    record = Record.of(written[-1])
    (intent,), (paid,) = record.intents, record.jobs
    (job,) = emulator.jobs()
    assert (intent.outcome, intent.job_id, intent.estimated_credits) == ("job", job["id"], 48)
    assert job["name"] == intent.name
    assert (paid.job_id, paid.short_id, paid.conn_id) == (job["id"], intent.short_id, "magichour_default")
    assert paid.ended is not None
    assert (paid.ended.status, paid.ended.credits_charged) == ("complete", 48)
    assert paid.ended.output_path == f"{airflow.folder}/out/{job['id']}.mp4"
    assert paid.ended.size_bytes


@both_modes
def test_a_sensor_records_a_job_of_another_task_with_what_is_needed_to_play_it(
    airflow: Airflow, emulator: Emulator, written: list[Any], deferrable: bool
) -> None:
    job_id = airflow.speak(wait_for_completion=False).result("voice")["job_id"]
    sensor = "VoiceGeneratorSensor(task_id='watch', job_id=JOB_ID, deferrable=DEFERRABLE)"
    airflow.run(sensor, JOB_ID=job_id, DEFERRABLE=deferrable)
    (job,) = Record.of(written[-1]).jobs
    assert (job.job_id, job.watched, job.job_type) == (job_id, True, "audio")
    assert (job.conn_id, job.host) == ("magichour_default", emulator.url)
    assert job.ended is not None


@both_modes
@pytest.mark.parametrize(("status", "outcome"), [(502, "refused"), (503, "refused"), (525, "no_job")])
def test_an_error_in_the_vendors_words_is_believed_by_the_next_try_only(
    airflow: Airflow,
    emulator: Emulator,
    written: list[Any],
    status: int,
    outcome: str,
    deferrable: bool,
) -> None:
    emulator.fault("create", status=status, times=1)
    run = airflow.video(deferrable=deferrable, retries=1)
    assert run.state() == "success", run.errors()
    assert [type(error).__name__ for error in run.raised()] == ["Unavailable"], "not repeated at once"
    assert [intent.outcome for intent in Record.of(written[-1]).intents] == [outcome, "job"]
    assert emulator.charges() == 1


def test_a_refused_call_whose_job_is_reported_is_adopted_rather_than_paid_again(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("create", status=502, effect=True, times=1)
    monkeypatch.setattr(
        TaskStateStore,
        "get_reported",
        lambda _: {job["name"][-9:-1]: [{"job_id": job["id"]}] for job in emulator.jobs()},
    )
    run = airflow.video(output_path=f"{airflow.folder}/out/", retries=1)
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1
    assert run.result()["job_id"] == emulator.jobs()[0]["id"]


def test_a_strict_connection_does_not_believe_a_502(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = emulator.connection_json.replace('"extra": {', '"extra": {"strict": true, ')
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", strict)
    emulator.fault("create", status=502, effect=True, times=1)
    run = airflow.video(retries=1)
    assert isinstance(run.raised()[-1], errors.SubmissionUncertain)
    assert emulator.charges() == 1


def test_a_job_is_recorded_when_airflow_comes_back(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failures = TaskStateStore.set, [ConnectionError("away")] * 5

    def sometimes(self: TaskStateStore, value: Any) -> None:
        if emulator.jobs() and failures:
            raise failures.pop()
        put(self, value)

    monkeypatch.setattr(TaskStateStore, "set", sometimes)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    run = airflow.video()
    assert (run.state(), failures, emulator.charges()) == ("success", [], 1)


def test_a_job_that_cannot_be_recorded_ends_the_task_with_the_command_that_adopts_it(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = TaskStateStore.set

    def away_once_paid(self: TaskStateStore, value: Any) -> None:
        if emulator.jobs():
            raise ConnectionError("away")
        put(self, value)

    monkeypatch.setattr(TaskStateStore, "set", away_once_paid)
    run = airflow.video(retries=2)
    (words,) = run.errors()
    assert f'"job_id": "{emulator.jobs()[0]["id"]}"' in words
    assert "curl -X PUT" in words
    assert emulator.charges() == 1
