"""
``make demo``: an example DAG in real Airflow, against the emulator, with one line for each step.

Airflow runs in processes of its own, whose log is followed here: with ``-v`` all of it is shown. By default
it is the least that runs a DAG, ``dag.test()``; with ``--stay`` it is a whole Airflow with its UI.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.stack import Stack

HERE = Path(__file__).resolve().parent.parent
EXAMPLES = HERE / "example_dags"
MEDIA = EXAMPLES / "media"
AIRFLOW = HERE / ".venv" / "demo-airflow"
# Migrated by this version, which takes a while. Where it is, AIRFLOW's own database is migrated too.
EMPTY = AIRFLOW / f"empty-{version('apache-airflow-core')}.db"
RESULT = "DEMO-RESULT "
WEBHOOK_SECRET = "whsec_demo"  # noqa: S105 (of the emulator)

# What the operators and their trigger say in the task's log, as steps.
STEPS = {
    r"Uploading (.+)": "uploading",
    r"Submitted job (\S+ \[\S+\])": "submitted",
    r"Job \S+ is queued": "queued",
    r"Job \S+ is rendering": "rendering",
    r"Downloading the video": "downloading",
    r"Job \S+ is in .+[:,] (\S+ credits)": "ending the task",
    r"Approved by the demo": "approved by the demo",
    r"(A poll of the job failed.*)": "a poll failed",
}
TASK = re.compile(r"\[DAG TEST\] starting task_id=(\w+)")
MESSAGE = re.compile(r"\[\w+ *\] (.+?) +\[[\w.]+\]")  # of a line in Airflow's log
RAISED = re.compile(r"(?:[\w.]+\.)?([A-Z]\w+): (.+)")  # the end of a traceback; more lines may follow


def main() -> int:
    options = _options()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    demo = Demo.of(options)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with _magic_hour(demo, real=options.real) as emulator:
            run = _in_a_whole_airflow if options.stay else _in_airflow
            return run(demo, emulator, verbose=options.verbose)
    except KeyboardInterrupt:
        print("\nEnded.")
        return 0 if options.stay else 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description="A photo and a voice become a video.")
    parser.add_argument("--dag", help="a file of example_dags/, without .py")
    parser.add_argument("--photo", type=Path, default=MEDIA / "ada.jpg")
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--text", help="is spoken, instead of an audio file")
    parser.add_argument("--output", type=Path, default=HERE / "demo_output")
    parser.add_argument("--stay", action="store_true", help="a whole Airflow, which stays until Ctrl-C")
    parser.add_argument("--real", action="store_true", help="the real API: spends credits")
    parser.add_argument("-v", "--verbose", action="store_true", help="show Airflow's log")
    options = parser.parse_args()
    dags = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    if options.dag not in (None, *dags):
        sys.exit(f"there is no DAG {options.dag}: choose {', '.join(dags)}")
    return options


@dataclass(frozen=True)
class Demo:
    """
    Which example runs, and on what.

    :param seconds: of sound, about.
    """

    module: str
    params: dict[str, Any]
    seconds: float

    @classmethod
    def of(cls, options: argparse.Namespace) -> Demo:
        if options.text and options.audio:
            sys.exit("TEXT is spoken instead of AUDIO: give one of them")
        audio = options.audio or MEDIA / "ada.mp3"
        for path in (options.photo, audio):
            if not path.is_file():
                sys.exit(f"{path}: there is no such file")
        params: dict[str, Any] = {
            "photo": str(options.photo.resolve()),
            "output_path": f"{options.output.resolve()}/",
        }
        if options.text:
            params |= {"text": options.text}
            return cls(options.dag or "text_to_video", params, len(options.text) / 15)
        seconds = _duration_of_audio(audio)
        params |= {"voice": str(audio.resolve()), "end_seconds": seconds}
        return cls(options.dag or "one_photo", params, seconds)

    @property
    def dag_id(self) -> str:
        return f"magichour_{self.module}"


def _duration_of_audio(path: Path) -> float:
    """In seconds, rounded down to a tenth."""
    import av

    try:
        with av.open(str(path)) as media:
            stream = media.streams.audio[0]
            exact = sum(frame.samples / frame.sample_rate for frame in media.decode(stream))
    except (av.error.FFmpegError, IndexError) as error:
        sys.exit(f"{path}: not an audio file that can be read ({error})")
    return int(exact * 10) / 10


@contextmanager
def _magic_hour(demo: Demo, *, real: bool) -> Iterator[Any]:
    """The emulator, if it is that; Airflow's connection to it is in the environment."""
    if real:
        key = os.environ.get("MAGICHOUR_API_KEY") or sys.exit("REAL=1 needs MAGICHOUR_API_KEY")
        print(f"The real Magic Hour: this spends credits, about {48 * demo.seconds:.0f} of your account's.\n")
        os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = json.dumps({"conn_type": "magichour", "password": key})
        yield None
        return
    from magichour_provider.emulator import Emulator

    with Emulator(progression="seconds:2") as emulator:
        print(f"Magic Hour's emulator at {emulator.url}: no key, no credits, no network.\n")
        os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = emulator.connection_json
        yield emulator


