"""The stack for the trial: what was killed is missed, and started again, within seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.database import Database
from tools.stack import Stack

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


def impatient(home: Path, database: Callable[[Path], Database], *, progression: str = "seconds:8") -> Stack:
    """
    :param home: a folder for logs and videos.
    :param progression: of the jobs in the emulator.
    """
    return Stack(
        home,
        database,
        dags=Path(__file__).parent / "dags",
        settings={
            "CORE__PARALLELISM": 6,
            "CORE__MAX_ACTIVE_TASKS_PER_DAG": 100,
            "CORE__MAX_ACTIVE_RUNS_PER_DAG": 100,
            **QUICK,
        },
        emulator={"progression": progression},
        extra={"poll_interval": 0.5, "timeout": 5},
    )
