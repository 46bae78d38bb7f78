"""
A whole Airflow on this machine: api-server, scheduler with LocalExecutor, dag-processor, triggerer, their
database, and the emulator; each a process of its own, all on loopback and in temporary folders.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from magichour_provider.emulator import Emulator

from .database import PATIENCE, Database, free_port, until

ROOT = Path(__file__).resolve().parent.parent.parent
DAEMONS = ("api-server", "scheduler", "dag-processor", "triggerer")
PR_SET_CHILD_SUBREAPER = 36

# So that what was killed is missed, and started again, within seconds.
QUICK = {
    "SCHEDULER__JOB_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 8,
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 4,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 12,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 3,
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 5,
    "SCHEDULER__TASK_QUEUED_TIMEOUT": 30,
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 5,
    "WORKERS__MIN_HEARTBEAT_INTERVAL": 2,
    "WORKERS__EXECUTION_API_RETRY_WAIT_MAX": 4,
    "WORKERS__SOCKET_CLEANUP_TIMEOUT": 5,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 8,
}


class Stack:
    """Started by ``with``; everything it has started is ended with it."""

    def __init__(self, home: Path, database: Callable[[Path], Database], *, moves: str = "seconds:8") -> None:
        """
        :param home: a folder for logs and videos.
        :param moves: how the emulator's jobs walk.
        """
        self.home = home
        self.videos = self.home / "videos"
        self.api = f"http://127.0.0.1:{free_port()}"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.restarts = 0
        self._database = database
        self._moves = moves
        self._token = ""

    def __enter__(self) -> Self:
        # Orphans become children of this process, so whatever the stack has started can be found by ancestry.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._environment = dict(os.environ)
        self.database = self._database(self.home)
        try:
            self._start_emulator()
            self._configure()
            self._say("migrating the database")
            subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"], check=True, stdout=subprocess.DEVNULL
            )
            for name in DAEMONS:
                self._say(f"starting the {name}")
                self._start_daemon(name)
                if name == "api-server":
                    until(lambda: self.ask("GET", "monitor/health"), "the api-server")
            until(lambda: self.ask("GET", "dags/chaos"), "the DAG")
            self.ask("PATCH", "dags/chaos", {"is_paused": False})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in psutil.Process().children():
            if child.pid != self.database.pid:
                _kill_tree(child)
        self.database.stop()
        os.environ.clear()
        os.environ.update(self._environment)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Airflow's REST API, as its admin."""
        if not self._token:
            with urllib.request.urlopen(f"{self.api}/auth/token", timeout=10) as answer:  # noqa: S310
                self._token = json.load(answer)["access_token"]
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.api}/api/v2/{path}",
            data=json.dumps(body).encode() if body is not None else None,
            method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def keep_up(self) -> None:
        """Start again what is dead, as a service manager would, and bury the orphans."""
        for name, daemon in self.daemons.items():
            if daemon.poll() is not None:
                self._start_daemon(name)
                self.restarts += 1
        known = [*(daemon.pid for daemon in self.daemons.values()), self.database.pid, self._emulator.pid]
        for orphan in psutil.Process().children():
            if orphan.pid in known:
                continue
            with suppress(psutil.Error, ChildProcessError):
                if orphan.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(orphan.pid, os.WNOHANG)
                elif _is_of_no_more_use(orphan):
                    orphan.kill()

    def _start_emulator(self) -> None:
        ready = self.home / "emulator.json"
        command = ["-m", "magichour_provider.emulator", "--port", "0", "--ready-file", str(ready)]
        options = {"moves": self._moves, "render": "stub", "credits": "100000000", "max-jobs": "1000000"}
        for name, value in options.items():
            command += [f"--{name}", value]
        self._emulator = self._popen("emulator", [sys.executable, *command])
        until(ready.exists, "the emulator")
        told = json.loads(ready.read_text())
        self.emulator = Emulator.attach(told["url"])
        told["connection"]["extra"] = {"poll_interval": 0.5, "timeout": 5}
        os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = json.dumps(told["connection"])

    def _configure(self) -> None:
        settings = {
            "CORE__DAGS_FOLDER": ROOT / "tools/chaos/dags",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": 6,
            "CORE__MAX_ACTIVE_TASKS_PER_DAG": 100,
            "CORE__MAX_ACTIVE_RUNS_PER_DAG": 100,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.api}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "API_AUTH__JWT_SECRET": "chaos-and-nothing-but-chaos-chaos-and-nothing-but-chaos-chaos-00",
            "API__SECRET_KEY": "chaos",
            "API__BASE_URL": self.api,
            "API__HOST": "127.0.0.1",
            "API__PORT": self.api.rpartition(":")[2],
            "API__WORKERS": 1,
            "DATABASE__SQL_ALCHEMY_CONN": self.database.url,
            "DATABASE__LOAD_DEFAULT_CONNECTIONS": False,
            "LOGGING__BASE_LOG_FOLDER": self.home / "logs",
            "LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
            **QUICK,
        }
        os.environ |= {f"AIRFLOW__{name}": str(value) for name, value in settings.items()}
        os.environ |= {
            "AIRFLOW_HOME": str(self.home),
            "CHAOS_MEDIA": str(ROOT / "example_dags/media"),
            "CHAOS_VIDEOS": str(self.videos),
        }

    def _start_daemon(self, name: str) -> None:
        self.daemons[name] = self._popen(name, [sys.executable, "-m", "airflow", name])

    def _popen(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _say(self, what: str) -> None:
        print(f"  {what}", flush=True)


def _is_of_no_more_use(orphan: psutil.Process) -> bool:
    """
    A worker or a task whose parent was killed is left to end in its own way: that it goes on for a while,
    beside its next try, is part of the trial. What would only wait for ever is ended.
    """
    title = title_of(orphan)
    is_busy = title.startswith("airflow worker") and "<idle>" not in title
    is_young = time.time() - orphan.create_time() < PATIENCE
    return not (is_busy and is_young)


def _kill_tree(root: psutil.Process) -> None:
    with suppress(psutil.Error):
        for process in (*root.children(recursive=True), root):
            process.kill()


def title_of(process: psutil.Process) -> str:
    """What the process calls itself: Airflow's workers and tasks say there whose they are."""
    return " ".join(process.cmdline()).strip()
