"""
Every night, make a video for each person in a manifest, and publish each video.

The pool limits how many tasks call Magic Hour at once. Make it before the first run:
``airflow pools set magichour 16 "Magic Hour" --include-deferred``. With ``--include-deferred`` it also limits
how many videos render at once.

The tasks are mapped in the order of the manifest. Keep that order the same: when a task is cleared or
retried, Airflow knows it by its index.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from magichour_provider.operators import TalkingPhotoOperator

MEDIA = Path(__file__).parent / "media"

with DAG(
    "magichour_nightly_batch",
    description="A video for each person in a manifest, every night",
    tags=["magichour", "example", "batch"],
    doc_md=__doc__,
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"manifest": str(MEDIA / "manifest.json"), "output": "/tmp/magichour_videos"},  # noqa: S108
) as dag:

    @task
    def read_manifest(params: dict[str, Any]) -> list[dict[str, Any]]:
        manifest = Path(params["manifest"])
        return [
            {
                "name": row["person"],
                "image_file_path": str(manifest.parent / row["image_file_path"]),
                "audio_file_path": str(manifest.parent / row["audio_file_path"]),
                "end_seconds": row["end_seconds"],
                "output_path": f"{params['output']}/{row['person']}/",
            }
            for row in json.loads(manifest.read_text())
        ]

    videos = TalkingPhotoOperator.partial(
        task_id="talking_photo",
        resolution="480p",
        max_credits=500,  # for each video: the task fails before it pays if the clip is too long
        deferrable=True,
        pool="magichour",
        retries=3,
        retry_delay=timedelta(minutes=2),
        map_index_template="{{ task.name }}",
    ).expand_kwargs(read_manifest())

    @task
    def publish(video: dict[str, Any]) -> str:
        return f"{video['output_path']}: {video['duration_seconds']} s, {video['credits_charged']} credits"

    publish.expand(video=videos.output)
