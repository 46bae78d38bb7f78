"""One photo and one voice become one video."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators import TalkingPhotoOperator

MEDIA = Path(__file__).parent / "media"

with DAG(
    "magichour_one_photo",
    description="One photo and one voice become one video",
    tags=["magichour", "example"],
    doc_md=__doc__,
    schedule=None,
    params={
        "photo": str(MEDIA / "ada.jpg"),
        "voice": str(MEDIA / "ada.mp3"),
        "end_seconds": 4.6,
        "output_path": "/tmp/magichour_videos/",  # noqa: S108 (an example; yours is s3://conn_id@bucket/…)
    },
) as dag:
    TalkingPhotoOperator(
        task_id="talking_photo",
        image_file_path="{{ params.photo }}",
        audio_file_path="{{ params.voice }}",
        end_seconds="{{ params.end_seconds }}",
        resolution="480p",
        output_path="{{ params.output_path }}",
        deferrable=True,
        retries=3,  # safe: a retry continues with the job that was paid for
    )
