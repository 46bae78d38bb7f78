"""
A whole Airflow on this machine: api-server, scheduler, dag-processor, triggerers, workers, their database and
other services, and the emulator; each a process of its own, all on loopback and in temporary folders.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import psutil

from magichour_provider.emulator import Emulator

from .database import PATIENCE, Database, free_port, until
from .services import Service

ROOT = Path(__file__).resolve().parent.parent
DAEMONS = ("api-server", "scheduler", "dag-processor", "triggerer")
# With Celery, as on several machines: what stands behind the @ is the host, which has folders of its own.
CELERY_DAEMONS = (
    *("api-server", "scheduler", "dag-processor", "triggerer@a", "triggerer@b"),
    *("celery worker@a", "celery worker@b"),
)
PR_SET_CHILD_SUBREAPER = 36

# As many jobs and credits as anybody asks for, and no time for rendering.
EMULATOR = {"render": "stub", "credits": 100_000_000, "max-jobs": 1_000_000}


class Stack:
    """Started by ``with``; everything it has started is ended with it."""

    def __init__(
        self,
        home: Path,
        database: Callable[[Path], Database],
        *,
        dags: Path,
        daemons: Sequence[str] = DAEMONS,
        settings: Mapping[str, object] = MappingProxyType({}),
        emulator: Mapping[str, object] | None = MappingProxyType({}),
        extra: Mapping[str, object] = MappingProxyType({}),
        services: Mapping[str, Callable[[Path], Service]] = MappingProxyType({}),
        apps: str = "all",
        lean: Sequence[str] = (),
        migrate: bool = True,
        say: Callable[[str], None] = lambda what: print(f"  {what}", flush=True),
    ) -> None:
        """
        :param home: a folder for logs and videos.
        :param dags: the folder with the DAGs; ``STACK_MEDIA`` and ``STACK_VIDEOS`` tell them where files are.
        :param daemons: what is started at once: ``DAEMONS``, ``CELERY_DAEMONS`` or some of them.
        :param settings: Airflow's, as ``SECTION__NAME``.
        :param emulator: options of its command line, beyond ``EMULATOR``; None for no emulator.
        :param extra: of the connection to it.
        :param services: what else Airflow needs; they are started first, and ended last.
        :param apps: of the api-server: ``execution`` serves tasks only, so there is no ``ask``.
        :param lean: daemons that need not serve older Airflows: see ``tools/lean_api.py``.
        :param migrate: False if the database is a copy of a migrated one.
        :param say: is told each step of the start.
        """
        self.home = home
        self.videos = self.home / "videos"
        self.api = f"http://127.0.0.1:{free_port()}"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._emulator: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self._database = database
        self._dags = dags
        self._first = daemons
        self._settings = settings
        self._emulator_options = emulator
        self._extra = extra
        self._make_services = services
        self._apps = apps
        self._lean = lean
        self._migrate = migrate
        self.services: dict[str, Any] = {}
        self._held: dict[str, float] = {}
        self._say = say
        self._token = ""

    def __enter__(self) -> Self:
        # Orphans become children of this process, so whatever the stack has started can be found by ancestry.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._strangers = {child.pid for child in psutil.Process().children()}
        self._environment = dict(os.environ)
        self.database = self._database(self.home)
        try:
            if self._emulator_options is not None:
                self._start_emulator(self._emulator_options)
            self._configure()
            for name, service in self._make_services.items():
                self._say(f"starting {name}")
                self.services[name] = service(self.home)
                os.environ |= self.services[name].environment
            if self._migrate:
                self._say("migrating the database")
                subprocess.run(
                    [sys.executable, "-m", "airflow", "db", "migrate"],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for this process alone, which then ends the others
                )
            for name in self._first:
                self._say(f"starting the {name}")
                self.start_daemon(name)
                if name == "api-server":
                    until(self._serves_tasks, "the api-server")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children():
            if child.pid not in self._pids_of_services():
                _kill_tree(child)
        for service in (*self.services.values(), self.database):
            service.stop()
        os.environ.clear()
        os.environ.update(self._environment)

    def _serves_tasks(self) -> bool:
        with urllib.request.urlopen(f"{self.api}/execution/health", timeout=60) as answer:  # noqa: S310
            return bool(answer.status == 200)

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

    def await_dag(self, dag_id: str) -> None:
        """Until it has been parsed, and runs may begin."""
        until(lambda: self.ask("GET", f"dags/{dag_id}"), f"the DAG {dag_id}")
        self.ask("PATCH", f"dags/{dag_id}", {"is_paused": False})

    def start_daemon(self, name: str) -> None:
        """One of ``DAEMONS`` or ``CELERY_DAEMONS``."""
        command, _, host = name.partition("@")
        module = "tools.lean_api" if name in self._lean else "airflow"
        arguments = [sys.executable, "-m", module, *command.split()]
        if command == "api-server":
            arguments += ["--apps", self._apps]
        if host:
            arguments.append("--skip-serve-logs")  # all hosts are this one, and so are their ports
        if command == "celery worker":
            arguments += ["--celery-hostname", f"{host}@%h"]
        self.daemons[name] = self._popen(name.replace(" ", "-"), arguments, name if host else None)

    def stop_daemon(self, name: str) -> None:
        """With all it has started."""
        daemon = self.daemons.pop(name)
        _kill_tree(psutil.Process(daemon.pid))
        daemon.wait()

    def hold(self, name: str, seconds: float) -> None:
        """Do not start this daemon again before then."""
        self._held[name] = time.monotonic() + seconds

    def is_held(self, name: str) -> bool:
        return time.monotonic() < self._held.get(name, 0)

    def keep_up(self) -> None:
        """Start again what is dead, as a service manager would, and bury the orphans."""
        for name, daemon in self.daemons.items():
            if daemon.poll() is not None and not self.is_held(name):
                self.start_daemon(name)
                self.restarts += 1
        started = [*self.daemons.values(), *([self._emulator] if self._emulator else [])]
        known = [*self._pids_of_services(), *(process.pid for process in started)]
        for orphan in self._children():
            if orphan.pid in known:
                continue
            with suppress(psutil.Error, ChildProcessError):
                if orphan.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(orphan.pid, os.WNOHANG)
                elif _is_of_no_more_use(orphan):
                    orphan.kill()

    def _children(self) -> list[psutil.Process]:
        """Of this process, but not those that it had before there was a stack."""
        return [child for child in psutil.Process().children() if child.pid not in self._strangers]

    def _pids_of_services(self) -> list[int | None]:
        return [service.pid for service in (*self.services.values(), self.database)]

    def _start_emulator(self, options: Mapping[str, object]) -> None:
        ready = self.home / "emulator.json"
        command = ["-m", "magichour_provider.emulator", "--port", "0", "--ready-file", str(ready)]
        for name, value in (EMULATOR | dict(options)).items():
            command += [f"--{name}", str(value)]
        self._emulator = self._popen("emulator", [sys.executable, *command])
        until(ready.exists, "the emulator")
        told = json.loads(ready.read_text())
        self.emulator = Emulator.attach(told["url"])
        told["connection"]["extra"] = dict(self._extra)
        os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = json.dumps(told["connection"])

    def _configure(self) -> None:
        settings = {
            "CORE__DAGS_FOLDER": self._dags,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.api}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "API_AUTH__JWT_SECRET": "a-secret-that-is-none-since-everything-here-is-on-loopback-0000000",
            "API__SECRET_KEY": "none",
            "API__BASE_URL": self.api,
            "API__HOST": "127.0.0.1",
            "API__PORT": self.api.rpartition(":")[2],
            "API__WORKERS": 1,
            "DATABASE__SQL_ALCHEMY_CONN": self.database.url,
            "DATABASE__LOAD_DEFAULT_CONNECTIONS": False,
            "LOGGING__BASE_LOG_FOLDER": self.home / "logs",
            "LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
            **self._settings,
        }
        os.environ |= {f"AIRFLOW__{name}": str(value) for name, value in settings.items()}
        os.environ |= {
            "AIRFLOW_HOME": str(self.home),
            "STACK_MEDIA": str(ROOT / "example_dags/media"),
            "STACK_VIDEOS": str(self.videos),
        }

    def _popen(self, name: str, command: list[str], host: str | None = None) -> subprocess.Popen[bytes]:
        """:param host: works in a folder of its own, and keeps its logs there."""
        folder = self.home / "hosts" / (host or "")
        own = {"AIRFLOW_HOME": str(folder), "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs")}
        if host:
            folder.mkdir(parents=True, exist_ok=True)
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=folder if host else None,
                env=os.environ | own if host else None,
            )


def _is_of_no_more_use(orphan: psutil.Process) -> bool:
    """
    A worker or a task whose parent was killed is left to end in its own way: that it goes on for a while,
    beside its next try, is part of the trial. What would only wait for ever is ended.
    """
    title = title_of(orphan)
    is_busy = title.startswith(("airflow worker", "airflow supervisor")) and "<idle>" not in title
    is_young = time.time() - orphan.create_time() < PATIENCE
    return not (is_busy and is_young)


def _kill_tree(root: psutil.Process) -> None:
    with suppress(psutil.Error):
        for process in (*root.children(recursive=True), root):
            process.kill()


def title_of(process: psutil.Process) -> str:
    """What the process calls itself: Airflow's workers and tasks say there whose they are."""
    return " ".join(process.cmdline()).strip()
