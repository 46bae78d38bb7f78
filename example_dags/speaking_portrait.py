"""
A sentence becomes a portrait, a text becomes a voice, the portrait speaks, and the video gets subtitles.

A person approves the video, and then the last task downloads it. No task pays twice, however often it is
retried. The result of a task stays at Magic Hour, and the next task uses it from there. So no file is kept
here before the last task. The question to a person needs Airflow 3.1.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG

from magichour_provider.operators import (
    AutoSubtitleOperator,
    ImageGeneratorOperator,
    TalkingPhotoOperator,
    VoiceGeneratorOperator,
)
from magichour_provider.sensors import TalkingPhotoSensor

with DAG(
    "magichour_speaking_portrait",
    description="A sentence becomes a portrait that speaks, with subtitles, once a person has approved it",
    tags=["magichour", "example"],
    doc_md=__doc__,
    schedule=None,
    params={
        "portrait": "A portrait photo of a friendly engineer who looks into the camera",
        "text": "Good morning. The build is green, and the coffee is hot.",
        "voice_name": "Albert Einstein",
        "output_path": "/tmp/magichour_videos/",  # noqa: S108 (an example; yours is s3://conn_id@bucket/…)
    },
    default_args={"deferrable": True, "retries": 3, "retry_delay": timedelta(minutes=2)},
) as dag:
    portrait = ImageGeneratorOperator(
        task_id="portrait",
        prompt="{{ params.portrait }}",
        art_style="ai-photo-generator",
        estimated_credits=50,  # the vendor publishes no exact price
        max_credits=100,
    )

    voice = VoiceGeneratorOperator(
        task_id="voice",
        prompt="{{ params.text }}",
        voice_name="{{ params.voice_name }}",
        max_credits=100,
    )

    speaking = TalkingPhotoOperator(
        task_id="speaking",
        image_file_path=portrait.output["image_file_path"],
        audio_file_path=voice.output["audio_file_path"],
        end_seconds=voice.output["duration_seconds"],
        resolution="480p",
        max_credits=1000,
    )

    subtitled = AutoSubtitleOperator(
        task_id="subtitled",
        video_file_path=speaking.output["download_url"],
        end_seconds=speaking.output["duration_seconds"],
        template="karaoke",
    )

    approve = ApprovalOperator(
        task_id="approve",
        subject="Publish the speaking portrait of {{ ds }}?",
        body="Watch it under Browse, Magic Hour: it is the job of the task *subtitled*.",
        response_timeout=timedelta(days=2),
    )

    delivered = TalkingPhotoSensor(
        task_id="delivered",
        job_id=subtitled.output["job_id"],
        output_path="{{ params.output_path }}",
    )

    subtitled >> approve >> delivered
