"""The DAG whose processes get killed: videos waited for in the worker, and the same in the triggerer."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from magichour_provider.operators import TalkingPhotoOperator

MEDIA, VIDEOS = os.environ["STACK_MEDIA"], os.environ["STACK_VIDEOS"]
INSTANCE = "{{ run_id }}/{{ ti.task_id }}/{{ ti.map_index }}"
SECONDS = [1, 2, 3, 4]  # of each clip

with DAG(
    "chaos",
    schedule=os.environ.get("CHAOS_SCHEDULE"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"retries": 10, "retry_delay": timedelta(seconds=1)},
):
    for task_id, deferrable in (("in_worker", False), ("in_triggerer", True)):
        TalkingPhotoOperator.partial(
            task_id=task_id,
            deferrable=deferrable,
            image_file_path=f"{MEDIA}/ada.jpg",
            audio_file_path=f"{MEDIA}/ada.mp3",
            name=INSTANCE,
            output_path=f"{VIDEOS}/{INSTANCE}.mp4",
            report_timeout=90,  # seconds; counts only with webhooks
        ).expand(end_seconds=SECONDS)
