"""
A text becomes a voice, and a photo speaks with that voice.

The voice stays at Magic Hour: the second task uses it from the vendor's library, so no file of it is kept
here. Both tasks pay once, however often they are retried.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from magichour_provider.operators import TalkingPhotoOperator, VoiceGeneratorOperator

MEDIA = Path(__file__).parent / "media"

with DAG(
    "magichour_text_to_video",
    description="A text becomes a voice, and the voice speaks from a photo",
    tags=["magichour", "example"],
    doc_md=__doc__,
    schedule=None,
    params={
        "text": "Good morning. My name is Ada, and I have something to say today.",
        "photo": str(MEDIA / "ada.jpg"),
        "voice_name": "Albert Einstein",
        "output_path": "/tmp/magichour_videos/",  # noqa: S108 (an example; yours is s3://conn_id@bucket/…)
        "max_credits": 1000,
    },
    default_args={"deferrable": True, "retries": 3, "retry_delay": timedelta(minutes=2)},
) as dag:

    @task
    def write_text(params: dict[str, Any]) -> str:
        """Your task may ask a language model. The text stays the same for each retry of the paid tasks."""
        return str(params["text"])

    voice = VoiceGeneratorOperator(
        task_id="voice",
        prompt=write_text(),
        voice_name="{{ params.voice_name }}",
        max_credits=100,
    )

    TalkingPhotoOperator(
        task_id="talking_photo",
        image_file_path="{{ params.photo }}",
        audio_file_path=voice.output["audio_file_path"],
        end_seconds=voice.output["duration_seconds"],
        resolution="480p",
        output_path="{{ params.output_path }}",
        max_credits="{{ params.max_credits }}",
    )
