"""The sensor: the same endings in all three modes, and never a charge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

from magichour_provider.api.watching import JobWatcher
from magichour_provider.exceptions import JobFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Airflow

    from magichour_provider.emulator import Emulator

MODES = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
}
NOT_ON_3_0 = {
    "reschedule": pytest.mark.skipif(
        airflow_version.startswith("3.0."), reason="dag.test() of Airflow 3.0 cannot reschedule a sensor"
    )
}
each_mode = pytest.mark.parametrize(
    "mode", [pytest.param(given, id=name, marks=NOT_ON_3_0.get(name, ())) for name, given in MODES.items()]
)


@pytest.fixture
def job_id(emulator: Emulator, submit: Callable[[], str]) -> str:
    """A job that somebody submitted, and that goes on for two more polls."""
    emulator.progression = "polls:3"
    return submit()


@each_mode
def test_a_job_given_by_hand_is_waited_for_and_delivered(
    airflow: Airflow, emulator: Emulator, job_id: str, mode: dict[str, Any]
) -> None:
    run = airflow.sense(job_id, output_path=f"{airflow.folder}/out/", **mode)
    assert run.state() == "success", run.errors()
    assert run.result()["job_id"] == job_id
    assert run.result()["status"] == "complete"
    assert Path(run.result()["output_path"]).read_bytes()[4:8] == b"ftyp"
    assert len(emulator.requests("create")) == 1


@each_mode
def test_a_job_from_another_task_is_waited_for_and_the_result_is_a_url(
    airflow: Airflow, emulator: Emulator, mode: dict[str, Any]
) -> None:
    emulator.progression = "polls:2"
    run = airflow.run(
        """
        submitted = TalkingPhotoOperator(task_id="submit", **VIDEO, wait_for_completion=False)
        TalkingPhotoSensor(task_id="video", job_id="{{ ti.xcom_pull('submit')['job_id'] }}", **MODE)
        submitted >> dag.get_task("video")
        """,
        MODE=mode,
    )
    assert run.state() == "success", run.errors()
    assert run.result()["download_url"].startswith(emulator.url)
    assert emulator.charges() == 1


@each_mode
@pytest.mark.parametrize("has_ended", [True, False], ids=["before", "while it is waited for"])
def test_a_failed_job_fails_the_sensor_at_once_though_its_error_is_transient(
    airflow: Airflow,
    emulator: Emulator,
    submit: Callable[[], str],
    has_ended: bool,
    mode: dict[str, Any],
) -> None:
    emulator.progression = "polls:1" if has_ended else "polls:3"
    emulator.fault("create", ends="error:unknown_error")
    job_id = submit()
    run = airflow.sense(job_id, retries=2, **mode)
    assert run.state() == "failed"
    (error,) = run.raised()
    assert isinstance(error, AirflowFailException)
    assert isinstance(error, JobFailed)
    assert "unknown_error" in str(error)
    assert job_id in str(error)


@each_mode
@pytest.mark.parametrize("ends", ["error:unknown_error", None], ids=["a failed job", "a job without end"])
def test_a_soft_failure_skips(
    airflow: Airflow, emulator: Emulator, submit: Callable[[], str], ends: str | None, mode: dict[str, Any]
) -> None:
    if ends is None:
        emulator.progression = "manual"
    else:
        emulator.progression = "polls:3"
        emulator.fault("create", ends=ends)
    job_id = submit()
    run = airflow.sense(job_id, soft_fail=True, timeout=0.2, **mode)
    assert run.state() == "skipped", run.errors()


@each_mode
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_failed_download_is_worth_a_retry(
    airflow: Airflow, emulator: Emulator, job_id: str, soft_fail: bool, mode: dict[str, Any]
) -> None:
    emulator.fault("download", cut=50, times=4)  # as often as the client tries by itself
    run = airflow.sense(job_id, output_path=f"{airflow.folder}/out/", soft_fail=soft_fail, retries=1, **mode)
    assert run.state() == "success", run.errors()
    (error,) = run.errors()
    assert "DownloadFailed" in error
    assert [path.name for path in (airflow.folder / "out").iterdir()] == [f"{job_id}.mp4"]


@each_mode
@pytest.mark.parametrize("polls", [1, 3], ids=["at the first poll", "later"])
def test_a_sensor_that_may_never_fail_skips_whatever_goes_wrong(
    airflow: Airflow, emulator: Emulator, submit: Callable[[], str], polls: int, mode: dict[str, Any]
) -> None:
    emulator.progression = f"polls:{polls}"
    emulator.fault("download", status=500, times=None)
    job_id = submit()
    run = airflow.sense(job_id, output_path=f"{airflow.folder}/out/", never_fail=True, **mode)
    assert run.state() == "skipped", run.errors()


@each_mode
def test_a_wait_that_is_too_long_ends_as_a_sensors_does_and_names_the_job(
    airflow: Airflow, emulator: Emulator, job_id: str, mode: dict[str, Any]
) -> None:
    emulator.progression = "manual"
    run = airflow.sense(job_id, timeout=0.2, retries=2, **mode)
    assert run.state() == "failed"
    (error,) = run.errors()
    assert isinstance(run.raised()[0], AirflowSensorTimeout)
    assert job_id in error
    assert error.count("free of charge") == 1


@each_mode
def test_a_job_that_the_account_does_not_know_fails_the_sensor_after_three_polls(
    airflow: Airflow, emulator: Emulator, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobWatcher, "REFUSED_FOR", 0.0)
    run = airflow.sense("cm0123456789", retries=2, **mode)
    assert run.state() == "failed"
    (error,) = run.errors()
    assert "NotFound" in error
    assert "check the job id" in error
    assert "continues at Magic Hour" not in error
    assert 3 <= len(emulator.requests("get_video")) <= 4  # a deferrable sensor has polled before it defers


@each_mode
def test_a_video_without_a_url_is_polled_three_more_times_and_is_then_worth_a_retry(
    airflow: Airflow, emulator: Emulator, job_id: str, mode: dict[str, Any]
) -> None:
    no_url = emulator.fault(
        "get_video", body={"id": job_id, "status": "complete", "downloads": []}, times=None
    )
    run = airflow.sense(job_id, **mode)
    (error,) = run.errors()
    assert "DownloadFailed" in error
    assert "no download URL" in error
    assert 4 + 4 <= no_url.hits <= 5 + 4  # four polls, and four attempts to have the URL


def test_a_failure_that_goes_on_is_logged_once(
    airflow: Airflow, emulator: Emulator, job_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = emulator.fault("get_video", status=500, times=12)
    assert airflow.sense(job_id, mode="poke").state() == "success"
    assert failing.hits == 12
    assert capfd.readouterr().out.count("A poll of the job failed") == 1


@each_mode
def test_a_failed_poll_is_not_a_failed_job(
    airflow: Airflow, emulator: Emulator, job_id: str, mode: dict[str, Any]
) -> None:
    faults = [
        emulator.fault("get_video", **fault)
        for fault in (
            {"status": 500},
            {"status": 401},
            {"status": 404},
            {"status": 200, "html": True},
            {"truncate": 9},
            {"reset": "before"},
        )
    ]
    run = airflow.sense(job_id, timeout=60, **mode)
    assert run.state() == "success", run.errors()
    assert all(fault.hits for fault in faults)


def test_a_file_that_is_there_already_is_not_overwritten(airflow: Airflow, job_id: str) -> None:
    target = airflow.folder / "video.mp4"
    target.write_text("an older video")
    run = airflow.sense(job_id, output_path=str(target), mode="reschedule")
    assert "TargetExists" in run.errors()[0]
    assert target.read_text() == "an older video"


def test_a_job_id_that_rendered_to_nothing_is_an_error_at_once(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.sense("{{ none }}", retries=1)
    (error,) = run.errors()
    assert "InvalidInput: job_id='None': is empty" in error
    assert emulator.requests() == []