# --- the least of an Airflow ---


def _in_airflow(demo: Demo, emulator: Any, *, verbose: bool) -> int:
    del emulator  # its connection is in the environment
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(AIRFLOW),
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONUNBUFFERED": "1",
    }
    airflow = subprocess.Popen(
        [sys.executable, "-m", "tools.demo", "--in-airflow", demo.module, json.dumps(demo.params)],
        cwd=HERE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    told = _Told(demo, verbose=verbose)
    told.progress.step("starting Airflow")
    result = None
    for line in airflow.stdout or ():
        if line.startswith(RESULT):
            result = json.loads(line.removeprefix(RESULT))
        else:
            told.line(line)
    airflow.wait()
    return _end(told, result)


def _run_example(module: str, params: dict[str, Any]) -> None:
    """In a process of its own: a migrated database, the DAG, and its result as the last line."""
    if not EMPTY.exists():
        _migrate()
    sys.path.insert(0, str(EXAMPLES))
    dag = importlib.import_module(module).dag
    # Here, because they import Airflow.
    from tools import lean_api

    lean_api.use()
    _approve_at_once()

    run = dag.test(run_conf={name: value for name, value in params.items() if name in dag.params})
    if run.state == "success":
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            rows = XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, key="return_value")
            values = session.execute(rows.with_only_columns(XComModel.value)).scalars()
            print(RESULT + json.dumps(_video_of(values)))


def _approve_at_once() -> None:
    """Nobody answers a question in ``dag.test()``: the demo does, and says so."""
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    def execute(operator: ApprovalOperator, context: Any) -> dict[str, list[str]]:
        operator.log.info("Approved by the demo: a person would answer under Required Actions")
        return {"chosen_options": [operator.APPROVE]}

    ApprovalOperator.execute = execute  # type: ignore[method-assign, assignment]


def _video_of(values: Iterable[Any]) -> dict[str, Any] | None:
    """What the tasks of a run have returned: the result that names a file."""
    results = (json.loads(value) if isinstance(value, str) else value for value in values)
    return next((one for one in results if isinstance(one, dict) and "output_path" in one), None)


def _migrate() -> None:
    """And keep a copy, for a whole Airflow."""
    from airflow.utils.db import initdb

    initdb()
    partial = EMPTY.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(AIRFLOW / "airflow.db")) as database:
        database.execute("vacuum into ?", (str(partial),))
    partial.replace(EMPTY)


# --- a whole Airflow ---


def _in_a_whole_airflow(demo: Demo, emulator: Any, *, verbose: bool) -> int:
    """Until Ctrl-C."""
    from tools.database import Sqlite
    from tools.stack import Stack

    if emulator is not None:
        connection = emulator.connection | {"extra": {"webhook_secret": WEBHOOK_SECRET}}
        os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = json.dumps(connection)

    def database(home: Path) -> Sqlite:
        if EMPTY.exists():
            shutil.copy(EMPTY, home / "airflow.db")
        return Sqlite(home)

    told = _Told(demo, verbose=verbose)
    settings = {"CORE__DEFAULT_TASK_RETRY_DELAY": 2}
    with (
        TemporaryDirectory(prefix="magichour-demo-") as home,
        Stack(
            Path(home), database, dags=EXAMPLES, settings=settings, emulator=None, say=told.progress.step
        ) as stack,
    ):
        if emulator is not None:
            emulator.webhook(f"{stack.api}/magichour/webhooks/magichour_default", WEBHOOK_SECRET)
        pool = {"name": "magichour", "slots": 16, "include_deferred": True}  # of the example nightly_batch
        stack.ask("POST", "pools", pool)
        told.progress.step("parsing the DAGs")
        stack.await_dag(demo.dag_id)
        result = _followed(stack, demo, told)
        ended = _end(told, result)
        print(f"\n  Airflow  {stack.api}/\n  videos   {stack.api}/plugin/magichour (Browse > Magic Hour)")
        if emulator is not None:
            print(f"  emulator {emulator.url}/")
        print("\nCtrl-C ends all of it.", flush=True)
        while True:
            time.sleep(3600)
    return ended


