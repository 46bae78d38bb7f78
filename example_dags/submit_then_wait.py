"""Submit a video now, do other work, and download the video later with the sensor."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, task

from magichour_provider.operators import TalkingPhotoOperator
from magichour_provider.sensors import TalkingPhotoSensor

MEDIA = Path(__file__).parent / "media"

with DAG(
    "magichour_submit_then_wait",
    description="Submit a video now, download it later with the sensor",
    tags=["magichour", "example"],
    doc_md=__doc__,
    schedule=None,
    params={"output_path": "/tmp/magichour_videos/"},  # noqa: S108 (an example)
) as dag:
    submit = TalkingPhotoOperator(
        task_id="submit",
        image_file_path=str(MEDIA / "grace.jpg"),
        audio_file_path=str(MEDIA / "grace.mp3"),
        end_seconds=5.9,
        resolution="480p",
        wait_for_completion=False,
        retries=3,
    )

    @task
    def write_caption() -> str:
        return "While Magic Hour renders, the pipeline continues."

    video = TalkingPhotoSensor(
        task_id="video",
        job_id=submit.output["job_id"],
        output_path="{{ params.output_path }}",
        deferrable=True,
        retries=3,
    )

    @task
    def publish(video: dict[str, object], caption: str) -> str:
        return f"{video['output_path']}: {caption}"

    publish(video.output, write_caption())
