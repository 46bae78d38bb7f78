"""
One kind of trigger, deferred some thousand times, in one real triggerer that has just been started.

The triggerer is two processes: the runner, whose one event loop runs all triggers, and its supervisor, which
speaks to the database and writes the logs.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from tools.database import until
from tools.stack import Stack

from .timed import Noted, job_id

# As where jobs are submitted evenly: they end evenly, having rendered for a lognormal time.
ENDING_SECONDS = 80.0
MEDIAN_SECONDS, SPREAD = 174.0, 0.5  # the vendor's median
SETTLE = 3.0  # seconds, in which nothing more is imported or written
PATIENCE = 90.0  # seconds after the last job has ended

DAG = "ten_thousand"
FIRED = "Trigger fired event"
STALLED = re.compile(r"async thread was blocked for ([0-9.]+) seconds")
WATCHDOG_SLEEP = 0.1  # seconds; what Airflow's watchdog reports includes them

# The capacity is set, too; the rest is as Airflow comes.
SETTINGS = {"TRIGGERER__BLOCKED_MAIN_THREAD_WARNING_THRESHOLD": WATCHDOG_SLEEP + 0.02}


@dataclass(frozen=True)
class Job:
    """Times in seconds since the epoch."""

    id: str
    submitted_at: float
    ends_at: float


@dataclass(frozen=True)
class Kind:
    """
    :param next_poll: the longest that may be between two polls, in seconds, by the job's age at the first of
        them and the time that renders usually take; None for what never polls.
    """

    name: str
    classpath: str
    kwargs: Callable[[Job], dict[str, Any]]
    next_poll: Callable[[float, float], float] | None


@dataclass
class Outcome:
    """
    What became of the triggers of a kind.

    :param kilobytes: of each process above the idle triggerer, when all waited.
    :param cpu: seconds of each process, above the idle triggerer.
    :param loading_seconds: from the deferral until all triggers run.
    :param all_waited: were there all of them before the first job ended?
    :param resumed: when, by the job's id.
    :param fired: how many triggers have fired how often.
    :param polls: by the job's id.
    """

    jobs: list[Job]
    kilobytes: dict[str, float]
    cpu: dict[str, float]
    loading_seconds: float
    all_waited: bool
    ended_at: float
    resumed: dict[str, float]
    fired: Counter[int]
    polls: dict[str, Noted]
    stalls_loading: list[float]
    stalls: list[float]


class Trial:
    """``run()`` says what became of them."""

    def __init__(self, stack: Stack, kind: Kind, number: int, port: int) -> None:
        self.stack = stack
        self.kind = kind
        self.number = number
        self.port = port
        self.log = stack.home / "triggerer.log"

    def run(self) -> Outcome:
        say(f"{self.kind.name}: starting the triggerer")
        said_before = self.log.stat().st_size if self.log.exists() else 0
        started_at = time.time()
        self.stack.start_daemon("triggerer")
        try:
            self.processes = until(lambda: self.parts(started_at), "the triggerer")
            idle_bytes = self.settled()
            idle_cpu, idle_files = self.cpu(), self.files()

            jobs, all_wait_at = self.defer()
            deferred_at = time.time()
            loaded_at, waiting, said_waiting, left = 0.0, None, 0, self.number
            while left and time.time() < jobs[-1].ends_at + PATIENCE:
                time.sleep(0.5)
                if not loaded_at and (waiting or self.files() >= idle_files + self.number):
                    loaded_at = time.time()
                if not waiting and time.time() >= all_wait_at:
                    all_waited = bool(loaded_at)
                    say(f"{self.kind.name}: {'all wait' if all_waited else 'NOT ALL ARE LOADED YET'}")
                    waiting, said_waiting = self.bytes(), self.log.stat().st_size
                left, cpu = self.deferred(), self.cpu()
            ended_at = time.time()
            # Their last words are written after the event is.
            while self.files() > idle_files and time.time() < ended_at + SETTLE:
                time.sleep(0.2)
        finally:
            self.stack.stop_daemon("triggerer")
        say(f"{self.kind.name}: {self.number - left} of {self.number} ended")
        said = self.log.read_bytes()
        return Outcome(
            jobs=jobs,
            kilobytes={part: (waiting[part] - idle_bytes[part]) / 1024 / self.number for part in waiting},
            cpu={part: cpu[part] - idle_cpu[part] for part in cpu},
            loading_seconds=loaded_at - deferred_at,
            all_waited=all_waited,
            ended_at=ended_at,
            resumed=self.resumed(jobs),
            fired=Counter(self.fired().values()),
            polls=self.polls(),
            stalls_loading=stalls(said[said_before:said_waiting]),
            stalls=stalls(said[said_waiting:]),
        )

    def parts(self, started_at: float) -> dict[str, psutil.Process] | None:
        """The triggerer's two processes, once it is at work."""
        begun = "select 1 from job where job_type = 'TriggererJob' and start_date > to_timestamp({})"
        if not self.stack.database.rows(begun.format(started_at)):
            return None
        supervisor = psutil.Process(self.stack.daemons["triggerer"].pid)
        runners = [child for child in supervisor.children() if "serve-logs" not in " ".join(child.cmdline())]
        return {"supervisor": supervisor, "runner": runners[0]} if len(runners) == 1 else None

    def settled(self) -> dict[str, int]:
        """The memory of the idle triggerer, once it has imported all that it ever imports."""
        before: dict[str, int] = {}
        while before != (now := {part: used >> 18 for part, used in self.bytes().items()}):
            before = now
            time.sleep(SETTLE)
        return self.bytes()

    def cpu(self) -> dict[str, float]:
        return {part: sum(process.cpu_times()[:2]) for part, process in self.processes.items()}

    def bytes(self) -> dict[str, int]:
        return {part: process.memory_full_info().uss for part, process in self.processes.items()}

    def files(self) -> int:
        return int(self.processes["supervisor"].num_fds())

    def defer(self) -> tuple[list[Job], float]:
        """The jobs, in the order of their ends, and when all should be loaded."""
        generator = random.Random(self.number)  # noqa: S311 - render times, not secrets
        now = time.time()
        all_wait_at = now + 10 + self.number / 120
        ends_at = sorted(all_wait_at + ENDING_SECONDS * generator.random() for _ in range(self.number))
        jobs = [
            Job(job_id(index, end), end - render_seconds(generator, at_least=end - now), end)
            for index, end in enumerate(ends_at)
        ]
        plan = {"classpath": self.kind.classpath, "all_kwargs": [self.kind.kwargs(job) for job in jobs]}
        command("benchmarks.deferred", "defer", self.kind.name, stdin=json.dumps(plan))
        return jobs, all_wait_at

    def deferred(self) -> int:
        query = f"select count(*) from task_instance where run_id = '{self.kind.name}' and state = 'deferred'"  # noqa: S608
        return int(self.stack.database.rows(query)[0][0])

    def resumed(self, jobs: Sequence[Job]) -> dict[str, float]:
        """And what was never resumed is not left to the next triggerer."""
        query = f"select map_index, scheduled_dttm from task_instance where run_id = '{self.kind.name}' and state = 'scheduled'"  # noqa: S608, E501
        found = {jobs[index].id: at.timestamp() for index, at in self.stack.database.rows(query)}
        self.stack.database.rows(
            "with gone as (update task_instance set state = 'removed', trigger_id = null "
            "where state = 'deferred' returning 1) delete from trigger returning 1"
        )
        return found

    def fired(self) -> Counter[str]:
        """How often each trigger has; a line that comes too late for its own log is in the triggerer's."""
        name = self.kind.name
        logs = (self.stack.home / f"logs/dag_id={DAG}/run_id={name}").rglob("*.trigger.*.log")
        fired = re.compile(f"{FIRED}.*{DAG}/{name}/wait/([0-9]+)/")
        return Counter(
            index for log in (*logs, self.log) for index in fired.findall(log.read_text(errors="replace"))
        )

    def polls(self) -> dict[str, Noted]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/noted") as answer:
            noted: dict[str, Noted] = json.load(answer)
            return noted


def render_seconds(generator: random.Random, at_least: float) -> float:
    while (seconds := MEDIAN_SECONDS * generator.lognormvariate(0, SPREAD)) < at_least:
        pass
    return seconds


def stalls(said: bytes) -> list[float]:
    return [float(found) - WATCHDOG_SLEEP for found in STALLED.findall(said.decode(errors="replace"))]


def command(module: str, *arguments: str, stdin: str = "") -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        check=True,
        input=stdin,
        text=True,
        stdout=subprocess.DEVNULL,
    )


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
