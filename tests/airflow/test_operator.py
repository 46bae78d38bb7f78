"""The operator, when nothing goes wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import both_modes

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from harness import Airflow

MEDIA = Path(__file__).parents[2] / "example_dags" / "media"


@both_modes
def test_a_photo_and_a_voice_become_a_video_on_disk(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    with Emulator(progression="polls:2", poll_interval=0.02) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
        run = airflow.video(
            image_file_path=str(MEDIA / "ada.jpg"),
            audio_file_path=str(MEDIA / "ada.mp3"),
            start_seconds=0.5,
            end_seconds=1.5,
            resolution="480p",
            output_path=f"{airflow.folder}/out/",
            deferrable=deferrable,
        )
        (job,) = emulator.jobs()

    assert run.state() == "success", run.errors()
    video = airflow.folder / "out" / f"{job['id']}.mp4"
    assert video.read_bytes()[4:8] == b"ftyp"
    assert run.result() == {
        "job_id": job["id"],
        "status": "complete",
        "credits_charged": 48,
        "output_path": str(video),
        "duration_seconds": 1.0,
        "width": run.result()["width"],
        "height": run.result()["height"],
        "fps": 30.0,
    }
    assert min(run.result()["width"], run.result()["height"]) == 480


def test_every_input_reaches_magic_hour_and_nothing_else_does(airflow: Airflow, emulator: Emulator) -> None:
    airflow.video(
        name="News",
        start_seconds=0.5,
        end_seconds=2,
        resolution="720p",
        max_resolution=1024,
        generation_mode="expressive",
        intensity=1.25,
    )
    (sent,) = (request["json"] for request in emulator.requests("create"))
    assert re.fullmatch(r"News \[mh-[0-9a-f]{8}\]", sent.pop("name"))
    assert all(path.startswith("api-assets/") for path in sent.pop("assets").values())
    assert sent == {
        "start_seconds": 0.5,
        "end_seconds": 2.0,
        "resolution": "720p",
        "max_resolution": 1024,
        "style": {"generation_mode": "expressive", "intensity": 1.25},
    }


def test_both_files_are_uploaded_after_one_call_for_urls(airflow: Airflow, emulator: Emulator) -> None:
    airflow.video()
    assert len(emulator.requests("upload_urls")) == 1
    assert sorted(request["bytes"] for request in emulator.requests("put")) == sorted(
        [airflow.photo.stat().st_size, airflow.voice.stat().st_size]
    )


def test_what_magic_hour_can_read_by_itself_is_not_uploaded(airflow: Airflow, emulator: Emulator) -> None:
    photo = emulator.put_asset(b"a photo", "png")
    voice = emulator.put_asset(b"a voice", "mp3")
    run = airflow.video(image_file_path=photo, audio_file_path=voice)
    assert run.state() == "success"
    assert emulator.requests("upload_urls") == []
    assert emulator.jobs()[0]["request"]["assets"] == {"image_file_path": photo, "audio_file_path": voice}


def test_files_may_be_named_as_object_storage_uris(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.video(
        image_file_path=airflow.photo.as_uri(),
        audio_file_path=airflow.voice.as_uri(),
        output_path=f"{airflow.folder.as_uri()}/out/",
    )
    assert run.state() == "success", run.errors()
    assert (airflow.folder / "out" / f"{emulator.jobs()[0]['id']}.mp4").is_file()


def test_without_a_name_the_job_is_named_after_dag_and_task(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.video()
    assert re.fullmatch(rf"{run.dag.dag_id}\.video \[mh-[0-9a-f]{{8}}\]", emulator.jobs()[0]["name"])


@both_modes
def test_without_an_output_path_the_result_is_a_url_that_works(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    result = airflow.video(deferrable=deferrable).result()
    assert result["download_url"].startswith(emulator.url)
    assert result["download_url_expires_at"]
    assert "output_path" not in result


@both_modes
def test_without_waiting_the_task_ends_when_the_job_is_submitted(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    emulator.progression = "manual"
    run = airflow.video(wait_for_completion=False, deferrable=deferrable)
    (job,) = emulator.jobs()
    assert run.state() == "success"
    assert run.result() == {"job_id": job["id"], "status": "queued", "credits_charged": 48}


@both_modes
@pytest.mark.parametrize("is_vendor", [True, False])
def test_the_button_opens_the_job_in_the_vendors_library_if_the_connection_points_to_the_vendor(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    is_vendor: bool,
    deferrable: bool,
) -> None:
    from magichour_provider.links import MagicHourJobLink

    if is_vendor:
        monkeypatch.setattr("magichour_provider.api.wire.BASE_URL", emulator.url)
    run = airflow.video(deferrable=deferrable)
    (ti,) = run.instances()
    link = ti.xcom_pull(task_ids="video", key=MagicHourJobLink().xcom_key)
    there = f"https://magichour.ai/my-library?videoId={emulator.jobs()[0]['id']}"
    assert (link or None) == (there if is_vendor else None)
    assert "XCom not found" not in capfd.readouterr().out  # an error in Airflow's log


@both_modes
def test_a_connection_in_airflows_database_is_found_by_dag_test_too(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(Connection).filter_by(conn_id="in_the_database").delete()
        fields = emulator.connection | {"extra": json.dumps(emulator.connection["extra"])}
        session.add(Connection(conn_id="in_the_database", **fields))

    run = airflow.video(magichour_conn_id="in_the_database", deferrable=deferrable)

    assert run.state() == "success", run.errors()


def test_templates_are_rendered_in_every_input(airflow: Airflow, emulator: Emulator) -> None:
    airflow.run(
        """
        TalkingPhotoOperator(
            task_id="video",
            image_file_path="{{ params.folder }}/photo.jpg",
            audio_file_path="{{ params.folder }}/voice.mp3",
            start_seconds="{{ 1 / 2 }}",
            end_seconds="{{ 3 / 2 }}",
            name="{{ dag.dag_id[:4] }}",
            generation_mode="{{ 'promp' ~ 'ted' }}",
            prompt="{{ ds | length }}",
            resolution="{{ 480 }}p",
            max_resolution="{{ 512 * 2 }}",
            output_path="{{ params.folder }}/{{ task.task_id }}.mp4",
            magichour_conn_id="{{ 'magichour' }}_default",
            params={"folder": FOLDER},
        )
        """,
        FOLDER=str(airflow.folder),
    )
    (sent,) = (request["json"] for request in emulator.requests("create"))
    assert sent.pop("name").startswith("test [mh-")
    assert sent.pop("assets").keys() == {"image_file_path", "audio_file_path"}
    assert sent == {
        "start_seconds": 0.5,
        "end_seconds": 1.5,
        "style": {"generation_mode": "prompted", "prompt": "10"},
        "resolution": "480p",
        "max_resolution": 1024,
    }
    assert (airflow.folder / "video.mp4").is_file()


def test_inputs_may_come_from_other_tasks(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        @task(multiple_outputs=True)
        def inputs():
            return {"photo": VIDEO["image_file_path"], "seconds": 1.5}

        found = inputs()
        TalkingPhotoOperator(
            task_id="video",
            image_file_path=found["photo"],
            audio_file_path=VIDEO["audio_file_path"],
            end_seconds=found["seconds"],
        )
        """
    )
    assert run.state() == "success", run.errors()
    assert emulator.jobs()[0]["request"]["end_seconds"] == 1.5


