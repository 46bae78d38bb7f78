"""
Real Airflow, in this process, on SQLite: runs DAG files, and tells what became of their tasks.

Each task try is run by Airflow's own task runner and API server, each trigger by ``dag.test()``.
"""

from __future__ import annotations

import importlib.util
import textwrap
import wave
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools.lean_api import lean_api_server

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk import DAG
    from airflow.triggers.base import TriggerEvent
    from sqlalchemy.orm import Session

HEADER = """
import datetime
from airflow.sdk import DAG, task
from magichour_provider.operators import (
    AutoSubtitleOperator,
    ImageGeneratorOperator,
    MagicHourOperator,
    TalkingPhotoOperator,
    VoiceGeneratorOperator,
)
from magichour_provider.sensors import JobSensor, TalkingPhotoSensor, VoiceGeneratorSensor
"""


# What a test changes only if it reads the XCom of each value: to store them takes a tenth of a run's time.
ONE_XCOM = {"multiple_outputs": False}
PHOTO = b"\xff\xd8\xff a photo"  # begins like a JPEG, which is all that is checked


def write_silence(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * round(8000 * seconds)))


both_modes = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])


def in_words(error: BaseException) -> str:
    decides = ("AirflowFailException", "AirflowSensorTimeout", "AirflowException")
    names = [cls.__name__ for cls in type(error).__mro__]
    airflow_cls = next((name for name in decides if name in names[1:]), None)
    return f"{f'{airflow_cls}: ' if airflow_cls else ''}{names[0]}: {error}"


class Run:
    """One DAG run, and what its tasks did."""

    def __init__(
        self, dag: DAG, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any] | None = None
    ) -> None:
        self.dag = dag
        self._params = params
        self.steps: list[Any] = []  # Airflow's TaskRunResult
        self.events: list[TriggerEvent] = []
        self._monkeypatch = monkeypatch
        self._dag_run: DagRun = self._test()

    def state(self, task_id: str = "video") -> str:
        """The task's final state; of a mapped task, those of its instances, comma between."""
        return ",".join(str(ti.state) for ti in self.instances(task_id))

    def result(self, task_id: str = "video") -> Any:
        """What the task returned: its XCom."""
        results = [ti.xcom_pull(task_ids=task_id, map_indexes=ti.map_index) for ti in self.instances(task_id)]
        return results[0] if len(results) == 1 else results

    def raised(self, task_id: str = "video") -> list[BaseException]:
        """What each try raised that did not end well."""
        return [step.error for step in self.steps if step.error is not None and step.ti.task_id == task_id]

    def errors(self, task_id: str = "video") -> list[str]:
        """The same in words: ``Type: message``, behind the Airflow type that decides on a retry."""
        return [in_words(error) for error in self.raised(task_id)]

    def instances(self, task_id: str = "video") -> list[TaskInstance]:
        found = [ti for ti in self._dag_run.get_task_instances() if ti.task_id == task_id]
        return sorted(found, key=lambda ti: ti.map_index)

    def clear(self, task_id: str = "video") -> None:
        """Clear a finished task, as a person does, and run it again."""
        from airflow.models import dagrun
        from airflow.models.taskinstance import clear_task_instances
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState

        with create_session() as session:
            instances = [session.merge(ti) for ti in self.instances(task_id)]
            clear_task_instances(instances, session, dag_run_state=DagRunState.RUNNING)
        self.steps.clear()
        self.events.clear()
        with self._monkeypatch.context() as patched:
            # dag.test() would begin a new run.
            public = hasattr(dagrun, "get_or_create_dagrun")
            name = "dagrun.get_or_create_dagrun" if public else "dag._get_or_create_dagrun"  # 3.0
            patched.setattr(f"airflow.models.{name}", self._same_run)
            self._dag_run = self._test()

    def _same_run(self, *, dag: Any, session: Session, **_: Any) -> DagRun:
        run = session.get(type(self._dag_run), self._dag_run.id)
        assert run is not None
        run.dag = dag
        return run

    def _test(self) -> DagRun:
        from airflow.sdk.definitions import dag as module
        from airflow.sdk.execution_time import supervisor

        run_task: Any = supervisor.run_task_in_process
        run_trigger: Any = module._run_inline_trigger

        def noting_step(ti: Any, task: Any) -> Any:
            self.steps.append(step := run_task(ti, task))
            return step

        def noting_event(*given: Any) -> Any:  # the trigger; from Airflow 3.1, the task instance too
            self.events.append(event := run_trigger(*given))
            return event

        with self._monkeypatch.context() as patched:
            patched.setattr(supervisor, "in_process_api_server", lean_api_server)
            patched.setattr(supervisor, "run_task_in_process", noting_step)
            patched.setattr(module, "_run_inline_trigger", noting_event)
            run: DagRun = self.dag.test(run_conf=self._params)
            return run


