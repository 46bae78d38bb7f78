"""Mapped tasks: each instance pays for itself, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow import __version__ as airflow_version
from harness import both_modes

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator


@both_modes
def test_each_instance_has_a_journal_of_its_own(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    emulator.fault("download", status=500, times=8)  # of two instances, the first try
    run = airflow.run(
        """
        TalkingPhotoOperator.partial(
            task_id="video", **FILES, output_path=OUT, deferrable=DEFERRABLE, retries=1,
        ).expand(end_seconds=[1, 2, 3])
        """,
        OUT=f"{airflow.folder}/out/",
        DEFERRABLE=deferrable,
    )
    assert run.state() == "success,success,success", run.errors()
    assert len(run.errors()) == 2
    assert emulator.charges() == 3
    assert sorted(job["request"]["end_seconds"] for job in emulator.jobs()) == [1, 2, 3]
    assert len(list((airflow.folder / "out").iterdir())) == 3


def test_whole_sets_of_inputs_can_be_expanded(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        @task
        def manifest():
            return [
                VIDEO | {"name": name, "end_seconds": seconds, "output_path": f"{OUT}/{name}.mp4"}
                for name, seconds in [("ada", 1), ("grace", 2)]
            ]

        TalkingPhotoOperator.partial(task_id="video").expand_kwargs(manifest())
        """,
        OUT=str(airflow.folder / "out"),
    )
    assert run.state() == "success,success", run.errors()
    assert sorted(path.name for path in (airflow.folder / "out").iterdir()) == ["ada.mp4", "grace.mp4"]
    assert sorted(job["name"].split()[0] for job in emulator.jobs()) == ["ada", "grace"]


def test_what_cannot_work_stops_its_own_instance_only(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        TalkingPhotoOperator.partial(task_id="video", **FILES).expand(end_seconds=[1, -1])
        """
    )
    assert run.state() == "success,failed"
    if not airflow_version.startswith("3.0."):  # whose dag.test() keeps it to itself
        assert "end_seconds" in run.errors()[0]
    assert emulator.charges() == 1


def test_a_submitted_batch_is_waited_for_by_mapped_sensors(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        submitted = TalkingPhotoOperator.partial(
            task_id="submit", **FILES, wait_for_completion=False,
        ).expand(end_seconds=[1, 2])
        TalkingPhotoSensor.partial(task_id="video", output_path=OUT).expand(
            job_id=submitted.output.map(lambda submission: submission["job_id"])
        )
        """,
        OUT=f"{airflow.folder}/out/",
    )
    assert run.state() == "success,success", run.errors()
    assert sorted(path.stem for path in (airflow.folder / "out").iterdir()) == sorted(
        job["id"] for job in emulator.jobs()
    )
    assert emulator.charges() == 2


def test_one_file_for_all_mapped_tasks_is_refused_before_any_of_them_pays(
    airflow: Airflow, emulator: Emulator
) -> None:
    run = airflow.run(
        f"TalkingPhotoOperator.partial(task_id='video', output_path='{airflow.folder}/v.mp4', **VIDEO)"
        ".expand(name=['ada', 'grace'])"
    )
    assert run.state() == "failed,failed"
    assert all("is one file for all mapped tasks" in error for error in run.errors())
    assert emulator.charges() == 0