@both_modes
def test_a_file_at_the_exact_path_is_replaced_when_asked(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    target = airflow.folder / "video.mp4"
    target.write_text("an older video")
    run = airflow.video(output_path=str(target), replace=True, deferrable=deferrable)
    assert run.state() == "success"
    assert target.read_bytes()[4:8] == b"ftyp"
    assert run.result()["output_path"] == str(target)


@both_modes
def test_a_finished_task_that_is_cleared_downloads_the_same_video_unpaid(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    target = airflow.folder / "video.mp4"
    run = airflow.video(output_path=str(target), deferrable=deferrable)
    target.unlink()
    airflow.photo.unlink()  # the inputs are not needed any more
    run.clear()
    assert run.state() == "success", run.errors()
    assert target.is_file()
    assert emulator.charges() == 1


def test_another_run_is_another_purchase(airflow: Airflow, emulator: Emulator) -> None:
    airflow.video()
    airflow.video()
    assert emulator.charges() == 2


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("{{ 48 }}", None),
        ("{{ 47 }}", "CreditLimitExceeded: max_credits=47: the clip of 1 s is estimated at 48 credits"),
        ("{{ none }}", "InvalidInput: max_credits='None': is not usable; give a number above 0"),
    ],
)
def test_a_limit_may_come_from_a_template(
    airflow: Airflow, emulator: Emulator, limit: str, said: str | None
) -> None:
    run = airflow.video(max_credits=limit)

    assert run.state() == ("failed" if said else "success"), run.errors()
    assert all(said in error for error in run.errors() if said)
    assert emulator.charges() == (0 if said else 1)


def test_a_limit_that_comes_from_a_task_and_is_empty_is_refused(airflow: Airflow, emulator: Emulator) -> None:
    run = airflow.run(
        """
        @task
        def left():
            return None

        TalkingPhotoOperator(task_id="video", **VIDEO, max_credits=left())
        """
    )

    assert "InvalidInput: max_credits=None: is empty" in run.errors()[0]
    assert emulator.charges() == 0


@both_modes
def test_a_connection_to_the_emulator_without_a_poll_interval_is_polled_within_seconds(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    # As somebody fills in Airflow's form: the vendor's usual render times would poll after a minute.
    connection = {name: value for name, value in emulator.connection.items() if name != "extra"}
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(connection))
    emulator.progression = "polls:2"
    run = airflow.video(deferrable=deferrable, timeout=20)
    assert run.state() == "success", run.errors()