class Airflow:
    """Runs DAG files, as many as a test likes, each to its end."""

    def __init__(self, folder: Path, dags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.photo, self.voice = folder / "photo.jpg", folder / "voice.mp3"
        self.photo.write_bytes(PHOTO)
        write_silence(self.voice, 4)
        self.dags = dags
        self._monkeypatch = monkeypatch

    @property
    def files(self) -> dict[str, Any]:
        """The inputs that are files: ``FILES`` in a DAG file."""
        return {"image_file_path": str(self.photo), "audio_file_path": str(self.voice)}

    @property
    def inputs(self) -> dict[str, Any]:
        """What makes a video of one second: ``VIDEO`` in a DAG file."""
        return {**self.files, "end_seconds": 1}

    def run(self, tasks: str, **names: Any) -> Run:
        """
        Run a DAG with these tasks.

        :param tasks: the lines below ``with DAG(...)``; they can use ``FILES``, ``VIDEO`` and ``names``.
        """
        dag_id = f"{self.folder.name}_{len(list(self.dags.iterdir()))}"
        values = {"FILES": self.files, "VIDEO": self.inputs, "AT_ONCE": {"retry_delay": timedelta(0)}} | names
        source = "\n".join(
            [
                HEADER,
                *(f"{name} = {value!r}" for name, value in values.items()),
                f"with DAG({dag_id!r}, schedule=None, default_args=AT_ONCE) as dag:",
                textwrap.indent(textwrap.dedent(tasks), "    "),
            ]
        )
        file = self.dags / f"{dag_id}.py"
        file.write_text(source)
        return self.run_file(file)

    def run_file(self, file: Path, params: dict[str, Any] | None = None) -> Run:
        """Run the DAG of a file that is in the DAGs folder, with these of its ``params`` changed."""
        from airflow.sdk import DAG

        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        (dag,) = {id(found): found for found in vars(module).values() if isinstance(found, DAG)}.values()
        return Run(dag, self._monkeypatch, params)

    def video(self, **arguments: Any) -> Run:
        """Run a DAG of one ``TalkingPhotoOperator``, whose task id is ``video``."""
        video = ONE_XCOM | self.inputs | arguments
        return self.run("TalkingPhotoOperator(task_id='video', **VIDEO)", VIDEO=video)

    def speak(self, **arguments: Any) -> Run:
        """Run a DAG of one ``VoiceGeneratorOperator``, whose task id is ``voice``."""
        voice = {"prompt": "Good evening.", "voice_name": "Albert Einstein"} | ONE_XCOM | arguments
        return self.run("VoiceGeneratorOperator(task_id='voice', **VOICE)", VOICE=voice)

    def call(self, tool: str, body: Any, **arguments: Any) -> Run:
        """Run a DAG of one ``MagicHourOperator``, whose task id is ``job``."""
        return self.run(
            "MagicHourOperator(task_id='job', **CALL)",
            CALL={"tool": tool, "body": body} | ONE_XCOM | arguments,
        )

    def sense(self, job_id: str, **arguments: Any) -> Run:
        """Run a DAG of one ``TalkingPhotoSensor``, whose task id is ``video``."""
        sense = {"job_id": job_id} | ONE_XCOM | arguments
        return self.run("TalkingPhotoSensor(task_id='video', **SENSE)", SENSE=sense)
