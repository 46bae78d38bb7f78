"""Tasks that wait for a job. They are never run: the benchmark writes them down as deferred."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from magichour_provider.sensors import TalkingPhotoSensor

NUMBER = int(os.environ.get("BENCH_NUMBER", "1"))

with DAG("ten_thousand", schedule=None):
    TalkingPhotoSensor.partial(task_id="wait", deferrable=True).expand(
        job_id=[f"job-{number}" for number in range(NUMBER)]
    )