def _followed(stack: Stack, demo: Demo, told: _Told) -> Any:
    """
    The result of one run, whose log is followed meanwhile.

    The database is asked rather than the api-server, which has enough to do.
    """
    run = stack.ask("POST", f"dags/{demo.dag_id}/dagRuns", {"logical_date": None, "conf": demo.params})
    of_the_run = f"run_id = '{run['dag_run_id']}'"
    told.progress.step("waiting for the task")
    read: Counter[Path] = Counter()
    while True:
        ((state,),) = stack.database.rows(f"select state from dag_run where {of_the_run}")  # noqa: S608
        for log in sorted((stack.home / "logs").glob("dag_id=*/**/attempt=*"), key=_age_of):
            lines = log.read_text("utf-8").splitlines()
            for line in lines[read[log] :]:
                for shown in _plain(line).splitlines(keepends=True):
                    told.line(shown)
            read[log] = len(lines)
        if state == "failed":
            return None
        if state == "success":
            of_the_tasks = f"{of_the_run} and key = 'return_value'"
            rows = stack.database.rows(f"select value from xcom where {of_the_tasks}")  # noqa: S608
            return _video_of(value for (value,) in rows)
        time.sleep(0.3)


def _age_of(log: Path) -> float:
    return log.stat().st_mtime


def _plain(line: str) -> str:
    """A line of a task's log as Airflow prints it in a terminal."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    raised = "".join(
        f"\n{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or []
    )
    return f"[{entry.get('level')}] {entry.get('event')} [{entry.get('logger', '')}]{raised}\n"


# --- what a person sees ---


class _Told:
    """What Airflow's log has told so far."""

    def __init__(self, demo: Demo, *, verbose: bool) -> None:
        self.progress = _Progress()
        self._verbose = verbose
        self._shows_tasks = demo.module != "one_photo"
        self._raised: list[str] = []
        self._in_error = False
        self._tail: list[str] = []

    def line(self, line: str) -> None:
        self._tail = [*self._tail[-40:], line]
        if self._verbose:
            print(line, end="")
        if self._shows_tasks and (task := TASK.search(line)):
            self.progress.step("starting the task", task[1])
        if message := MESSAGE.search(line):
            self._in_error = False
            for pattern, step in STEPS.items():
                if found := re.match(pattern, message[1]):
                    files = " ".join(found.groups()).split(" and ")
                    self.progress.step(step, " and ".join(Path(file).name for file in files))
        elif found := RAISED.match(line):
            self._raised, self._in_error = [found[2]], True
        elif self._in_error:
            self._raised.append(line.rstrip())

    def why(self) -> str:
        """What the task raised, or else the end of the log."""
        if self._raised:
            return "\n".join(self._raised)
        return f"{''.join(self._tail)}\nThe demo did not end well; the end of Airflow's log is above."


class _Progress:
    """A line for each step, with the seconds it took."""

    def __init__(self) -> None:
        self._current: tuple[str, str] | None = None
        self._since = time.monotonic()

    def step(self, name: str, detail: str = "") -> None:
        if self._current is not None and self._current[0] == name:
            return
        self.end()
        self._current, self._since = (name, detail), time.monotonic()
        if sys.stdout.isatty():
            print(f"  … {name}", end="\r", flush=True)

    def end(self, *, ok: bool = True) -> None:
        if self._current is not None:
            name, detail = self._current
            took = time.monotonic() - self._since
            print(f"  {'✓' if ok else '✗'} {name:<24}{took:6.1f} s  {detail}".rstrip(), flush=True)
        self._current = None


def _end(told: _Told, result: Any) -> int:
    told.progress.end(ok=result is not None)
    if result is None:
        print(f"\n{told.why()}\n\nV=1 shows Airflow's log.")
        return 1
    _show(result)
    return 0


def _show(result: dict[str, Any]) -> None:
    import av

    video = Path(result["output_path"])
    picture = video.with_suffix(".png")
    with av.open(str(video)) as media:
        seconds = (media.duration or 0) / av.time_base
        frames: Iterator[Any] = media.decode(media.streams.video[0])
        next(frame for frame in frames if frame.time >= seconds / 2).to_image().save(picture)
    size = f"{result['width']} x {result['height']}, {video.stat().st_size / 1000:.0f} kB"
    print(f"\n  video    {_shown(video)}\n  a frame  {_shown(picture)}")
    print(f"  length   {seconds:.1f} s\n  size     {size}\n  credits  {result['credits_charged']}")


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-airflow"]:
        _run_example(sys.argv[2], json.loads(sys.argv[3]))
        sys.stdout.flush()
        os._exit(0)  # to take all of Airflow apart takes seconds
    else:
        sys.exit(main())
