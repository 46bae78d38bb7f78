"""Tasks that wait for a job, mapped over what a task before them finds. None of it is ever run."""

from __future__ import annotations

from airflow.sdk import DAG, task

from magichour_provider.sensors import TalkingPhotoSensor

with DAG("ten_thousand", schedule=None):

    @task
    def jobs() -> list[str]:
        return []

    TalkingPhotoSensor.partial(task_id="wait", deferrable=True).expand(job_id=jobs())
