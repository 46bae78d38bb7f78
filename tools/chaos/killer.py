"""Who is killed, and which connections are cut, when: at random, from a seed."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psutil

from magichour_provider.task.record import Record
from tools.stack import Stack, title_of

# How often each kind is chosen, relative to the others.
KINDS = {
    "task process": 46,
    "worker (a task's supervisor)": 18,
    "triggerer's runner": 8,
    "triggerer": 8,
    "dag-processor": 4,
    "api-server": 5,
    "scheduler": 6,
    "scheduler, its workers and tasks": 5,
}
# With Celery, workers outlive the scheduler. A host dies with all that runs on it.
CELERY_KINDS = {
    "task process": 40,
    "worker (a task's supervisor)": 14,
    "celery worker alone": 5,
    "celery worker's host": 8,
    "triggerer's runner": 6,
    "triggerer": 6,
    "dag-processor": 3,
    "api-server": 4,
    "api-server, away for 6 s": 4,
    "api-server, away for 90 s": 2,
    "scheduler": 5,
    "Redis": 4,
    "PostgreSQL": 3,
}
AWAY = re.compile(r"away for (\d+) s")
SECONDS_BETWEEN_KILLS = 3.0
SECONDS_BETWEEN_CUTS = 8.0
MOST_BETWEEN_KILLS = 20.0  # while nobody gets any further
WARM_UP = 8.0  # seconds for which a daemon that was started again is left alone

INSTANCE_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
JOURNAL_OF_INSTANCE = """
    select store.value from task_instance as instance
    left join task_state_store as store on store.run_id = instance.run_id and store.task_id = instance.task_id
    and store.map_index = instance.map_index and store.key = 'magichour_journal' where instance.id = '{}'
