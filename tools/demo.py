"""
``make demo``: an example DAG in real Airflow, against the emulator, with one line for each step.

Airflow runs in a process of its own, whose log is followed here: with ``-v`` all of it is shown.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
MEDIA = HERE / "example_dags" / "media"
RESULT = "DEMO-RESULT "

# What the operators and their trigger say in the task's log, as steps.
STEPS = {
    r"Uploading (.+)": "uploading",
    r"Submitted job (\S+ \[\S+\])": "submitted",
    r"Job \S+ is queued": "queued",
    r"Job \S+ is rendering": "rendering",
    r"Downloading the video": "downloading",
    r"Job \S+ is in .+[:,] (\S+ credits)": "ending the task",
    r"Approved by the demo": "approved by the demo",
    r"(A poll of the job failed.*)": "polling again",
}
TASK = re.compile(r"\[DAG TEST\] starting task_id=(\w+)")
MESSAGE = re.compile(r"\[\w+ *\] (.+?) +\[[\w.]+\]")  # of a line in Airflow's log


def main() -> int:
    options = _options()
    photo, audio = options.photo.resolve(), options.audio.resolve()
    for path in (photo, audio):
        if not path.is_file():
            sys.exit(f"{path}: there is no such file")
    seconds = _duration_of_audio(audio)
    options.output.mkdir(parents=True, exist_ok=True)
    params = {
        "photo": str(photo),
        "voice": str(audio),
        "end_seconds": seconds,
        "output_path": f"{options.output.resolve()}/",
        "output": str(options.output.resolve()),
    }
    with _magic_hour(options.real, seconds) as connection:
        result = _run_airflow(connection, options.dag, params, verbose=options.verbose)
    if result is None:
        return 1
    _show(result)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description="A photo and a voice become a video.")
    parser.add_argument("--dag", default="one_photo", help="a file of example_dags/, without .py")
    parser.add_argument("--photo", type=Path, default=MEDIA / "ada.jpg")
    parser.add_argument("--audio", type=Path, default=MEDIA / "ada.mp3")
    parser.add_argument("--output", type=Path, default=HERE / "demo_output")
    parser.add_argument("--real", action="store_true", help="the real API: spends credits")
    parser.add_argument("-v", "--verbose", action="store_true", help="show Airflow's log")
    options = parser.parse_args()
    dags = sorted(path.stem for path in (HERE / "example_dags").glob("*.py"))
    if options.dag not in dags:
        parser.error(f"there is no DAG {options.dag}: choose {', '.join(dags)}")
    return options


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
def _magic_hour(real: bool, seconds: float) -> Iterator[str]:
    """The Airflow connection, as JSON."""
    if real:
        key = os.environ.get("MAGICHOUR_API_KEY") or sys.exit("REAL=1 needs MAGICHOUR_API_KEY")
        print(f"The real Magic Hour: this spends credits, about {48 * seconds:.0f} of your account's.\n")
        yield json.dumps({"conn_type": "magichour", "password": key})
        return
    from magichour_provider.emulator import Emulator

    with Emulator(progression="seconds:3") as emulator:
        print(f"Magic Hour's emulator at {emulator.url}: no key, no credits, no network.\n")
        yield emulator.connection_json


def _run_airflow(
    connection: str, dag: str, params: dict[str, Any], *, verbose: bool
) -> dict[str, Any] | None:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(HERE / ".venv" / "demo-airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "example_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": connection,
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, __file__, "--in-airflow", dag, json.dumps(params)]
    airflow = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    progress, result = _Progress(), None
    tail: list[str] = []
    progress.step("starting Airflow")
    for line in airflow.stdout or ():
        if line.startswith(RESULT):
            result = json.loads(line.removeprefix(RESULT))
            continue
        tail = [*tail[-40:], line]
        if verbose:
            print(line, end="")
        message = MESSAGE.search(line)
        if dag != "one_photo" and (task := TASK.search(line)):
            progress.step("starting the task", task.group(1))
        for pattern, step in STEPS.items():
            if message and (found := re.match(pattern, message.group(1))):
                files = " ".join(found.groups()).split(" and ")
                progress.step(step, " and ".join(Path(file).name for file in files))
    airflow.wait()
    progress.end(ok=result is not None)
    if result is None and not verbose:
        print("".join(tail), "\nThe demo did not end well; the end of Airflow's log is above.", sep="")
    return result


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
            print(f"  {'✓' if ok else '✗'} {name:<18}{took:6.1f} s  {detail}".rstrip(), flush=True)
        self._current = None


def _in_airflow(name: str, params: dict[str, Any]) -> None:
    """In a process of its own: a migrated database, the DAG, and its result as the last line."""
    from airflow.utils.db import initdb

    initdb()
    sys.path.insert(0, str(HERE / "example_dags"))
    dag = importlib.import_module(name).dag
    _approve_at_once()

    run = dag.test(run_conf={name: value for name, value in params.items() if name in dag.params})
    if run.state == "success":
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            rows = XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, key="return_value")
            values = session.execute(rows.with_only_columns(XComModel.value)).scalars()
            results = [json.loads(value) if isinstance(value, str) else value for value in values]
        videos = [one for one in results if isinstance(one, dict) and "output_path" in one]
        print(RESULT + json.dumps(videos[0]))


def _approve_at_once() -> None:
    """Nobody answers a question in ``dag.test()``: the demo does, and says so."""
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    def execute(operator: ApprovalOperator, context: Any) -> dict[str, list[str]]:
        operator.log.info("Approved by the demo: a person would answer under Required Actions")
        return {"chosen_options": [operator.APPROVE]}

    ApprovalOperator.execute = execute  # type: ignore[method-assign,assignment]


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
        _in_airflow(sys.argv[2], json.loads(sys.argv[3]))
    else:
        sys.exit(main())
