"""
The promise where there is no task state store, so on Airflow 3.0 to 3.2: ``make test-oldest`` runs this.

The DAGs run in one process of their own, each with ``dag.test()``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import wave
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from magichour_provider.emulator import Emulator

if find_spec("airflow.models.task_state_store"):
    pytest.skip("Airflow 3.3 has a task state store: make test-oldest", allow_module_level=True)

if TYPE_CHECKING:
    from collections.abc import Iterator

DAGS = """
import datetime
from contextlib import ExitStack
from unittest.mock import patch

import httpx
from airflow.sdk import DAG
from airflow.sdk.api import client
from airflow.sdk.execution_time import supervisor
from magichour_provider.operators import TalkingPhotoOperator
from magichour_provider.task import journal

journal.WRITE_TIMEOUT = journal.OUTCOME_WRITE_TIMEOUT = 0.5  # an unwritable record is given up soon

def make(dag_id, **arguments):
    with DAG(dag_id, schedule=None) as dag:
        TalkingPhotoOperator(
            task_id="video",
            name=dag_id,
            image_file_path="{folder}/photo.jpg",
            audio_file_path="{folder}/voice.mp3",
            end_seconds=1,
            output_path="{folder}/" + dag_id + "/",
            retries=2,
            retry_delay=datetime.timedelta(0),
            **arguments,
        )
    return dag

takes_up_sync = make("takes_up_sync")
takes_up_deferrable = make("takes_up_deferrable", deferrable=True)
lost_answer = make("lost_answer")
unreadable = make("unreadable")
unwritable = make("unwritable")

def refuse(*args, **kwargs):
    request = httpx.Request("GET", "http://airflow")
    answer = httpx.Response(500, request=request, json={{"detail": "the database is down"}})
    raise client.ServerResponseError("down", request=request, response=answer)

if __name__ == "__main__":
    from tools import lean_api
    lean_api.use()
    for dag, broken in [
        (takes_up_sync, None),
        (takes_up_deferrable, None),
        (lost_answer, None),
        (unreadable, "get"),
        (unwritable, "set"),
    ]:
        print("RUN", dag.dag_id)
        with ExitStack() as stack:
            if broken:
                stack.enter_context(patch.object(client.VariableOperations, broken, refuse))
            for instance in dag.test().get_task_instances():
                print("STATE", str(instance.state).rpartition(".")[2].lower())
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub", poll_interval=0.02) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def runs(dags: Path, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Airflow logged, by DAG; the last line is the task's state."""
    folder = tmp_path_factory.mktemp("any_version")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff a photo")
    with wave.open(str(folder / "voice.mp3"), "wb") as voice:
        voice.setparams((1, 1, 8000, 0, "NONE", ""))
        voice.writeframes(bytes(8000))
    own_dags = folder / "dags"
    own_dags.mkdir()
    file = own_dags / "any_version.py"
    file.write_text(DAGS.format(folder=folder))
    for mode in ("sync", "deferrable"):
        # As often as the client tries by itself, so that Airflow's retry is needed.
        emulator.fault("download", status=500, times=4, name=f"takes_up_{mode}")
    emulator.fault("create", reset="after", name="lost_answer")
    environment = os.environ | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(own_dags),
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": emulator.connection_json,
        "PYTHONPATH": str(Path(__file__).parents[2]),  # for tools/
    }
    done = subprocess.run(
        [sys.executable, file],
        env=environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return dict(re.findall(r"^RUN (\w+)\n(.*?^STATE \w+)$", done.stdout, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("mode", ["sync", "deferrable"])
def test_a_retry_takes_up_the_paid_job(runs: dict[str, str], emulator: Emulator, mode: str) -> None:
    log = runs[f"takes_up_{mode}"]
    assert log.endswith("STATE success"), log
    assert "DownloadFailed" in log  # so a retry was needed
    assert emulator.charges(f"takes_up_{mode}") == 1


def test_a_lost_answer_is_never_paid_for_again(runs: dict[str, str], emulator: Emulator) -> None:
    log = runs["lost_answer"]
    assert log.endswith("STATE failed"), log
    assert "SubmissionUncertain" in log
    assert re.search(r"airflow variables set magichour_journal_\w{32} ", log)
    assert re.search(r"airflow variables delete magichour_journal_\w{32}$", log, re.MULTILINE)
    assert emulator.charges("lost_answer") == 1


@pytest.mark.parametrize("broken", ["unreadable", "unwritable"])
def test_without_a_journal_nothing_is_paid(runs: dict[str, str], emulator: Emulator, broken: str) -> None:
    log = runs[broken]
    assert log.endswith("STATE failed"), log
    assert "JournalUnavailable" in log
    assert emulator.charges(broken) == 0
