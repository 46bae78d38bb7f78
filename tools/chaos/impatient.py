"""The stack for the trial: what was killed is missed, and started again, within seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.database import Database
from tools.services import S3, Redis
from tools.stack import CELERY_DAEMONS, DAEMONS, Stack

QUICK = {
    "SCHEDULER__JOB_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 15,
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 4,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 30,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 3,
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 5,
    "SCHEDULER__TASK_QUEUED_TIMEOUT": 30,
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 5,
    "WORKERS__MIN_HEARTBEAT_INTERVAL": 2,
    "WORKERS__EXECUTION_API_RETRIES": 10,
    "WORKERS__EXECUTION_API_RETRY_WAIT_MAX": 4,
    "WORKERS__SOCKET_CLEANUP_TIMEOUT": 5,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 15,
}


WEBHOOK_SECRET = "whsec_chaos"  # noqa: S105


# An outage of 90 s uses up no tries: see docs/deploy.md.
CELERY: dict[str, object] = {
    "CORE__EXECUTOR": "CeleryExecutor",
    "CELERY__WORKER_CONCURRENCY": 4,
    "SCHEDULER__TASK_QUEUED_TIMEOUT": 45,
    "SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": 20,
    "WORKERS__EXECUTION_API_RETRIES": 12,
    "WORKERS__EXECUTION_API_RETRY_WAIT_MAX": 15,
}

BRIEF: dict[str, object] = {
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 1,
}


def impatient(
    home: Path,
    database: Callable[[Path], Database],
    *,
    progression: str = "seconds:8",
    webhooks: bool = False,
    celery: bool = False,
    brief: bool = False,
) -> Stack:
    """
    :param home: a folder for logs and videos.
    :param progression: of the jobs in the emulator.
    :param webhooks: tasks wait for the report of a job whose answer is lost; each holds a slot meanwhile.
    :param celery: two hosts with a worker and a triggerer each, which share no disk.
    :param brief: for a short test. The database is migrated already. The API server serves tasks of this
        version only, so it starts sooner. The caller sets ``CHAOS_SCHEDULE=@once``, so the scheduler begins
        the only run.
    """
    parallelism, extra = (8, {"webhook_secret": WEBHOOK_SECRET}) if webhooks else (6, {})
    return Stack(
        home,
        database,
        dags=Path(__file__).parent / "dags",
        settings={
            "CORE__PARALLELISM": parallelism,
            "CORE__MAX_ACTIVE_TASKS_PER_DAG": 100,
            "CORE__MAX_ACTIVE_RUNS_PER_DAG": 100,
            **QUICK,
            **(CELERY if celery else {}),
            **(BRIEF if brief else {}),
        },
        apps="execution" if brief else "all",
        lean=["api-server"] if brief else (),
        migrate=not brief,
        daemons=CELERY_DAEMONS if celery else DAEMONS,
        services={"Redis": Redis, "S3": S3} if celery else {},
        emulator={"progression": progression},
        extra={"poll_interval": 0.5, "timeout": 5, **extra},
    )
