"""No key and no signed URL escapes: not into logs, the database, errors, or to the storage host."""

from __future__ import annotations

import json
import re
import sqlite3
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from harness import both_modes

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Airflow, Run

ANSI = re.compile(r"\x1b\[[\d;]*m")
KEY = "mhk_live_that-nobody-may-ever-see"
FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "refused": {"create": {"status": 401}},
    "refused as a page": {"create": {"status": 403, "html": True}},
    "lost answer": {"create": {"reset": "after"}},
    "upload refused": {"put": {"status": 403}},
    "upload reset": {"put": {"reset": "before"}},
    "upload URLs unreadable": {"upload_urls": {"cut": 300}},
    "looks fail": {"get_video": {"status": 500}},
    "looks unreadable": {"get_video": {"cut": 300}},
    "job fails": {"create": {"ends": "error:unknown_error"}},
    "download refused": {"download": {"status": 403}},
    "download cut": {"download": {"cut": 100}},
    "download reset": {"download": {"reset": "before"}},
}


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """As everywhere, with a key that can be searched for."""
    with Emulator(render="stub", poll_interval=0.02, api_key=KEY) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
        yield emulator


def signatures(emulator: Emulator) -> set[str]:
    """Of every signed URL that was used."""
    used = [*emulator.requests("put"), *emulator.requests("download")]
    return {request["query"]["X-Amz-Signature"] for request in used}


def database() -> list[str]:
    """Every row there is, as text."""
    from airflow.configuration import conf

    path = conf.get("database", "sql_alchemy_conn").removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


def logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> str:
    """All of it, but for the messages between task and supervisor: Airflow 3.0 prints them."""
    lines = ("".join(capfd.readouterr()) + caplog.text).splitlines(keepends=True)
    return "".join(line for line in lines if not re.search(r"\[debug +\].* msg=\w+\(", ANSI.sub("", line)))


def told(run: Run) -> str:
    """Errors with all their causes, and what the trigger's row and its event said."""
    return "\n".join(
        [
            *(
                "".join(traceback.format_exception(error)) + repr(error)
                for task_id in run.dag.task_ids
                for error in run.raised(task_id)
            ),
            *(repr(step.msg) for step in run.steps),
            *(repr(event) for event in run.events),
        ]
    )


@both_modes
def test_nothing_escapes_whatever_goes_wrong(
    airflow: Airflow,
    emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    deferrable: bool,
) -> None:
    said = []
    for fault in FAULTS.values():
        emulator.clear_faults()
        for call, rule in fault.items():
            emulator.fault(call, **rule, times=None)
        where = f"{airflow.folder}/out/"
        said.append(told(airflow.video(deferrable=deferrable, output_path=where, timeout=0.5)))
    rows = database()
    logs = logged(capfd, caplog)
    places = {"errors and events": "\n".join(said), "logs": logs, "database": "\n".join(rows)}

    secrets = {KEY} | signatures(emulator)
    assert len(secrets) > 10
    for place, text in places.items():
        assert [secret for secret in secrets if secret in text] == [], place
    # The search would have found something: all of it was there to be searched.
    assert emulator.jobs()[0]["id"] in places["logs"]
    assert emulator.jobs()[0]["id"] in places["database"]
    assert any("JobTrigger" in row for row in rows) or not deferrable
    assert "SubmissionUncertain" in places["errors and events"]


@both_modes
def test_nothing_escapes_from_text_to_video(
    airflow: Airflow,
    emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    deferrable: bool,
) -> None:
    said = []
    for fault in (
        {},
        {"create_voice": {"reset": "after"}},
        {"get_audio": {"cut": 200}},
        {"download": {"status": 403}},
        {"download": {"cut": 100}},
    ):
        emulator.clear_faults()
        for call, rule in fault.items():
            emulator.fault(call, **rule, times=None)
        run = airflow.run(
            """
            how = {"output_path": OUT, "deferrable": DEFERRABLE, "timeout": 0.5}
            voice = VoiceGeneratorOperator(
                task_id="voice", prompt="Good evening.", voice_name="Albert Einstein", **how
            )
            TalkingPhotoOperator(
                task_id="video",
                image_file_path=FILES["image_file_path"],
                audio_file_path=voice.output["audio_file_path"],
                **how,
            )
            """,
            OUT=f"{airflow.folder}/out/",
            DEFERRABLE=deferrable,
        )
        said.append(told(run))
    text = "\n".join([*said, logged(capfd, caplog), *database()])

    secrets = {KEY} | signatures(emulator)
    assert len(secrets) > 5
    assert [secret for secret in secrets if secret in text] == []
    assert "SubmissionUncertain" in text
    assert "DownloadFailed" in text


def test_the_key_goes_to_the_api_and_not_to_the_storage_host(airflow: Airflow, emulator: Emulator) -> None:
    airflow.video(output_path=f"{airflow.folder}/out/")
    stored = [*emulator.requests("put"), *emulator.requests("download")]
    assert len(stored) == 3
    assert KEY not in json.dumps(stored)


@both_modes
def test_without_an_output_path_the_signed_url_is_in_the_xcom_and_nowhere_else(
    airflow: Airflow,
    emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    deferrable: bool,
) -> None:
    run = airflow.video(deferrable=deferrable)
    signature = run.result()["download_url"].partition("X-Amz-Signature=")[2]
    assert signature
    rows = [row for row in database() if signature in row]
    assert {row.split()[2] for row in rows} == {'"xcom"'}  # in the result, and by its own name
    assert signature not in logged(capfd, caplog)
    assert signature not in told(run)