"""

# A network takes its time, so that there are moments to be killed in.
LATENCY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("create", {"hang": 0.5, "slow": 0.5}),
    ("upload_urls", {"hang": 0.2}),
    ("put", {"hang": 0.2}),
    ("download", {"slow": 0.6}),
)
CUTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("create", {"reset": "before"}),
    ("create", {"reset": "after"}),
    ("create", {"status": 500}),
    ("create", {"status": 502}),
    ("create", {"status": 502, "html": True, "effect": True}),
    ("create", {"status": 429, "headers": {"Retry-After": "1"}}),
    ("create", {"hang": 8, "effect": True}),
    ("create", {"ends": "error:processing_timeout"}),
    ("get_video", {"reset": "before", "times": 8}),
    ("get_video", {"status": 500, "times": 8}),
    ("get_video", {"html": True, "status": 503, "times": 8}),
    ("get_video", {"status": 401, "times": 4}),
    ("get_video", {"status": 404, "times": 4}),
    ("get_video", {"hang": 8, "times": 2}),
    ("upload_urls", {"reset": "before", "times": 2}),
    ("put", {"status": 503, "times": 2}),
    ("put", {"reset": "before"}),
    ("download", {"cut": 200}),
    ("download", {"reset": "before", "times": 6}),
    ("download", {"status": 403}),
    ("download", {"html": True, "status": 200}),
)


class Killer:
    """Only ever kills what its stack has started."""

    def __init__(self, stack: Stack, seed: int, kinds: Mapping[str, float] = KINDS) -> None:
        """:param kinds: how often each is chosen, relative to the others; the scheduler is the last one."""
        self._stack = stack
        self._kinds = kinds
        self._random = random.Random(seed)  # noqa: S311 - chaos, not cryptography
        self._next_kill = time.monotonic() + self._random.expovariate(1 / SECONDS_BETWEEN_KILLS)
        self._next_cut = time.monotonic() + self._random.expovariate(1 / SECONDS_BETWEEN_CUTS)
        self._kind = self._choose()
        self._written_at_cut: object = None
        self._written_at_kill: object = None
        self._latency: list[Any] = []
        self.kills: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self._slow_down()

    def strike(self) -> str | None:
        """Kill or cut if it is time to; says what was done."""
        now = time.monotonic()
        # On a slow machine everything would be dead before it has paid, and every paid call would be cut.
        written = self._stack.database.rows("select max(updated_at) from task_state_store")[0][0]
        if now >= self._next_cut and written != self._written_at_cut:
            self._written_at_cut = written
            self._next_cut = now + self._random.expovariate(1 / SECONDS_BETWEEN_CUTS)
            return self._cut()
        is_too_soon = written == self._written_at_kill and now < self._next_kill + MOST_BETWEEN_KILLS
        if now < self._next_kill or is_too_soon:
            return None
        said = self.kill(self._kind)
        if said:
            self._written_at_kill = written
            self._next_kill = now + self._random.expovariate(1 / SECONDS_BETWEEN_KILLS)
        if said or self._stack.is_held(_name_of(self._kind)):
            self._kind = self._choose()
        return said

    def finish(self) -> str | None:
        """
        The last kill; from then on everything is quick and whole.

        It is the scheduler's: a task whose worker was killed between LocalExecutor's queue and its first
        word to the API stays queued until the scheduler is started again.
        """
        said = self.kill([kind for kind in self._kinds if kind.startswith("scheduler")][-1])
        if said:
            self._stack.emulator.clear_faults()
        return said

    def kill(self, kind: str) -> str | None:
        """One of ``KINDS`` or ``CELERY_KINDS``; says whom, or None when there is none."""
        if kind in ("Redis", "PostgreSQL"):
            (self._stack.database if kind == "PostgreSQL" else self._stack.services[kind]).restart()
            self.kills[kind] += 1
            return f"kill {self.kills.total():3}  {kind:32}"
        candidates = sorted(self._victims(kind), key=lambda process: process.pid)
        if not candidates:
            return None
        victim = self._random.choice(candidates)
        with suppress(psutil.Error):
            is_whole = "workers" in kind or "host" in kind
            others = victim.children(recursive=True) if is_whole else []
            moment = self._moment(title_of(victim))
            for process in (victim, *others):
                process.kill()  # SIGKILL; psutil refuses when the pid is another process by now
            self.kills[kind] += 1
            if away := AWAY.search(kind):
                self._stack.hold(_name_of(kind), float(away[1]))
            if moment:
                self.moments[moment] += 1
            return f"kill {self.kills.total():3}  {kind:32} pid {victim.pid:<7} {moment or ''}"
        return None

    def _choose(self) -> str:
        return self._random.choices(list(self._kinds), list(self._kinds.values()))[0]

    def _moment(self, title: str) -> str | None:
        """How far the task has come that this process works for."""
        instance = INSTANCE_ID.search(title)
        if instance is None:
            return None
        written = self._stack.database.rows(JOURNAL_OF_INSTANCE.format(instance.group()))
        if not written:
            return "an orphan, whose next try is under way"
        record = Record.of(written[0][0])
        if record.lost:
            return "about to pay, paying, or the answer is lost"
        return "a job is recorded" if record.jobs else "nothing is recorded"

    def _victims(self, kind: str) -> list[psutil.Process]:
        with suppress(psutil.Error):
            if kind == "task process":
                return _alive([task for worker in self._busy_workers() for task in worker.children()])
            if kind.startswith("worker"):
                return self._busy_workers()
            named = [
                psutil.Process(process.pid)
                for name, process in self._stack.daemons.items()
                if name.partition("@")[0] == _name_of(kind)
            ]
            daemons = [one for one in _alive(named) if time.time() - one.create_time() >= WARM_UP]
            if "runner" in kind:
                runners = _alive([child for daemon in daemons for child in daemon.children()])
                return [runner for runner in runners if title_of(runner) != "airflow serve-logs"]
            return daemons
        return []

    def _busy_workers(self) -> list[psutil.Process]:
        """
        Workers that run a task, orphans of a killed scheduler among them.

        Never an idle one: it holds the lock of LocalExecutor's queue while it waits, and its death would
        block all other workers until the scheduler is started again.
        """
        return [process for process in psutil.Process().children(recursive=True) if _is_busy_worker(process)]

    def _cut(self) -> str:
        call, rule = self._random.choice(CUTS)
        # The oldest rule wins: so latency is laid down again behind the new one.
        for rule_of_latency in self._latency:
            rule_of_latency.remove()
        self._stack.emulator.fault(call, **rule)
        self._slow_down()
        what = f"{call} " + ", ".join(f"{name}={value}" for name, value in rule.items())
        self.cuts[what] += 1
        return f"cut       {what}"

    def _slow_down(self) -> None:
        self._latency = [self._stack.emulator.fault(call, times=None, **rule) for call, rule in LATENCY]


def _name_of(kind: str) -> str:
    """Of the daemon."""
    return kind.partition("'")[0].partition(",")[0].removesuffix(" alone")


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without those that are dead and not yet buried: they can be asked nothing."""
    alive = []
    for process in processes:
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def _is_busy_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        title = title_of(process)
        return (
            title.startswith(("airflow worker -- LocalExecutor", "airflow supervisor: "))
            and "<idle>" not in title
            and bool(process.children())
        )
    return False
